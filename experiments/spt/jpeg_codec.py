"""The JPEG codec in common use (Pillow's libjpeg), for attacks with `attacks_jax.bpda`:

oracle = attacks_jax.bpda(oracle, partial(jpeg_codec.codec, quality=75))
"""

from functools import partial
from io import BytesIO

import jax
import numpy as np
from PIL import Image


def encode_decode(images: np.ndarray, quality: int = 75) -> np.ndarray:
    """Encodes each image as a JPEG file and decodes it.

    Args:
      images: (B, H, W, C) float32 in [0, 1]; C is 1 (gray) or 3 (RGB, 4:2:0). They are rounded to
        8 bits.
      quality: 1 to 100; 75 is Pillow's default.

    Returns:
      (B, H, W, C) float32 in [0, 1].

    Raises:
      ValueError: the quality or the shape is another.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"expected quality in 1 ... 100, got {quality}")
    if np.ndim(images) != 4 or images.shape[-1] not in (1, 3):
        expected = "images (B, H, W, 1) or (B, H, W, 3)"
        raise ValueError(f"expected {expected}, got shape {np.shape(images)}")
    pixels = np.clip(np.round(np.asarray(images) * 255), 0, 255).astype(np.uint8)
    decoded = np.empty_like(pixels)
    for source, target in zip(pixels, decoded, strict=True):
        file = BytesIO()
        gray = source.shape[-1] == 1
        Image.fromarray(source[..., 0] if gray else source).save(file, "JPEG", quality=quality)
        target[...] = np.asarray(Image.open(file)).reshape(source.shape)
    return decoded.astype(np.float32) / 255


def codec(images: jax.Array, quality: int = 75) -> jax.Array:
    """`encode_decode` for JAX code: it works under `jit` and `vmap`, and has no gradient."""
    shape = jax.ShapeDtypeStruct(images.shape, np.float32)
    call = partial(_any_rank, quality=quality)
    return jax.pure_callback(call, shape, images, vmap_method="expand_dims")


def _any_rank(images, *, quality: int) -> np.ndarray:
    images = np.asarray(images)  # vmapped axes lead
    return encode_decode(images.reshape(-1, *images.shape[-3:]), quality).reshape(images.shape)
