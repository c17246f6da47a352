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
    if right_shape and getattr(images, "dtype", None) == np.float32:
        # The comparisons are false for NaN, so NaN and infinities fail here too.
        if traced or not images.size or (images.min() >= 0 and images.max() <= 1):
            return
    came = f"{getattr(images, 'dtype', type(images).__name__)} {tuple(np.shape(images))}"
    if not traced and hasattr(images, "dtype") and images.size:
        came += f" with min {float(images.min()):.6g}, max {float(images.max()):.6g}"
    raise ValueError(f"{expected}, got {came}")
