"""BIM, PGD and MI-FGSM: worked by hand on a linear classifier, and what holds on any."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
IMAGE = np.array([0.6, 0.6, 0.5, 0.5], np.float32).reshape(1, 2, 2, 1)  # logits (.3, -.3)
LINEAR = attacks_jax.stateless(toys.linear)
SHAPE = (5, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
ORACLE = attacks_jax.stateless(LOGITS)
IMAGES = toys.some_images(0, 12, SHAPE)
LABELS = np.argmax(LOGITS(IMAGES), -1)


def on_linear(attack, label=0):
    return attacks_jax.run(attack, LINEAR, KEY, IMAGE, np.array([label]))


def on_network(attack, labels=LABELS):
    return attacks_jax.run(attack, ORACLE, KEY, IMAGES, labels)


def test_bim_adds_steps_of_the_sign_and_clips_to_the_ball():
    sign = np.array([-1, -1, 1, -1]).reshape(1, 2, 2, 1)  # against the weights' difference
    two = on_linear(attacks_jax.bim(eps=0.1, step_size=0.02, num_steps=2))
    np.testing.assert_allclose(two.images, IMAGE + 0.04 * sign, atol=1e-6)
    many = on_linear(attacks_jax.bim(eps=0.1, step_size=0.02, num_steps=9))
    np.testing.assert_allclose(many.images, IMAGE + 0.1 * sign, atol=1e-6)
    assert many.success.all() and not two.success.any()


def test_one_step_of_bim_is_fgsm():
    one = on_network(attacks_jax.bim(eps=0.1, step_size=0.1, num_steps=1))
    fgsm = on_network(attacks_jax.fgsm(eps=0.1))
    np.testing.assert_array_equal(one.images, fgsm.images)


def test_l2_pgd_follows_the_gradient_of_length_one():
    weights = np.array([2, 4, -2, 1], np.float32).reshape(1, 2, 2, 1)
    attack = attacks_jax.pgd(eps=0.2, step_size=0.1, num_steps=2, norm="l2", random_start=False)
    expected = IMAGE - 0.2 * weights / np.linalg.norm(weights)
    np.testing.assert_allclose(on_linear(attack).images, expected, atol=1e-5)


def test_momentum_gathers_gradients_of_l1_norm_one_for_each_example():
    """A loss whose gradient turns: by hand, two steps of g <- decay g + grad / ||grad||_1."""
    slopes = np.array([[3.0, -1.0], [-1.0, 2.0]])  # of the two pixels, at step 1 and 2

    def loss(logits, labels, images):
        moved = images[:, 0, 0, 0] > 0.55  # so after the first step
        slope = jnp.where(moved[:, None], slopes[1], slopes[0])
        return jnp.sum(slope * images[:, 0, :, 0], axis=1)

    oracle = attacks_jax.stateless(lambda x: jnp.stack([x.sum((1, 2, 3)), -x.sum((1, 2, 3))], 1))
    image = np.full((1, 1, 2, 1), 0.5, np.float32)
    for decay in (0.0, 1.0):
        g = np.zeros(2)
        expected = np.array([0.5, 0.5])
        for slope in slopes:
            g = decay * g + slope / np.abs(slope).sum()
            expected = expected + 0.1 * np.sign(g)
        attack = attacks_jax.mifgsm(eps=0.3, step_size=0.1, num_steps=2, decay=decay, loss=loss)
        result = attacks_jax.run(attack, oracle, KEY, image, np.array([0]))
        np.testing.assert_allclose(result.images[0, 0, :, 0], expected, atol=1e-6)


def test_the_step_of_mifgsm_is_eps_shared_out():
    sign = np.array([-1, -1, 1, -1]).reshape(1, 2, 2, 1)
    result = on_linear(attacks_jax.mifgsm(eps=0.2, num_steps=4))
    np.testing.assert_allclose(result.images, IMAGE + 0.2 * sign, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@settings(max_examples=15)
@given(eps=st.floats(0.0, 2.0), seed=st.integers(0, 1000))
def test_no_image_leaves_the_ball_or_the_bounds(norm, eps, seed):
    attack = attacks_jax.pgd(eps=eps, step_size=0.2, num_steps=3, norm=norm)
    result = attacks_jax.run(attack, ORACLE, jax.random.key(seed), IMAGES, LABELS)
    delta = (np.asarray(result.images) - IMAGES).reshape(len(IMAGES), -1)
    order = np.inf if norm == "linf" else 2
    assert np.all(np.linalg.norm(delta, order, axis=1) <= eps * (1 + 1e-5) + 1e-6)
    assert result.images.min() >= 0 and result.images.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_random_start_differs_by_key_and_fills_the_ball(norm):
    attack = attacks_jax.pgd(eps=0.1, step_size=1e-9, num_steps=1, norm=norm, random_start=True)
    a, b = (
        attacks_jax.run(attack, ORACLE, jax.random.key(seed), IMAGES, LABELS) for seed in (0, 1)
    )
    assert np.abs(a.images - b.images).max() > 0.01
    if norm == "l2":  # in 20 dimensions nearly all of a ball lies near its surface
        assert 0.06 < np.mean(a.distance) <= 0.1


def test_restarts_win_more_and_go_on_only_for_those_that_failed():
    options = {"eps": 0.03, "step_size": 0.02, "num_steps": 3}
    once = on_network(attacks_jax.pgd(**options))
    often = on_network(attacks_jax.pgd(**options, restarts=4))
    won = np.asarray(once.success)
    assert np.all(np.asarray(often.success)[won])
    assert np.all(np.asarray(often.queries)[won] == 1 + 4 + 2)
    assert np.all(np.asarray(often.queries)[~np.asarray(often.success)] == 1 + 4 * 4 + 2)


def test_stopping_early_keeps_the_first_success():
    late = on_network(attacks_jax.bim(eps=0.2, step_size=0.01, num_steps=20))
    early = on_network(attacks_jax.bim(eps=0.2, step_size=0.01, num_steps=20, early_stop=True))
    np.testing.assert_array_equal(early.success, late.success)
    assert np.all(early.distance <= late.distance + 1e-6)
    assert np.mean(early.queries) < 0.8 * np.mean(late.queries)


def test_an_adversarial_image_that_the_iteration_leaves_again_is_kept():
    """Class 1 wins in a band that the steps cross."""

    def band(images):
        x = images[:, 0, 0, 0]
        return jnp.stack([jnp.zeros_like(x), 0.15 - jnp.abs(x - 0.7)], axis=1)

    def rightwards(logits, labels, images):
        return images.sum((1, 2, 3))

    image = np.full((1, 1, 1, 1), 0.5, np.float32)
    attack = attacks_jax.bim(eps=0.5, step_size=0.1, num_steps=5, loss=rightwards)
    result = attacks_jax.run(attack, attacks_jax.stateless(band), KEY, image, np.array([0]))
    assert result.success.all()
    np.testing.assert_allclose(result.images.ravel(), [0.8], atol=1e-6)  # the last in the band


def test_targeted_reaches_the_target():
    targets = (LABELS + 1) % 4
    attack = attacks_jax.pgd(eps=0.5, step_size=0.05, num_steps=40, targeted=True)
    result = on_network(attack, targets)
    np.testing.assert_array_equal(np.argmax(LOGITS(result.images), -1) == targets, result.success)
    assert np.mean(result.success) > 0.9


def test_the_least_likely_class_is_stepped_towards():
    weights = np.array([[1.0, 0.5, -2.0], [0.5, 1.0, -1.0]], np.float32)

    def logits(images):
        return (images.reshape(len(images), -1) - 0.4) @ weights

    image = np.array([0.6, 0.5], np.float32).reshape(1, 1, 2, 1)
    probabilities = np.exp(logits(image)[0]) / np.exp(logits(image)[0]).sum()
    gradient = weights[:, 2] - weights @ probabilities  # of log p_2, the least likely class
    attack = attacks_jax.least_likely(eps=0.3)
    result = attacks_jax.run(attack, attacks_jax.stateless(logits), KEY, image, np.array([0]))
    expected = image + 0.3 * np.sign(gradient).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(result.images, expected, atol=1e-6)


def test_options_that_make_no_sense_are_refused():
    for options in ({"eps": -1.0}, {"step_size": 0.0}, {"num_steps": 0}, {"restarts": 0}):
        (name,) = options
        with pytest.raises(ValueError, match=f"expected {name} to be"):
            attacks_jax.pgd(**options)
    with pytest.raises(ValueError, match="expected norm to be one of 'linf', 'l2', got 'l7'"):
        attacks_jax.pgd(norm="l7")
    with pytest.raises(ValueError, match="random start"):
        attacks_jax.pgd(restarts=2, random_start=False)
