"""Curves of a CMAG run: scores as histograms, the ROC of the decision, training losses."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.cmag import detection_rows
from experiments.cmag.detection_rows import Scored
from experiments.pipeline.detectors import Scores
from experiments.report.figures import save

SCORE_TITLES = {"ssim": "1 - SSIM(x, x')", "l2": "||x - x'||", "pixels": "pixels rebuilt wrongly"}


def histograms(
    path: Path, clean: Scores, attacks: list[Scored], limits: dict[str, dict[str, float]]
) -> None:
    """Draws clean and adversarial scores with thresholds, one panel per attack and score."""
    made = [attack for attack in attacks if attack.n]
    figure = Figure(
        figsize=(3.5 * max(len(clean), 2), 1.5 * max(len(made), 1) + 0.8), layout="constrained"
    )
    axes = figure.subplots(max(len(made), 1), len(clean), squeeze=False, sharex="col")
    colours = ("black", "tab:red", "tab:orange", "tab:olive")
    for column, (name, clean_scores) in enumerate(clean.items()):
        everything = [clean_scores, *(attack.scores[name] for attack in made)]
        bins = np.linspace(min(s.min() for s in everything), max(s.max() for s in everything), 60)
        for row, attack in enumerate(made):
            panel = axes[row, column]
            panel.hist(clean_scores, bins, density=True, alpha=0.6, label="clean")
            panel.hist(attack.scores[name], bins, density=True, alpha=0.6, label="adversarial")
            for (rule, limit), colour in zip(limits.items(), colours, strict=False):
                panel.axvline(limit[name], color=colour, linewidth=1, label=rule)
            panel.set_yticks([])
            panel.set_ylabel(f"{attack.attack.name} {attack.attack.strength:g}", fontsize=8)
        axes[-1, column].set_xlabel(SCORE_TITLES.get(name, name))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=8)
    save(figure, path)


def roc(path: Path, clean: Scores, validation: Scores, attacks: list[Scored]) -> None:
    """Draws the ROC of the decision over all scores.

    The false-positive axis is logarithmic, because low rates matter most.
    """
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    panel = figure.subplots()
    for attack in attacks:
        if attack.n:
            pair = detection_rows.pooled(attack.scores, clean, validation, "any")
            fpr, tpr = detection_rows.roc(*pair)
            area, *_ = detection_rows.auroc(*pair)
            label = f"{attack.attack.name} {attack.attack.strength:g} (AUROC {area:.3f})"
            panel.plot(np.maximum(fpr, 1e-4), tpr, label=label, linewidth=1.3)
    for nominal in detection_rows.FPRS:
        panel.axvline(nominal, color="gray", linewidth=0.6, linestyle=":")
    panel.set(xscale="log", xlim=(1e-3, 1), ylim=(0, 1.02))
    panel.set(xlabel="share of clean images flagged", ylabel="share of adversarial images flagged")
    if panel.lines:
        panel.legend(fontsize=8)
    save(figure, path)


def losses(path: Path, curves: dict[str, np.ndarray]) -> None:
    """Draws the mean training loss by epoch, one line per module."""
    figure = Figure(figsize=(5.5, 3.2), layout="constrained")
    panel = figure.subplots()
    for name, values in curves.items():
        panel.plot(np.arange(1, len(values) + 1), values, label=name, marker=".")
    positive = all(np.nanmin(values) > 0 for values in curves.values())  # a critic's loss is not
    scale = "log" if positive else "linear"
    panel.set(xlabel="epoch", ylabel="mean loss", yscale=scale)
    panel.legend()
    save(figure, path)
