"""The pictures of a CMAG run: the paper's figures 2 to 6, scores, ROC and training losses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmag_jax import cmag
from experiments.cmag import curves, paper_values
from experiments.cmag.detection_rows import Clean, Scored
from experiments.datasets import Dataset
from experiments.pipeline.attack_runs import Attacked, AttackSpec
from experiments.pipeline.detectors import DetectorName, FittedDetector, Thresholds, slug
from experiments.report import figures

ROWS = 6  # examples in a gallery
SHOWN = {"FGSM": 0.3, "CW-l2": 19.0}  # figure 2's strengths


@dataclass(frozen=True)
class Outcome:
    """A fitted system, its scores and its thresholds."""

    system: FittedDetector
    clean: Clean
    scored: list[Scored]
    limits: dict[str, Thresholds]


def draw(
    folder: Path,
    data: Dataset,
    attacked: dict[AttackSpec, Attacked],
    outcomes: dict[DetectorName, Outcome],
    variants: dict[str, FittedDetector],
) -> dict[str, Path]:
    """Draws everything into the folder; returns caption -> path."""
    pictures = {}
    strongest = {  # per attack of figure 2, its strength or the nearest one that succeeds
        name: min(specs, key=lambda s: abs(s.strength - SHOWN[name]))
        for name in SHOWN
        if (specs := [s for s in attacked if s.name == name and attacked[s].success.any()])
    }
    if strongest:
        path = folder / "figure-2.png"
        figures.gallery(path, f"{data.name}: figure 2", _side_by_side(attacked, strongest))
        pictures["Figure 2: legitimate and adversarial images"] = path
    for name, spec in strongest.items():
        images = attacked[spec].adversarial[:ROWS]
        columns = {spec.title: images} | dict(_rebuilt(outcomes, images))
        path = folder / f"figure-3-{name.lower()}.png"
        figures.gallery(path, f"{data.name}: figure 3", columns)
        pictures[f"Figure 3: {spec.title}, and what each detector rebuilds of it"] = path
        if variants:
            path = folder / f"figures-4-to-6-{name.lower()}.png"
            figures.gallery(path, f"{data.name}: figures 4 to 6", _ablated(variants, spec, images))
            caption = f"Figures 4 to 6: {spec.title}, what LR, FMR and GR make of it"
            pictures[caption] = path
    for name, outcome in outcomes.items():
        of_paper = [m for m in outcome.scored if m.attack.name in paper_values.ATTACKS]
        scores, roc, losses = (
            folder / f"{kind}-{slug(name)}.png" for kind in ("scores", "roc", "losses")
        )
        test, validation = outcome.clean.test, outcome.clean.validation
        curves.histograms(scores, test, of_paper, outcome.limits)
        pictures[f"{name}: scores of clean test images and of adversarial ones"] = scores
        curves.roc(roc, test, validation, of_paper)
        pictures[f"{name}: ROC of the decision over all its scores"] = roc
        if outcome.system.losses:
            curves.losses(losses, outcome.system.losses)
            pictures[f"{name}: training losses"] = losses
    return pictures


def _side_by_side(attacked, chosen: dict[str, AttackSpec]) -> dict[str, np.ndarray]:
    """Returns images on which all chosen attacks succeed, or else those of the first attack."""
    made = [attacked[spec] for spec in chosen.values()]
    count = min(len(m.success) for m in made)
    rows = np.flatnonzero(np.all([m.success[:count] for m in made], axis=0))[:ROWS]
    if not len(rows):
        rows = np.flatnonzero(made[0].success[:count])[:ROWS]
    columns = {"legitimate": made[0].clean[rows]}
    return columns | {spec.title: attacked[spec].images[rows] for spec in chosen.values()}


def _rebuilt(
    outcomes: dict[DetectorName, Outcome], images: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    for name, outcome in outcomes.items():
        rebuilt = outcome.system.rebuild(images)
        if rebuilt is not None:
            yield name, rebuilt


def _ablated(
    variants: dict[str, FittedDetector], spec: AttackSpec, images: np.ndarray
) -> dict[str, np.ndarray]:
    columns = {spec.title: images}
    for name, system in variants.items():
        seen = cmag.reconstruct(system.victim.features_and_logits, system.params, images)
        if "average" in name:
            columns["CMAG GR, average"] = np.asarray(seen.gr)
        else:
            columns |= {f"{name} {m.upper()}": np.asarray(getattr(seen, m)) for m in _MODULES}
    return columns


_MODULES = ("lr", "fmr", "gr")
