"""Pictures of table IX: what the comparator compares, and how similar images and standards are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import victims
from experiments.pipeline.attack_runs import Attacked
from experiments.report import figures
from experiments.victims import Victim

GALLERY_ROWS = 4


def galleries(
    folder: Path, attacked: Mapping[Any, Attacked], victim: Victim, standards: np.ndarray
) -> dict[str, Path]:
    """Draws clean and adversarial images beside the standard image of the label that the victim
    gives. Returns caption -> PNG, one per attack (an AttackSpec) that succeeded."""
    drawn = {}
    for spec, made in attacked.items():
        rows = np.flatnonzero(made.success)[:GALLERY_ROWS]
        if not len(rows):
            continue
        adversarial = made.images[rows]
        columns = {
            "clean": made.clean[rows],
            "adversarial": adversarial,
            "its label's standard": standards[victims.predict(victim, adversarial)],
        }
        path = folder / f"faces-{spec.name.lower()}.png"
        figures.gallery(path, spec.title, columns)
        drawn[f"{spec.title}: what the comparator compares"] = path
    return drawn


def histograms(
    path: Path,
    similarities: dict[str, dict[str, np.ndarray]],
    limits: dict[str, float],
) -> None:
    """Draws histograms of similarities: one row per group of images, one column per system, with
    the system's threshold.

    Args:
      similarities: system -> group -> (N,).
      limits: system -> its threshold.
    """
    groups = len(next(iter(similarities.values())))
    size = (3.6 * len(similarities), 1.0 * groups + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(groups, len(similarities), squeeze=False, sharex="col")
    for column, (name, values) in enumerate(similarities.items()):
        bins = np.linspace(min(v.min() for v in values.values()), 1, 40)
        axes[0, column].set_title(name, fontsize=9)
        axes[-1, column].set_xlabel("cosine")
        for line, (group, value) in enumerate(values.items()):
            panel = axes[line, column]
            panel.hist(value, bins, color="tab:blue" if group == "clean" else "tab:red")
            panel.axvline(limits[name], color="black", linewidth=1)
            panel.set_yticks([])
            panel.set_ylabel(group, fontsize=8)
    figures.save(figure, path)
