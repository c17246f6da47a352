"""The three reconstructors of CMAG (section 3), as Flax modules.

The paper only calls them "simple autoencoder" (section 6); the layers are our choice. Each ends in
a sigmoid, so reconstructions are images in [0, 1].
"""

import math
from typing import Any

import dm_pix
import flax.linen as nn
import jax

from cmag_jax._checks import describe

ImageShape = tuple[int, int, int]  # H, W, C


def check_image_shape(shape: ImageShape) -> None:
    """Raises ValueError unless H and W are divisible by 4."""
    height, width, _ = shape
    if height % 4 or width % 4:
        raise ValueError(f"expected images with H and W divisible by 4, got {height}x{width}")


class FeatureMapReconstructor(nn.Module):
    """FMR (section 3.1): the last feature maps (B, h, w, c) to an image (B, H, W, C).

    It convolves at the resolution of the feature maps, then applies depth-to-space. On a CPU this
    is several times faster than transposed convolutions, and it makes no checkerboard patterns.
    """

    image_shape: ImageShape
    width: int

    @nn.compact
    def __call__(self, feature_maps: jax.Array) -> jax.Array:
        height, _, channels = self.image_shape
        block = height // feature_maps.shape[1]
        x = nn.relu(nn.Conv(self.width, (3, 3))(feature_maps))
        x = nn.relu(nn.Conv(self.width, (1, 1))(x))
        x = nn.relu(nn.Conv(self.width, (3, 3))(x))
        x = nn.Conv(block * block * channels, (1, 1))(x)
        return nn.sigmoid(dm_pix.depth_to_space(x, block) if block > 1 else x)


class LogitReconstructor(nn.Module):
    """LR (section 3.2): class probabilities (B, K) to an image (B, H, W, C)."""

    image_shape: ImageShape
    width: int

    @nn.compact
    def __call__(self, probabilities: jax.Array) -> jax.Array:
        return _dense_image(probabilities, self.width, self.image_shape)


class GlobalReconstructor(nn.Module):
    """GR (section 3.3): the combination h (B, H, W, C) to an image (B, H, W, C)."""

    width: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        return _dense_image(h.reshape(h.shape[0], math.prod(h.shape[1:])), self.width, h.shape[1:])


class GatedReconstructor(nn.Module):
    """GR of CMAG+: h (B, H, W, C) in [-1, 1] to an image sigmoid(a + 4 g h) (B, H, W, C).

    A network computes a and g from h. h is positive where FMR and LR agree. The gate g decides
    whether agreement makes a pixel bright; a is the pixel's value without h.
    """

    width: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        size = math.prod(h.shape[1:])
        flat = h.reshape(h.shape[0], size)
        x = nn.relu(nn.Dense(self.width)(flat))
        x = nn.relu(nn.Dense(self.width)(x))
        added, gate = nn.Dense(size)(x), nn.Dense(size)(x)
        return nn.sigmoid(added + 4 * gate * flat).reshape(h.shape)


def _dense_image(x: jax.Array, width: int, image_shape) -> jax.Array:
    """Two hidden layers, then an image. Called inside a module's `__call__`."""
    x = nn.relu(nn.Dense(width)(x))
    x = nn.relu(nn.Dense(width)(x))
    pixels = nn.Dense(math.prod(image_shape))(x)
    return nn.sigmoid(pixels).reshape(x.shape[0], *image_shape)


def check_feature_maps(feature_maps: Any, image_shape: ImageShape) -> None:
    """Raises ValueError unless H / h = W / w is a whole number, for feature maps (B, h, w, c) and
    images (B, H, W, C)."""
    shape: tuple[int, ...] = getattr(feature_maps, "shape", ())
    fits = len(shape) == 4 and min(shape) > 0
    if fits:
        (_, h, w, _), (height, width, _) = shape, image_shape
        fits = height % h == 0 and width % w == 0 and height // h == width // w
    if not fits:
        came = f"(B, {', '.join(map(str, shape[1:]))})" if shape else describe(feature_maps)
        raise ValueError(
            "expected feature maps (B, h, w, c) with H / h = W / w a whole number"
            f" for images {image_shape}, got {came}"
        )
