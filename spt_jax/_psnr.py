"""The similarity of two images as their PSNR: SPT, eq. 1."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spt_jax._checks import check_floats, check_positive, describe, is_traced


def psnr(a: jax.Array, b: jax.Array, max_pixel: float = 1.0) -> jax.Array:
    """The peak signal-to-noise ratio in dB: 10 log10(max_pixel^2 / mean squared error).

    SPT, section III-B, eq. 1. We read its squared difference as the mean squared error.

    Args:
      a, b: (..., H, W, C) floats, or whole numbers (such as uint8), which are cast to float32. The
        axes before H broadcast.
      max_pixel: the largest possible value of a pixel: 1, or 255 for images that are not
        normalised.

    Returns:
      (...): one value per image; infinite if the two images are equal.

    Raises:
      ValueError: max_pixel not above 0; images that are not numbers, not finite, or of different
        (H, W, C); whole numbers with max_pixel=1.
    """
    check_positive(max_pixel=max_pixel)
    a, b = (_as_floats(images, max_pixel) for images in (a, b))
    check_floats(a, b)
    try:
        np.broadcast_shapes(a.shape[:-3], b.shape[:-3])
        alike = a.shape[-3:] == b.shape[-3:] and 0 not in a.shape[-3:]
    except ValueError:
        alike = False
    if not alike:
        raise ValueError(f"expected images of one (H, W, C), got {a.shape} and {b.shape}")
    peak = 20 * jnp.log10(jnp.asarray(max_pixel, jnp.float32))  # peak**2 may overflow
    return peak - 10 * jnp.log10(mean_squared_error(a, b))


def _as_floats(images: Any, max_pixel: Any) -> jax.Array:
    """Casts whole numbers to float32, because their differences would wrap around."""
    if not hasattr(images, "dtype") or not jnp.issubdtype(images.dtype, jnp.integer):
        return images
    if not is_traced(max_pixel) and max_pixel == 1:
        raise ValueError(
            f"expected max_pixel (255, say) with whole numbers, got {describe(images)}"
        )
    return jnp.asarray(images, jnp.float32)


def mean_squared_error(a: jax.Array, b: jax.Array) -> jax.Array:
    """The mean squared error (...) of images a and b (..., H, W, C)."""
    # Flattened: on a CPU the mean over three axes is seven times slower.
    a, b = (x.reshape(*x.shape[:-3], math.prod(x.shape[-3:])) for x in (a, b))
    return jnp.mean(jnp.square(a - b), axis=-1)


def largest_error(threshold_db: Any) -> jax.Array:
    """The mean squared error of images in [0, 1] whose PSNR equals the threshold (in dB): 3.162e-4
    at 35 dB. Comparing errors needs no logarithm and no special case for 0."""
    return 10.0 ** (-jnp.asarray(threshold_db, jnp.float32) / 10)
