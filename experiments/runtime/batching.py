"""Applies a function to any number of rows in batches of one size, so that it compiles once."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from experiments.runtime import cache

Arrays = dict[str, np.ndarray]


def map_batches(
    function: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    count: int,
    size: int,
    *,
    axes: Mapping[str, int] | None = None,
    file: Callable[[int], Path] | None = None,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Arrays:
    """Returns the function's results for rows 0 to `count` - 1, joined.

    Args:
      function: row numbers (size,) -> {name: array with an axis of that length}. Repeats of
        its own rows pad the last batch; their results are dropped.
      count: at least 1.
      axes: name -> the axis of the rows; 0 for missing names.
      file: the first row of a batch -> the .npz file that keeps its results. If the file exists,
        the batch is read, not computed.
      on_batch: called after each batch with the number of its rows.
    """
    axes = axes or {}
    parts = []
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))

        def compute(rows=rows) -> Arrays:
            found = function(np.resize(rows, size))
            return {
                name: np.take(values, np.arange(len(rows)), axis=axes.get(name, 0))
                for name, values in found.items()
            }

        parts.append(cache.arrays(file(start), compute) if file else compute())
        on_batch(len(rows))
    return {
        name: np.concatenate([part[name] for part in parts], axis=axes.get(name, 0))
        for name in parts[0]
    }


def map_images(
    function: Callable[[np.ndarray], np.ndarray], images: np.ndarray, size: int
) -> np.ndarray:
    """Returns function(images) for images (N, ...), in batches (B, ...); N is at least 1."""
    size = min(size, len(images))
    return map_batches(lambda rows: {"of": function(images[rows])}, len(images), size)["of"]
