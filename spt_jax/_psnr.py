"""How alike two images are: SPT, eq. 1."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spt_jax._checks import check_floats, check_positive, describe, is_traced


def psnr(a: jax.Array, b: jax.Array, max_pixel: float = 1.0) -> jax.Array:
    """The peak signal-to-noise ratio in dB: 10 log10(max_pixel^2 / mean squared error).

    SPT, section III-B, eq. 1, whose square of differences is read as its mean.

    Args:
      a, b: (..., H, W, C) floats, or whole numbers (uint8, say), which are taken for floats; what
        stands before H may broadcast.
      max_pixel: the largest value that a pixel can have: 1, or 255 for images that are not
        normalised.

    Returns:
      (...): one value an image; infinite where the two are equal.

    Raises:
      ValueError: max_pixel not above 0; images that are no numbers, not finite, or of other (H, W,
        C) than each other; whole numbers with max_pixel=1.
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
    peak = 20 * jnp.log10(jnp.asarray(max_pixel, jnp.float32))  # whose square may not be a float32
    return peak - 10 * jnp.log10(mean_squared_error(a, b))


def _as_floats(images: Any, max_pixel: Any) -> jax.Array:
    """Whole numbers as float32: their differences would wrap around."""
    if not hasattr(images, "dtype") or not jnp.issubdtype(images.dtype, jnp.integer):
        return images
    if not is_traced(max_pixel) and max_pixel == 1:
        raise ValueError(
            f"expected max_pixel (255, say) with whole numbers, got {describe(images)}"
        )
    return jnp.asarray(images, jnp.float32)


def mean_squared_error(a: jax.Array, b: jax.Array) -> jax.Array:
    """(..., H, W, C) and its like -> (...)."""
    # As one axis: on a CPU the mean over three is seven times slower.
    a, b = (x.reshape(*x.shape[:-3], math.prod(x.shape[-3:])) for x in (a, b))
    return jnp.mean(jnp.square(a - b), axis=-1)


def largest_error(threshold_db: Any) -> jax.Array:
    """The mean squared error of two images in [0, 1] that are just as alike as the threshold
    (in dB) says: at 35 dB 3.162e-4. Comparing errors needs no logarithm, and no care for 0."""
    return 10.0 ** (-jnp.asarray(threshold_db, jnp.float32) / 10)
