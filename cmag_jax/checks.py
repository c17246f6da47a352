"""Checks at the library's edge, in words that name what was expected and what came."""

import math
from typing import Any

import jax
import numpy as np


def check_images(
    images, image_shape: tuple[int, ...] | None = None, *, at_least: int = 0, what: str = "images"
) -> None:
    """Raises ValueError unless images are (B, H, W, C) float32 in [0, 1], and at least so many.

    Traced images can be checked for shape and type only.
    """
    expected = f"expected {what} (B, {', '.join(map(str, image_shape or 'HWC'))}) in [0, 1]"
    right_shape = np.ndim(images) == 4 and (
        image_shape is None or np.shape(images)[1:] == tuple(image_shape)
    )
    dtype, values = getattr(images, "dtype", None), _value_range(images)
    in_range = values is None or 0 <= values[0] <= values[1] <= 1  # NaN is in no interval
    if right_shape and dtype == np.float32 and in_range:
        if at_least and len(images) < at_least:
            raise ValueError(f"expected at least {at_least} {what}, got {len(images)}")
        return
    came = f"{dtype or type(images).__name__} {tuple(np.shape(images))}"
    if values:
        came += f" with min {values[0]:.6g}, max {values[1]:.6g}"
    raise ValueError(f"{expected}, got {came}")


def check_counts(config: Any, *names: str) -> None:
    """Raises ValueError unless these options are whole numbers of at least 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1, got {value!r}")


def check_above_zero(config: Any, *names: str) -> None:
    """Raises ValueError unless these options are finite and above 0."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"expected a finite {name} above 0, got {getattr(config, name)}")


def check_sequence(config: Any, *names: str) -> None:
    """Raises ValueError unless these options are lists or tuples."""
    for name in names:
        if not isinstance(getattr(config, name), list | tuple):
            raise ValueError(f"expected {name} to be a tuple, got {getattr(config, name)!r}")


def _value_range(images) -> tuple[float, float] | None:
    """(lowest, highest) pixel, NaN where there is one; None where it can't be known."""
    if isinstance(images, jax.core.Tracer) or not hasattr(images, "dtype") or not images.size:
        return None
    with jax.ensure_compile_time_eval():  # also of a constant inside somebody's jit
        return images.min().item(), images.max().item()
