"""Pictures of attacks on systems that remember."""

from pathlib import Path

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from experiments.report.figures import save


def heat_map(path: Path, matrix: np.ndarray, names: list[str], what: str) -> None:
    """A rate for each network (lines) on what each network's attack made (columns)."""
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
    """What the copy (CS) tells the attacker and what the original (OS) says of the same image, by
    query; shaded by the share of images that the decoy answers about. Each (steps,)."""
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
    """Who answered each query (columns) about each image (lines): (steps, N) bool."""
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
    """The PSNR of each query and the one `length` before it, with the threshold."""
    figure = Figure(figsize=(6.5, 2.6), layout="constrained")
    panel = figure.subplots()
    finite = np.minimum(decibels[~np.isnan(decibels)].ravel(), 100.0)
    panel.hist(finite, bins=80, color="tab:blue", alpha=0.7)
    panel.axvline(threshold, color="tab:red", linewidth=1.2, label=f"T = {threshold:g} dB")
    panel.set(xlabel=f"PSNR of queries {length} apart, dB (at most 100)", ylabel="pairs")
    panel.legend(fontsize=8)
    save(figure, path)
