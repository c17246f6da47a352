"""Tables X and XI: attacks that interleave four images, against chains and agreement flags."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

import spt_jax
from experiments.runtime.results import Row
from experiments.spt import paper_values
from experiments.spt.attacks import Spec
from experiments.spt.defences import NONE, Decoy, Defence
from experiments.spt.lab import CLASSIFIER, Lab, Measured
from experiments.victims import predict

STEPS, TURNS = 40, 4  # A0, B0, C0, D0, A1, ...
# The captions' step size, and a smaller one that does not break a weak network completely.
STEP_SIZES = (0.0013, 3e-4)
# The paper's column "C4" is near 0.1 on clean images, so its C4 was trained on the true labels.
# Agreement flags need such a decoy anyway.
DECOY = Decoy("C4", "Ts")


def chain(
    threshold_db: float, rule: str = "own", decoy: Decoy = DECOY, chain_length: int = 20
) -> Defence:
    """Returns section IV-D's chains: 10 regions, chains of length 20, triggered above 5."""
    options = {"regions": 10, "chain_length": chain_length, "trigger": 5}
    options |= {"threshold_db": threshold_db, "rule": rule}  # type: ignore[dict-item]
    return Defence("chain", decoy, tuple(sorted(options.items())))


def flags(rule: str) -> Defence:
    return Defence("agreement", DECOY, (("rule", rule),))


def measure_x(lab: Lab, folder: Path) -> Measured:
    cases = {
        "none, CUT": (NONE, True),
        "none": (NONE, False),
        "chain": (chain(30.0), False),
        "chain 25 dB, CUT": (chain(25.0), True),
        "chain 30 dB, CUT": (chain(30.0), True),
        "chain (any) 25 dB, CUT": (chain(25.0, "any"), True),
        # The paper's failure at 30 dB requires heads older than 20 steps. Chains that are never
        # wiped have them.
        "chain 25 dB, unwiped, CUT": (chain(25.0, chain_length=10_000), True),
        "chain 30 dB, unwiped, CUT": (chain(30.0, chain_length=10_000), True),
        "buffer, CUT": (lab.buffer(DECOY), True),
    }
    printed = paper_values.INTERLEAVED | paper_values.CHAINS
    rows = _rows(lab, "spt/X", cases, printed)
    rows += _clean_streams(lab, "spt/X", {"chain": chain(30.0), "chain 25 dB": chain(25.0)})
    return Measured(rows)


def measure_xi(lab: Lab, folder: Path) -> Measured:
    cases = {
        "none, CUT": (NONE, True),
        "none": (NONE, False),
        "and, CUT": (flags("and"), True),
        "or, CUT": (flags("or"), True),
    }
    printed = paper_values.INTERLEAVED | paper_values.FLAGS
    rows = _rows(lab, "spt/XI", cases, printed)
    rows += _clean_streams(lab, "spt/XI", {"and": flags("and"), "or": flags("or")})
    return Measured(rows)


def _rows(lab: Lab, table: str, cases: dict[str, tuple[Defence, bool]], printed: dict) -> list[Row]:
    """Returns the success rates of the targeted attack on both bare networks, over all images."""
    judges = {CLASSIFIER: lab.network(CLASSIFIER), "C4": lab.network("C4")}
    rows = []
    for column, (name, victim) in enumerate(judges.items()):
        of_target = (predict(victim, lab.data.test.images) == lab.config.target).mean()
        rows.append(
            lab.plain_row(table, "clean", "none", f"attack_success_rate_all:{name}", of_target,
                          len(lab.data.test), printed["clean"][column])
        )  # fmt: skip
    for size in lab.sizes(*STEP_SIZES):
        for title, (defence, cut) in cases.items():
            spec = lab.spec("BIM", STEPS, size, target=lab.config.target, cut=cut, turns=TURNS)
            attacked = lab.attacked(spec, defence)
            # Cut and uncut attacks share a column: the system's name tells them apart.
            named = Spec("BIM", spec.steps, spec.step_size, target=spec.target, turns=TURNS)
            n = len(attacked.images)
            for column, (name, victim) in enumerate(judges.items()):
                rate = lab.rate(predict(victim, attacked.images), lab.truth(attacked), spec)
                values = printed.get(title) if size == STEP_SIZES[0] else None
                rows.append(
                    lab.row(table, title, named, f"attack_success_rate_all:{name}", rate, n,
                            values[column] if values else None)
                )  # fmt: skip
            asked = attacked.queries.sum()
            rows.append(
                lab.row(table, title, named, "deceived", attacked.by_decoy.sum() / asked, n)
            )
    return rows


def _clean_streams(lab: Lab, table: str, defences: dict[str, Defence]) -> list[Row]:
    """Returns the accuracy of the answers to a client that sends the test set, and the share of
    them that the decoy gave."""
    rows = []
    test = lab.data.test
    for title, defence in defences.items():
        labels, deceived = stream(lab.system(defence), test.images)
        for metric, value in {
            "accuracy:test": (labels == test.labels).mean(),
            "deceived": deceived.mean(),
        }.items():
            rows.append(lab.plain_row(table, title, "none", metric, value, len(test)))
    return rows


def stream(
    system: spt_jax.System, images: np.ndarray, batch: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (labels, deceived), each (N,), of one client's stream of N images."""
    state, labels, deceived = system.init(images.shape[1:]), [], []
    for i in range(0, len(images), batch):
        state, answers = system.query_stream(state, jnp.asarray(images[i : i + batch]))
        labels.append(np.asarray(answers.label))
        deceived.append(np.asarray(answers.deceived))
    return np.concatenate(labels), np.concatenate(deceived)
