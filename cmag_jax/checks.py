"""Checks at the library's edge, in words that name what was expected and what came."""

import jax
import numpy as np


def check_images(images, image_shape: tuple[int, ...] | None = None) -> None:
    """Raises ValueError unless images are (B, H, W, C) float32 in [0, 1].

    Traced images can be checked for shape and type only.
    """
    expected = f"expected images (B, {', '.join(map(str, image_shape or 'HWC'))}) in [0, 1]"
    right_shape = np.ndim(images) == 4 and (
        image_shape is None or tuple(images.shape[1:]) == tuple(image_shape)
    )
    traced = isinstance(images, jax.core.Tracer)
    dtype = getattr(images, "dtype", None)
    if right_shape and dtype == np.float32 and (traced or _in_unit_range(images)):
        return
    came = f"{dtype or type(images).__name__} {tuple(np.shape(images))}"
    if not traced and dtype is not None and images.size:
        came += f" with min {float(images.min()):.6g}, max {float(images.max()):.6g}"
    raise ValueError(f"{expected}, got {came}")


def _in_unit_range(images) -> bool:
    """Whether all pixels lie in [0, 1]: the comparisons are false for NaN."""
    return not images.size or bool(images.min() >= 0 and images.max() <= 1)
