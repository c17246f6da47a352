"""Saves pictures as PNG files: images side by side, and any matplotlib figure."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from experiments.runtime import cache

matplotlib.use("Agg")  # writes files only; needs no screen


def gallery(path: Path, title: str, columns: dict[str, np.ndarray]) -> None:
    """Draws images (N, H, W, C) side by side: one column per name, one row per example."""
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.3 * len(columns), 1.3 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=9)
        for row, image in enumerate(images):
            axes[row, column].imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
            axes[row, column].axis("off")
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    cache.write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
