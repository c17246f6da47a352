"""Query counts and storage of SPT.

Counts the queries of a BIM attack, detected by the buffer, that reach the classifier. The count
stands beside the exact one and eq. 2 as printed (section III-B). Storage follows section IV-F.
"""

from pathlib import Path

import jax

import spt_jax
from experiments.runtime.results import Row
from experiments.spt.attacks import Spec
from experiments.spt.defences import Decoy, Defence
from experiments.spt.lab import Lab, Measured

DECOY = Decoy("C4", "Td")


def measure(lab: Lab, folder: Path) -> Measured:
    return Measured(_queries(lab) + _stored(lab))


def _queries(lab: Lab) -> list[Row]:
    rows, config = [], lab.config
    for steps, length in ((40, 10), (100, 10), (100, 30)):
        spec = Spec("BIM", steps, 3e-4, target=config.target)
        for reset in ("periodic", "on_dissimilar"):
            system = f"buffer t={length}, {reset}"
            attacked = lab.attacked(spec, lab.buffer(DECOY, length=length, reset=reset), images=100)
            whole = attacked.queries == steps  # the others reach the target early
            asked = (attacked.queries - attacked.by_decoy)[whole]
            exact = spt_jax.classifier_queries(
                steps, length=length, patience=config.patience, reset=reset
            )
            n = int(whole.sum())
            rows.append(lab.row("extra/spt/queries", system, spec, "queries:measured",
                                asked.mean() if n else 0.0, n))  # fmt: skip
            rows.append(lab.row("extra/spt/queries", system, spec, "queries:exact", exact, n))
            if reset == "periodic":
                bound = length + config.patience + (steps // length - 2) * config.patience
                rows.append(lab.row("extra/spt/queries", system, spec, "queries:eq2", bound, n))
    return rows


def _stored(lab: Lab) -> list[Row]:
    rows = []
    # Section IV-F: "approximately 0.4 MB" for t = 100, with images in bytes, and 8.28 MB for C4.
    for system, defence, paper in (
        ("buffer t=10", lab.buffer(DECOY, length=10), None),
        ("buffer t=30", lab.buffer(DECOY, length=30), None),
        ("buffer t=100", lab.buffer(DECOY, length=100), 0.4e6),
        ("chain R=10", Defence("chain", DECOY), None),
        ("agreement", Defence("agreement", DECOY), None),
    ):
        size = spt_jax.state_bytes(lab.system(defence), lab.data.image_shape)
        rows.append(_storage(lab, system, size, paper))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(lab.decoy(DECOY).params))
    width = lab.config.width
    paper = 8.28e6 if width == "full" else None
    rows.append(_storage(lab, f"decoy {DECOY.network}, {width}", weights, paper))
    return rows


def _storage(lab: Lab, what: str, size: int, paper: float | None) -> Row:
    return lab.plain_row("extra/spt/storage", what, "none", "bytes", size, 1, paper)
