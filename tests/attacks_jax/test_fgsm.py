"""FGSM: CMAG's eq. 1, worked by hand on a linear classifier."""

import jax
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
ORACLE = attacks_jax.stateless(toys.linear)
IMAGE = np.array([0.6, 0.6, 0.5, 0.5], np.float32).reshape(1, 2, 2, 1)  # logits (.3, -.3)


def run(labels, images=IMAGE, oracle=ORACLE, **options):
    return attacks_jax.run(attacks_jax.fgsm(**options), oracle, KEY, images, np.array(labels))


def test_moves_every_pixel_by_eps_along_the_sign_of_the_gradient():
    # The loss of class 0 rises against the weights' difference (2, 4, -2, 1).
    expected = IMAGE + 0.1 * np.array([-1, -1, 1, -1]).reshape(1, 2, 2, 1)
    result = run([0], eps=0.1)
    np.testing.assert_allclose(result.images, expected, atol=1e-6)
    np.testing.assert_allclose(result.distance, [0.1], atol=1e-6)
    # Logit difference .6 - .1 * (2 + 4 + 2 + 1) = -.3: class 1 wins.
    assert result.success.tolist() == [True]
    assert result.queries.tolist() == [2]


def test_a_step_too_small_fails_and_says_so():
    result = run([0], eps=0.05)  # .6 - .05 * 9 = .15: still class 0
    assert result.success.tolist() == [False]
    np.testing.assert_allclose(result.distance, [0.05], atol=1e-6)


def test_targeted_descends_towards_the_target():
    result = run([1], eps=0.1, targeted=True)
    np.testing.assert_allclose(result.images, run([0], eps=0.1).images)
    assert result.success.tolist() == [True]


def test_stays_within_the_bounds():
    images = np.array([0.05, 0.99, 0.97, 0.5], np.float32).reshape(1, 2, 2, 1)
    result = run([0], images, eps=0.3)
    assert result.images.min() >= 0 and result.images.max() <= 1
    assert result.images[0, 0, 0, 0] == 0.0


def test_bounds_other_than_the_unit_interval():
    result = run([1], IMAGE * 4 - 2, eps=0.7, bounds=(-2.0, 2.0))
    assert result.images.min() >= -2 and result.images.max() <= 2
    np.testing.assert_allclose(result.distance, [0.7], atol=1e-6)


def test_an_image_that_is_misclassified_already_is_left_alone():
    result = run([1], eps=0.3)
    np.testing.assert_array_equal(result.images, IMAGE)
    assert result.success.tolist() == [True] and result.distance.tolist() == [0.0]


def test_a_user_s_loss_takes_the_place_of_cross_entropy():
    # Raising the first pixel and nothing else.
    result = run([0], eps=0.1, loss=lambda logits, labels, images: images[:, 0, 0, 0])
    expected = IMAGE.copy()
    expected[0, 0, 0, 0] += 0.1
    np.testing.assert_allclose(result.images, expected, atol=1e-6)


def test_a_negative_eps_is_refused_and_none_at_all_changes_nothing():
    with pytest.raises(ValueError, match="expected eps to be"):
        attacks_jax.fgsm(eps=-0.1)
    np.testing.assert_array_equal(run([0], eps=0.0).images, IMAGE)


@pytest.mark.parametrize("logits", [0.0, np.nan])
def test_a_classifier_without_a_gradient_yields_the_clean_image_and_no_success(logits):
    def flat(images):
        return images.reshape(len(images), -1)[:, :2] * 0 + logits

    result = run([0], eps=0.1, oracle=attacks_jax.stateless(flat))
    np.testing.assert_array_equal(result.images, IMAGE)
    assert result.success.tolist() == [False]
