"""Stateless input filters, the baselines of SPT's table VIII: median smoothing and JPEG."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spt_jax._automaton import Images
from spt_jax._checks import check_choice, check_counts, check_floats, check_images, describe

ROUNDINGS = ("straight-through", "exact", "smooth")

# Tables K.1 and K.2 of ITU-T T.81, which libjpeg scales by the quality.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)
_NEUTRAL = np.array([0.0, 128.0, 128.0], np.float32)  # gray, as (Y, Cb, Cr)

_FREQUENCIES, _POSITIONS = np.mgrid[:8, :8]
_DCT = np.cos((2 * _POSITIONS + 1) * _FREQUENCIES * np.pi / 16) / 2
_DCT[0] /= np.sqrt(2)  # makes the matrix orthonormal


def median_smooth(images: Images, size: int = 2) -> Images:
    """The median of the size x size window around every pixel, per channel.

    This is feature squeezing (Xu, Evans and Qi, "Feature Squeezing", NDSS 2018, section II-B), the
    SPT paper's MedianSmoothing. It equals `scipy.ndimage.median_filter` with mode="reflect". Edge
    pixels are repeated. A window of even size extends one pixel further up and left. The median of
    an even number of pixels is the larger of the two middle ones.

    Args:
      images: (B, H, W, C) float32.
      size: the window's side in pixels; the feature-squeezing paper uses 2 or 3.

    Returns:
      (B, H, W, C). The gradient goes to the pixel that is the median, in equal shares to equal
      pixels.

    Raises:
      ValueError: a size below 1, or larger than the images; images that are not finite floats.
    """
    check_counts(size=size)
    _check_batch(images)
    height, width = images.shape[1:3]
    if size > min(height, width):
        raise ValueError(f"expected size of at most the images' {height} x {width}, got {size}")
    before, after = size // 2, (size - 1) // 2
    padded = jnp.pad(images, ((0, 0), (before, after), (before, after), (0, 0)), mode="symmetric")
    windows = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    median = lax.stop_gradient(_median(windows))
    # The gradient of the min-max network takes minutes to compile, so it is written by hand: it
    # goes to the pixels that equal the median.
    taken = [lax.stop_gradient(pixel) == median for pixel in windows]
    through = [
        jnp.where(t, p - lax.stop_gradient(p), 0) for t, p in zip(taken, windows, strict=True)
    ]
    return median + sum(through) / sum(taken)


def _check_batch(images: Images) -> None:
    check_floats(images)
    if images.ndim != 4:
        raise ValueError(f"expected images (B, H, W, C), got {describe(images)}")


def _median(ranked: list[jax.Array]) -> jax.Array:
    """The median by a partial bubble sort: it moves the largest to the end, then the second
    largest, and so on down to the median. It works on whole images, many times faster on a CPU than
    sorting every window."""
    ranked, middle = list(ranked), len(ranked) // 2
    for last in range(len(ranked) - 1, middle - 1, -1):
        for i in range(last):
            low, high = ranked[i], ranked[i + 1]
            ranked[i], ranked[i + 1] = jnp.minimum(low, high), jnp.maximum(low, high)
    return ranked[middle]


def jpeg(images: Images, quality: int = 75, rounding: str = "straight-through") -> Images:
    """Differentiable JPEG compression and decompression: the SPT paper's JPEGFilter.

    It follows libjpeg (Pillow's codec): 8-bit YCbCr, colours halved in both directions (4:2:0), 8x8
    cosine transforms, the standard's tables scaled by the quality, and decompression with
    interpolated colours. The result differs from libjpeg, which computes in integers, by a fraction
    of a gray level on average. If two quantisation steps are equally near, it sometimes differs by
    one step.

    Args:
      images: (B, H, W, C) float32 in [0, 1]; C is 1 (gray) or 3 (RGB), any H and W.
      quality: 1 to 100, as in libjpeg; 75 is Pillow's default.
      rounding: the gradient of rounding. "straight-through": 1. "exact": 0, the true gradient.
        "smooth": that of round(x) + (x - round(x))^3 (Shin and Song, "JPEG-resistant Adversarial
        Images", 2017), which also replaces the rounded coefficients in the forward pass.

    Returns:
      (B, H, W, C) float32 in [0, 1], with 8-bit values.

    Raises:
      ValueError: an unknown quality, rounding or number of channels; images of the wrong shape,
        type or range.
    """
    check_counts(quality=quality)
    check_images(images, rank=4)
    check_choice(rounding=(rounding, ROUNDINGS))
    if quality > 100:
        raise ValueError(f"expected quality in 1 ... 100, got {quality}")
    height, width, channels = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"expected images (B, H, W, 1) or (B, H, W, 3), got {images.shape}")
    # Rounding to gray levels is too fine for "smooth" to matter; only "exact" stops its gradient.
    fine = partial(_round, rounding="exact" if rounding == "exact" else "straight-through")
    code = partial(_quantise, quality=quality, fine=fine, coarse=partial(_round, rounding=rounding))

    pixels = fine(images * 255)
    if channels == 1:
        gray = code(_pad(pixels[..., 0], 8), _LUMINANCE)[:, :height, :width]
        return jnp.clip(fine(gray), 0, 255)[..., None] / 255

    ycc = fine(_colours(pixels, _TO_YCC) + _NEUTRAL)
    planes = [code(_pad(ycc[..., 0], 16), _LUMINANCE)[:, :height, :width]]
    for plane in (ycc[..., 1], ycc[..., 2]):
        small = code(fine(_halve(_pad(plane, 16))), _CHROMINANCE)
        small = small[:, : (height + 1) // 2, : (width + 1) // 2]
        planes.append(_double(small)[:, :height, :width])
    decoded = jnp.clip(fine(jnp.stack(planes, axis=-1)), 0, 255) - _NEUTRAL
    return jnp.clip(fine(_colours(decoded, np.linalg.inv(_TO_YCC))), 0, 255) / 255


def _quantise(plane, table, *, quality, fine, coarse) -> jax.Array:
    """Rounds the DCT coefficients of a plane (B, H, W) in [0, 255], H and W multiples of 8, and
    transforms back."""
    batch, height, width = plane.shape
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.clip((table * scale + 50) // 100, 1, 255).astype(np.float32)
    steps = steps[:, None, :]  # coefficients are (B, H / 8, 8, W / 8, 8)
    blocks = (plane - 128).reshape(batch, height // 8, 8, width // 8, 8)
    # libjpeg's integer transform has a precision of 1/8. Images that were JPEGs before have many
    # coefficients half-way between two steps, and this precision decides their rounding.
    coefficients = fine(_transform(blocks, _DCT) * 8) / 8
    coefficients = coarse(coefficients / steps) * steps
    return _transform(coefficients, _DCT.T).reshape(plane.shape) + 128


def _transform(blocks: jax.Array, matrix: np.ndarray) -> jax.Array:
    """matrix @ block @ matrix.T for each block."""
    matrix = matrix.astype(np.float32)
    highest = lax.Precision.HIGHEST  # lower precision on accelerators rounds differently
    return jnp.einsum("ui,bhiwj,vj->bhuwv", matrix, blocks, matrix, precision=highest)


def _round(x: jax.Array, rounding: str) -> jax.Array:
    # Halves round away from zero, as in libjpeg. Flat blocks have many; 1e-5 absorbs float32 error.
    nearest = jnp.trunc(x + jnp.sign(x) * (0.5 + 1e-5))
    if rounding == "straight-through":
        return x + lax.stop_gradient(nearest - x)
    return nearest + (x - nearest) ** 3 if rounding == "smooth" else nearest


def _colours(pixels: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.matmul(pixels, matrix.T.astype(np.float32), precision=lax.Precision.HIGHEST)


def _pad(plane: jax.Array, multiple: int) -> jax.Array:
    """Repeats the last row and column of (B, H, W) up to a multiple."""
    missing = [(0, -n % multiple) for n in plane.shape[1:]]
    return jnp.pad(plane, [(0, 0), *missing], mode="edge")


def _halve(plane: jax.Array) -> jax.Array:
    """The means of 2x2 pixels with whole values. When rounded, halves go down in one column and up
    in the next, as in libjpeg."""
    batch, height, width = plane.shape
    means = plane.reshape(batch, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    return means - np.where(np.arange(width // 2) % 2, 0, 0.25).astype(np.float32)


def _double(plane: jax.Array) -> jax.Array:
    """libjpeg's "fancy" upsampling: 3/4 of the nearer sample, 1/4 of the next one, edges
    repeated."""
    for axis in (1, 2):
        size = plane.shape[axis]
        padded = jnp.pad(plane, [(int(a == axis),) * 2 for a in range(3)], mode="edge")
        before = lax.slice_in_dim(padded, 0, size, axis=axis)
        after = lax.slice_in_dim(padded, 2, size + 2, axis=axis)
        pairs = jnp.stack([0.75 * plane + 0.25 * before, 0.75 * plane + 0.25 * after], axis + 1)
        plane = pairs.reshape([2 * n if a == axis else n for a, n in enumerate(plane.shape)])
    return plane
