"""Figures of attacks on stateful systems."""

from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from experiments.report.figures import save


def heat_map(path: Path, matrix: np.ndarray, names: list[str], what: str) -> None:
    """Draws a rate for each network (rows) on the attacks on each network (columns)."""
    figure = Figure(figsize=(0.9 * len(names) + 1.6, 0.7 * len(names) + 1.4), layout="constrained")
    panel = figure.subplots()
    shown = panel.imshow(matrix, cmap="viridis", vmin=0, vmax=1)
    for (line, column), value in np.ndenumerate(matrix):
        colour = "black" if value > 0.6 else "white"
        panel.text(column, line, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    panel.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set(xlabel="attacked", ylabel="judged by")
    figure.colorbar(shown, label=what, shrink=0.8)
    save(figure, path)


def curves(path: Path, cs: np.ndarray, os: np.ndarray, deceived: np.ndarray, what: str) -> None:
    """Draws by query the packaged classifier's answer to the attacker (CS) and the original
    classifier's answer about the same image (OS). Bars show the share of images for which the decoy
    answers. Each (steps,)."""
    figure = Figure(figsize=(6.5, 3.2), layout="constrained")
    panel = figure.subplots()
    queries = np.arange(1, len(cs) + 1)
    panel.bar(queries, deceived, width=1.0, color="tab:orange", alpha=0.25, label="decoy answers")
    panel.plot(queries, cs, color="tab:red", label="CS: what the attacker sees")
    panel.plot(queries, os, color="tab:blue", label="OS: what is")
    panel.set(xlabel="query", ylabel=what, ylim=(0, 1.02), xlim=(0.5, len(cs) + 0.5))
    panel.legend(fontsize=8)
    save(figure, path)


def strip(path: Path, deceived: np.ndarray) -> None:
    """Draws who answered each query (columns) about each image (rows): (steps, N) bool."""
    steps, images = deceived.shape
    figure = Figure(figsize=(6.5, 0.9 + 0.06 * images), layout="constrained")
    panel = figure.subplots()
    colours = ListedColormap(["#d8e3ee", "tab:orange"])
    extent = (0.5, steps + 0.5, images, 0)
    panel.imshow(
        deceived.T, aspect="auto", cmap=colours, vmin=0, vmax=1, extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    panel.set(xlabel="query (orange: the decoy answered)", ylabel="image")
    save(figure, path)


def likeness(path: Path, decibels: np.ndarray, threshold: float, length: int) -> None:
    """Draws a histogram of the PSNR between queries `length` apart, with the threshold."""
    figure = Figure(figsize=(6.5, 2.6), layout="constrained")
    panel = figure.subplots()
    finite = np.minimum(decibels[~np.isnan(decibels)].ravel(), 100.0)
    panel.hist(finite, bins=80, color="tab:blue", alpha=0.7)
    panel.axvline(threshold, color="tab:red", linewidth=1.2, label=f"T = {threshold:g} dB")
    panel.set(xlabel=f"PSNR of queries {length} apart, dB (at most 100)", ylabel="pairs")
    panel.legend(fontsize=8)
    save(figure, path)
