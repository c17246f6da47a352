"""SSIM, global against the paper's equations in float64, windowed against scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import structural_similarity

from cmag_jax import global_ssim, windowed_ssim

SIMILARITIES = [global_ssim, windowed_ssim]


def pair(seed, shape):
    rng = np.random.default_rng(seed)
    a = rng.uniform(size=shape)
    return a, np.clip(a + rng.normal(scale=0.3, size=shape), 0, 1)


def paper_ssim(a, b):
    """Eq. 6-10 of one channel as they are meant (see `global_ssim`), in float64, by loops."""
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    n, c1, c2 = len(a), 0.01**2, 0.03**2
    c3 = c2 / 2
    mean_a, mean_b = sum(a) / n, sum(b) / n
    sd_a = (sum((x - mean_a) ** 2 for x in a) / (n - 1)) ** 0.5
    sd_b = (sum((x - mean_b) ** 2 for x in b) / (n - 1)) ** 0.5
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True)) / (n - 1)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    contrast = (2 * sd_a * sd_b + c2) / (sd_a**2 + sd_b**2 + c2)
    structure = (covariance + c3) / (sd_a * sd_b + c3)
    return luminance * contrast * structure


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (4, 12, 2)])
def test_global_is_the_paper_s_equations_channel_by_channel(shape):
    a, b = pair(0, shape)
    expected = np.mean([paper_ssim(a[..., c], b[..., c]) for c in range(shape[-1])])
    ours = global_ssim(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (11, 17, 3)])
def test_windowed_equals_scikit_image(shape):
    a, b = pair(1, shape)
    _, full = structural_similarity(
        a, b, channel_axis=-1, data_range=1.0, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    expected = full[5:-5, 5:-5].mean()  # the windows that lie inside the image
    ours = windowed_ssim(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=5e-6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@given(
    a=hnp.arrays(np.float32, (12, 12, 1), elements=st.floats(0, 1, width=32)),
    b=hnp.arrays(np.float32, (12, 12, 1), elements=st.floats(0, 1, width=32)),
)
@settings(max_examples=50)
def test_symmetric_at_most_one_and_one_for_equal_images(similarity, a, b):
    forward, backward = float(similarity(a, b)), float(similarity(b, a))
    assert forward == pytest.approx(backward, abs=1e-5)
    assert -1 - 1e-5 <= forward <= 1 + 1e-5
    assert float(similarity(a, a)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_a_batch_is_its_images_one_by_one(similarity):
    a, b = (x.astype(np.float32) for x in pair(2, (5, 16, 16, 3)))
    together = similarity(a, b)
    assert together.shape == (5,)
    alone = [similarity(a[i], b[i]) for i in range(5)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_gradients_are_finite_where_images_are_flat_or_equal(similarity, value):
    flat = jnp.full((16, 16, 1), value)
    noisy = jnp.asarray(pair(3, (16, 16, 1))[0], jnp.float32)
    for a, b in [(flat, flat), (flat, noisy), (noisy, flat), (noisy, noisy)]:
        gradient = jax.grad(similarity)(a, b)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_gradient_is_that_of_finite_differences(similarity):
    a, b = (jnp.asarray(x, jnp.float32) for x in pair(4, (12, 12, 1)))
    direction = jnp.asarray(pair(5, (12, 12, 1))[0] - 0.5, jnp.float32)
    slope = jnp.vdot(jax.grad(similarity)(a, b), direction)
    step = 1e-2
    difference = (similarity(a + step * direction, b) - similarity(a - step * direction, b)) / (
        2 * step
    )
    np.testing.assert_allclose(slope, difference, rtol=2e-2)


def test_the_two_are_different_numbers():
    """Sparse strokes on black: the paper's tables use the global one."""
    a = np.zeros((28, 28, 1), np.float32)
    a[4:24, 12:16] = 1
    b = np.clip(a + 0.05 * np.random.default_rng(0).uniform(size=a.shape), 0, 1).astype(np.float32)
    assert global_ssim(a, b) > 0.95 > 0.8 > windowed_ssim(a, b)


def test_windows_larger_than_the_image_are_refused():
    small = np.zeros((10, 28, 1), np.float32)
    with pytest.raises(ValueError, match=r"at least 11x11 pixels.*got 10x28"):
        windowed_ssim(small, small)
