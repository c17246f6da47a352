"""The real codec, outside and inside of JAX."""

from functools import partial
from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import attacks_jax
from experiments.spt import jpeg_codec


def random_images(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_back_as_from_a_file(channels):
    images = random_images(3, 10, 13, channels)
    decoded = jpeg_codec.encode_decode(images, 60)
    assert decoded.shape == images.shape and decoded.dtype == np.float32
    file = BytesIO()
    pixels = np.round(images[1] * 255).astype(np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(file, "JPEG", quality=60)
    expected = np.asarray(Image.open(file), np.float32).reshape(images[1].shape) / 255
    np.testing.assert_array_equal(decoded[1], expected)


def test_it_works_under_jit_and_vmap():
    images = random_images(6, 16, 16, 3)
    expected = jpeg_codec.encode_decode(images)
    np.testing.assert_array_equal(jax.jit(jpeg_codec.codec)(images), expected)
    stacked = jax.jit(jax.vmap(jpeg_codec.codec))(images.reshape(2, 3, 16, 16, 3))
    np.testing.assert_array_equal(stacked.reshape(images.shape), expected)


def test_bpda_sees_the_codec_forwards_and_the_identity_backwards():
    images = random_images(2, 16, 16, 3)
    classifier = attacks_jax.stateless(lambda x: x.reshape(len(x), -1)[:, :10])
    oracle = attacks_jax.bpda(classifier, partial(jpeg_codec.codec, quality=50))
    logits, gradient = jax.value_and_grad(lambda x: jnp.sum(oracle((), x)[1]))(images)
    seen = jpeg_codec.encode_decode(images, 50).reshape(2, -1)[:, :10]
    np.testing.assert_allclose(logits, seen.sum(), rtol=1e-6)
    assert gradient.reshape(2, -1)[:, :10].min() == 1 and gradient.sum() == 20


@pytest.mark.parametrize(
    ("shape", "quality", "message"),
    [
        ((1, 8, 8, 3), 0, "expected quality"),
        ((1, 8, 8, 3), 101, "got 101"),
        ((1, 8, 8, 2), 75, "expected images"),
        ((8, 8, 3), 75, "expected images"),
    ],
)
def test_bad_input_is_refused(shape, quality, message):
    with pytest.raises(ValueError, match=message):
        jpeg_codec.encode_decode(np.zeros(shape, np.float32), quality)
