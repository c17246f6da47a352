"""Feature squeezing: the squeezers against numpy and scipy, the score by hand, its gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from jax.tree_util import Partial

from cmag_jax import feature_squeezing
from tests.compilations import counted

KEY = jax.random.key(0)
SHAPE = (6, 8, 2)
BOTH = feature_squeezing.FeatureSqueezingConfig(bits=(1, 3), medians=(2, 3))
median_smooth = jax.jit(feature_squeezing.median_smooth, static_argnums=1)
WEIGHTS = np.random.default_rng(1).normal(size=(6 * 8 * 2, 5)).astype(np.float32)


SCORES = (feature_squeezing.score, feature_squeezing.differentiable_score)


def victim(images):
    return images, images.reshape(len(images), -1) @ WEIGHTS


def some_images(seed, shape=(5, *SHAPE)):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def fit(config=BOTH):
    params, info = feature_squeezing.fit(KEY, victim, some_images(0), config)
    assert info == ()
    return params


def probabilities(images):
    exponentials = np.exp(np.asarray(victim(images)[1], np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def median(images, size):
    return scipy.ndimage.median_filter(images, size=(1, size, size, 1), mode="reflect")


def test_the_defaults_are_the_papers_for_mnist():
    params, _ = feature_squeezing.fit(KEY, victim, some_images(0))
    assert (params.config.bits, params.config.medians) == ((1,), (2,))
    assert params.image_shape == SHAPE
    assert jax.tree.leaves(params) == []
    start = partial(feature_squeezing.init, config=params.config)
    assert jax.eval_shape(start, KEY, Partial(victim), some_images(0)) == params


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (1, [0, 0, 0, 1, 1]),  # a half goes to the even level
        (2, [0, 1 / 3, 2 / 3, 2 / 3, 1]),
        (8, [0, 79 / 255, 128 / 255, 166 / 255, 1]),
    ],
)
def test_bit_depth_rounds_to_the_nearest_of_its_levels(bits, expected):
    images = np.array([0, 0.31, 0.5, 0.65, 1], np.float32).reshape(1, 1, 5, 1)
    squeezed = feature_squeezing.bit_depth(images, bits)
    np.testing.assert_allclose(np.ravel(squeezed), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", [(3, 7, 10, 3), (2, 12, 12, 1), (1, 2, 2, 1), (1, 1, 3, 2)])
def test_medians_are_scipys(size, shape):
    images = some_images(2, shape)
    for tried in (images, np.round(4 * images) / 4):  # the latter with many ties
        smooth = median_smooth(tried, size)
        np.testing.assert_array_equal(smooth, median(tried, size))


@pytest.mark.parametrize("size", [2, 3])
def test_a_medians_gradient_is_the_share_of_the_pixel_that_it_is(size):
    images = some_images(3, (1, 5, 5, 1))
    differentiate = jax.jit(jax.grad(lambda x: feature_squeezing.median_smooth(x, size).sum()))
    gradient = differentiate(images)
    smooth = median(images, size)
    expected = np.sum(smooth.ravel() == images.reshape(-1, 1), axis=1)  # all pixels are different
    np.testing.assert_allclose(np.ravel(gradient), expected)
    np.testing.assert_allclose(np.sum(differentiate(np.ones_like(images))), 25, rtol=1e-6)


def test_the_score_is_the_largest_distance():
    images = some_images(4)
    squeezed = [np.round(images), np.round(images * 7) / 7, median(images, 2), median(images, 3)]
    original = probabilities(images)
    distances = [np.abs(original - probabilities(x)).sum(axis=1) for x in squeezed]
    scores = feature_squeezing.score(victim, fit(), images)
    assert scores.keys() == {"l1"}
    np.testing.assert_allclose(scores["l1"], np.max(distances, axis=0), rtol=1e-4)
    assert len(set(np.argmax(distances, axis=0))) > 1


def test_what_squeezing_leaves_alone_scores_zero():
    images = np.ones((2, *SHAPE), np.float32)
    np.testing.assert_allclose(feature_squeezing.score(victim, fit(), images)["l1"], 0, atol=1e-6)


@pytest.mark.parametrize(
    "function", [feature_squeezing.score, feature_squeezing.differentiable_score]
)
def test_score_under_jit_and_in_parts_is_the_same(function):
    params, images = fit(), some_images(5)
    plain = function(victim, params, images)["l1"]
    jitted = jax.jit(partial(function, victim, params))(images)["l1"]
    parts = [function(victim, params, images[i : i + 1])["l1"][0] for i in range(5)]
    np.testing.assert_allclose(jitted, plain, rtol=1e-5)
    np.testing.assert_allclose(parts, plain, rtol=1e-5)


def test_the_differentiable_score_has_the_scores_values():
    params, images = fit(), some_images(6, (50, *SHAPE))
    np.testing.assert_allclose(
        feature_squeezing.differentiable_score(victim, params, images)["l1"],
        feature_squeezing.score(victim, params, images)["l1"],
        rtol=1e-5,
    )
    # Of squeezed images that are an ulp off the victim could make something else.
    for squeezed in zip(
        *(feature_squeezing._squeezed(images, BOTH, s) for s in (0, 1)), strict=True
    ):
        np.testing.assert_array_equal(*squeezed)


def test_only_the_approximate_gradient_sees_through_rounding():
    """With bit depth alone, backwards through p(q(x)): nothing of it is in the true gradient, and
    as if q(x) were x in the approximate one."""
    params = fit(feature_squeezing.FeatureSqueezingConfig(bits=(2,), medians=()))
    images = some_images(7, (1, *SHAPE))
    rounded = feature_squeezing.bit_depth(images, 2)

    def distance(x, squeezed):
        p, q = (jax.nn.softmax(victim(i)[1]) for i in (x, squeezed))
        return jnp.abs(p - q).sum()

    through_image, through_rounded = jax.jit(jax.grad(distance, argnums=(0, 1)))(images, rounded)

    def gradient(function):
        return jax.jit(jax.grad(lambda x: function(victim, params, x)["l1"].sum()))(images)

    assert np.any(np.abs(through_rounded) > 1e-4)
    np.testing.assert_allclose(gradient(feature_squeezing.score), through_image, atol=1e-6)
    np.testing.assert_allclose(
        gradient(feature_squeezing.differentiable_score), through_image + through_rounded, atol=1e-6
    )


@pytest.mark.parametrize(
    "function", [feature_squeezing.score, feature_squeezing.differentiable_score]
)
def test_gradients_are_finite(function):
    params = fit(feature_squeezing.FeatureSqueezingConfig())
    gradient = jax.jit(jax.grad(lambda x: function(victim, params, x)["l1"].sum()))
    for images in (some_images(8), np.ones((5, *SHAPE), np.float32)):  # the latter score 0
        assert np.isfinite(gradient(images)).all()


def test_a_victim_with_bound_weights_is_traced_not_compiled_in():
    params = fit()

    def scaled(weight, images):
        feature_maps, logits = victim(images)
        return feature_maps, logits * weight

    images = some_images(9)
    first, second = (Partial(scaled, jnp.float32(weight)) for weight in (1.0, 0.5))
    before = feature_squeezing.score(first, params, images)
    with counted() as compiled:
        after = feature_squeezing.score(second, params, images)
    assert not compiled and np.any(before["l1"] != after["l1"])


def test_thresholds_are_the_shared_ones():
    scores = {"l1": np.arange(100.0)}
    thresholds = feature_squeezing.calibrate(scores, fpr=0.05)
    assert thresholds == {"l1": 94.0}
    assert int(np.sum(feature_squeezing.detect(scores, thresholds))) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": (), "medians": ()}, "at least one squeezer"),
        ({"bits": (0,)}, "bits from 1 to 8, got 0"),
        ({"bits": (9,)}, "bits from 1 to 8, got 9"),
        ({"medians": (4,)}, "size of 2 or 3, got 4"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        feature_squeezing.FeatureSqueezingConfig(**options)


def test_wrong_images_are_refused_in_words():
    with pytest.raises(ValueError, match="uint8"):
        feature_squeezing.fit(KEY, victim, np.zeros((4, *SHAPE), np.uint8))
    expected = r"expected images \(B, 6, 8, 2\) float32 in \[0, 1\], got float32 \(2, 8, 6, 2\)"
    for function in (feature_squeezing.score, feature_squeezing.differentiable_score):
        with pytest.raises(ValueError, match=expected):
            function(victim, fit(), np.zeros((2, 8, 6, 2), np.float32))
