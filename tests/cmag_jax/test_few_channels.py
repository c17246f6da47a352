"""Convolutions of few channels are convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

from cmag_jax._planar_conv import MOST_PRODUCTS, Convolution, convolve


def _draw(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_equals_scipys_correlation_with_zeros_beyond_the_edges():
    x, kernel = _draw((2, 2, 5, 7)), _draw((3, 3, 2, 3), 1)
    expected = np.zeros((2, 3, 5, 7))
    for image in range(2):
        for out in range(3):
            for c in range(2):
                expected[image, out] += ndimage.correlate(
                    np.asarray(x[image, c]), np.asarray(kernel[:, :, c, out]), mode="constant"
                )
    np.testing.assert_allclose(convolve(x, kernel), expected, atol=1e-5)


@pytest.mark.parametrize("channels, out", [(1, 3), (3, 3), (3, 1), (16, 16)])
def test_is_flaxs_convolution_channels_first_with_its_weights_and_gradients(channels, out):
    assert (9 * channels * out > MOST_PRODUCTS) == (channels == 16)  # both ways are tried
    ours = Convolution(out, kernel_init=nn.initializers.glorot_uniform())
    theirs = nn.Conv(out, (3, 3))
    x = _draw((4, channels, 6, 8))
    weights = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, weights) == jax.tree.map(
        jnp.shape, theirs.init(jax.random.key(0), x.transpose(0, 2, 3, 1))
    )
    towards = _draw((4, out, 6, 8), 2)

    def our(weights, x):
        return jnp.sum(jnp.sin(ours.apply(weights, x)) * towards)

    def their(weights, x):
        rebuilt = theirs.apply(weights, x.transpose(0, 2, 3, 1))
        return jnp.sum(jnp.sin(rebuilt.transpose(0, 3, 1, 2)) * towards)

    for function in (our, their):
        assert jnp.isfinite(function(weights, x))
    gradients = [jax.jit(jax.grad(f, argnums=(0, 1)))(weights, x) for f in (our, their)]
    for mine, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-4)


def test_maps_over_images_and_differentiates_twice():
    x, kernel = _draw((3, 2, 4, 4)), _draw((3, 3, 2, 2), 1)
    one_by_one = jax.vmap(lambda image: convolve(image[None], kernel)[0])(x)
    np.testing.assert_allclose(one_by_one, convolve(x, kernel), atol=1e-6)

    def curvature(function):
        slope = jax.grad(lambda x: jnp.sum(jnp.sin(function(x))))
        return jax.grad(lambda x: jnp.sum(slope(x) ** 2))(x)

    def theirs(x):
        axes = ("NCHW", "HWIO", "NCHW")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)

    np.testing.assert_allclose(
        curvature(lambda x: convolve(x, kernel)), curvature(theirs), atol=1e-3
    )
