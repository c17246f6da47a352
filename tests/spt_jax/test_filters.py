"""Filters of the input, against scipy and against a real codec."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from experiments.spt import jpeg_codec
from spt_jax._filters import jpeg, median_smooth

jitted_jpeg = jax.jit(jpeg, static_argnums=(1, 2))


def smooth_images(shape, count=4, seed=0):
    noise = np.random.default_rng(seed).random((count, *shape))
    images = np.stack([ndimage.gaussian_filter(image, (3, 3, 0)) for image in noise])
    low, high = images.min(), images.max()
    return ((images - low) / (high - low)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_median_smoothing_is_scipy_s(size):
    images = np.random.default_rng(0).random((3, 9, 6, 3)).astype(np.float32)
    images = images.round(1)  # with equal neighbours
    expected = [ndimage.median_filter(i, size=(size, size, 1), mode="reflect") for i in images]
    np.testing.assert_array_equal(jax.jit(median_smooth, static_argnums=1)(images, size), expected)


def test_median_smoothing_has_the_gradient_of_the_pixels_it_takes():
    image = jnp.arange(25, dtype=jnp.float32).reshape(1, 5, 5, 1) ** 1.5
    middle = jax.jit(jax.grad(lambda x: median_smooth(x, 3)[0, 2, 2, 0]))
    np.testing.assert_array_equal(middle(image)[0, :, :, 0], np.eye(25)[12].reshape(5, 5))
    flat = middle(jnp.zeros_like(image))
    np.testing.assert_allclose(flat[0, 1:4, 1:4, 0], 1 / 9, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "quality"),
    [((28, 28, 1), 75), ((15, 9, 1), 20), ((32, 32, 3), 95), ((17, 23, 3), 75), ((17, 23, 3), 20)],
)
def test_jpeg_is_pillow_s_within_a_fraction_of_a_gray_level(shape, quality):
    images = smooth_images(shape)
    ours = np.asarray(jitted_jpeg(images, quality, "exact"))
    assert ours.shape == images.shape and ours.dtype == np.float32
    assert ours.min() >= 0 and ours.max() <= 1
    difference = np.abs(ours - jpeg_codec.encode_decode(images, quality)) * 255
    assert difference.mean() < 0.6
    # It is the codec that is met, not the image itself.
    assert difference.mean() < np.abs(images - ours).mean() * 255 or quality == 95


def test_jpeg_is_pillow_s_on_photographs():
    from experiments import datasets

    if not (datasets.default_data_dir() / "cifar10").is_dir():
        pytest.skip("CIFAR-10 is not prepared in TFDS_DATA_DIR")
    builder = datasets.prepare("cifar10")
    source = builder.as_data_source("test")
    images = np.stack([source[i]["image"] for i in range(50)]).astype(np.float32) / 255
    for quality in (50, 75):
        ours = jitted_jpeg(images, quality, "straight-through")
        difference = np.abs(ours - jpeg_codec.encode_decode(images, quality)).mean() * 255
        # At 50 half of the coefficients are ties: these photographs were JPEGs of 75 before.
        assert difference < (1 if quality == 50 else 0.4), quality


def test_flat_images_come_back_as_the_codec_has_them():
    """Every gray level: half of them are half-way between two steps of quantisation."""
    grays = np.arange(256, dtype=np.float32)[:, None, None, None] / 255
    images = np.broadcast_to(grays, (256, 8, 8, 1))
    np.testing.assert_allclose(jax.jit(jpeg)(images), jpeg_codec.encode_decode(images), atol=1e-6)


def test_the_roundings_differ_in_the_gradient_only_and_smooth_in_both():
    images = smooth_images((16, 16, 3), 2)
    weights = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)

    @partial(jax.jit, static_argnums=0)
    def both(rounding):
        def weighted(x):
            y = jpeg(x, 75, rounding)
            return jnp.sum(weights * y), y

        gradient, decoded = jax.grad(weighted, has_aux=True)(images)
        return decoded, gradient

    decoded, gradients = {}, {}
    for rounding in ("exact", "straight-through", "smooth"):
        decoded[rounding], gradients[rounding] = both(rounding)
        assert np.isfinite(gradients[rounding]).all()
    assert not gradients["exact"].any()
    for rounding in ("straight-through", "smooth"):
        assert gradients[rounding].any(axis=(1, 2, 3)).all()
    np.testing.assert_allclose(decoded["exact"], decoded["straight-through"], atol=1e-6)
    assert 0 < np.abs(decoded["smooth"] - decoded["exact"]).mean() * 255 < 3


def test_the_straight_through_gradient_is_that_of_the_codec_without_rounding():
    """Of gray images in the middle of the range the rest is the identity."""
    images = 0.3 + 0.4 * smooth_images((16, 16, 1), 2)
    weights = np.random.default_rng(1).normal(size=images.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * jpeg(x))))(images)
    np.testing.assert_allclose(gradient, weights, atol=1e-4)


def test_gradients_are_finite_at_the_edge_of_the_range():
    images = np.stack([np.full((9, 9, 3), v, np.float32) for v in (0, 1, 0.5)])
    for rounding in ("straight-through", "smooth"):
        gradient_of = jax.jit(jax.grad(lambda x, r=rounding: jnp.sum(jpeg(x, 30, r) ** 2)))
        gradient = gradient_of(images)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: median_smooth(x, 0), "expected size"),
        (lambda x: median_smooth(x, 9), "expected size of at most the images' 8 x 8, got 9"),
        (lambda x: jpeg(x, 0), "expected quality"),
        (lambda x: jpeg(x, 101), "expected quality in 1 ... 100, got 101"),
        (lambda x: jpeg(x, 75, "none"), "expected rounding"),
        (lambda x: jpeg(x[..., :2]), "expected images"),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((1, 8, 8, 3), np.float32))
