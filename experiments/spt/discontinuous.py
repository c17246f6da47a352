"""Tables X and XI: attacks that take turns over four images, against chains and agreement flags."""

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
# The captions', and a smaller one, at which a weak network is not lost altogether.
STEP_SIZES = (0.0013, 3e-4)
# The column headed "C4" is near 0.1 on clean images: a network trained on the true labels. Flags
# ask for one anyway.
DECOY = Decoy("C4", "Ts")


def chain(
    threshold_db: float, rule: str = "own", decoy: Decoy = DECOY, chain_length: int = 20
) -> Defence:
    """Section IV-D's chains: ten regions, twenty long, triggered above five."""
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
        # The paper's failure at 30 dB asks for heads older than twenty steps: chains that nothing
        # wipes would have them.
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
    """Success of the targeted attack on both bare networks, over all images."""
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
            # One column for both kinds of cutting: which it is stands in the system's name.
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
    """The accuracy of what a client gets who sends the test set, and the share deceived."""
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
    """(labels, deceived) of one client's stream of any length, each (N,)."""
    state, labels, deceived = system.init(images.shape[1:]), [], []
    for i in range(0, len(images), batch):
        state, answers = system.query_stream(state, jnp.asarray(images[i : i + batch]))
        labels.append(np.asarray(answers.label))
        deceived.append(np.asarray(answers.deceived))
    return np.concatenate(labels), np.concatenate(deceived)
