"""The structural similarity of two images: global (CMAG, eq. 6-10) and windowed (Wang et al.).

Both compare images (..., H, W, C) in [0, 1] per channel and average over the channels. The result
is (...), at most 1, and 1 only for equal images. Both are differentiable everywhere.
"""

import functools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax._checks import check_same_images

# The constants of Wang et al. (2004) for pixels in [0, 1]; the CMAG paper states none.
C1 = 0.01**2
C2 = 0.03**2

WINDOW = 11  # pixels across the Gaussian window
SIGMA = 1.5  # its standard deviation


def global_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """SSIM with statistics over the whole image: CMAG, eq. 6-10 with alpha = beta = gamma = 1.

    Variances and the covariance divide by N - 1, which eq. 7 misprints. With c3 = c2 / 2, contrast
    times structure becomes (2 cov + c2) / (var_a + var_b + c2), which has no square root and has
    finite gradients for constant images. Eq. 9 prints the structure as (2 cov + c3) /
    (sd_a sd_b + c3), which exceeds 1 for equal images; the factor 2 is a misprint.

    Args:
      a, b: (..., H, W, C) floats in [0, 1], of equal shape, at least two pixels.

    Raises:
      ValueError: images of the wrong shape, type or range.
    """
    check_same_images(a, b)
    pixels = a.shape[-3] * a.shape[-2]
    if pixels < 2:
        raise ValueError(f"expected images of at least two pixels, got {np.shape(a)}")
    mean_a, mean_b = (jnp.mean(x, axis=(-3, -2)) for x in (a, b))
    centred_a, centred_b = a - mean_a[..., None, None, :], b - mean_b[..., None, None, :]

    def covariance(x, y):
        return jnp.sum(x * y, axis=(-3, -2)) / (pixels - 1)

    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    variances = covariance(centred_a, centred_a) + covariance(centred_b, centred_b)
    contrast_structure = (2 * covariance(centred_a, centred_b) + C2) / (variances + C2)
    return jnp.mean(luminance * contrast_structure, axis=-1)


def windowed_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """The mean SSIM over 11x11 Gaussian windows (Wang et al., 2004), 'valid' at the border.

    This is `dm_pix.ssim` with the blur as two products with band matrices. The numbers are the
    same, and it is ten times faster on a CPU.

    Args:
      a, b: (..., H, W, C) floats in [0, 1], of equal shape, H and W at least 11.

    Raises:
      ValueError: images of the wrong shape, type or range; images smaller than the window, for
        which the blur is not defined.
    """
    check_same_images(a, b)
    height, width = a.shape[-3:-1]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"expected images of at least {WINDOW}x{WINDOW} pixels for the windowed SSIM,"
            f" got {height}x{width}; use the global SSIM for smaller ones"
        )
    down, across = _gaussian_band(height), _gaussian_band(width)

    def blur(x):
        x = jnp.einsum("ph,...hwc->...pwc", down, x, precision="highest")
        return jnp.einsum("qw,...pwc->...pqc", across, x, precision="highest")

    return dm_pix.ssim(a, b, filter_fn=blur)


SSIM = {"global": global_ssim, "windowed": windowed_ssim}


@functools.cache
def _gaussian_band(size: int) -> np.ndarray:
    """(size - 10, size): row i has the normalised Gaussian window that starts at pixel i."""
    offsets = np.arange(WINDOW) - (WINDOW - 1) / 2
    window = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    window /= window.sum()
    band = np.zeros((size - WINDOW + 1, size), np.float32)
    for row in range(len(band)):
        band[row, row : row + WINDOW] = window
    return band
