"""CW-linf against what is known in closed form: how near a linear boundary is in every pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.carlini_wagner_linf import carlini_wagner_linf
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (3, 3, 1)
# Two classes whose logits differ by w.(x - .5): no pixel has to leave the bounds.
W = np.random.default_rng(1).normal(size=9).astype(np.float32)
MANY = toys.random_network(KEY, SHAPE, classes=5)


def linear(images):
    difference = (images.reshape(images.shape[0], -1) - 0.5) @ W
    return jnp.stack([difference / 2, -difference / 2], axis=-1)


def linear_lead(images, labels):
    """How far the logit of `labels` lies above the other one."""
    difference = (np.asarray(images).reshape(len(images), -1) - 0.5) @ W
    return np.where(labels == 0, difference, -difference)


ORACLE = attacks_jax.stateless(linear)
IMAGES = 0.2 + 0.6 * toys.some_images(2, 40, SHAPE)
IMAGES = IMAGES[np.abs(linear_lead(IMAGES, np.zeros(40))) > 0.3][
    :8
]  # the host loop compiles no smaller batch
LABELS = np.argmax(linear(IMAGES), -1)


def run(oracle=ORACLE, images=IMAGES, labels=LABELS, loop="auto", oracle_state=(), **options):
    attack = carlini_wagner_linf(**{"num_steps": 60, "step_size": 0.01} | options)
    return attacks_jax.run(
        attack, oracle, KEY, images, labels, oracle_state=oracle_state, loop=loop
    )


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_finds_the_nearest_image_beyond_the_margin(confidence):
    result = run(confidence=confidence)
    nearest = (linear_lead(IMAGES, LABELS) + confidence) / np.abs(W).sum()
    assert result.success.all()
    assert np.all(result.distance >= nearest * 0.999)  # nothing nearer exists
    assert np.all(result.distance <= nearest * 1.1 + 1e-3)  # a factor of 0.9 on tau remains
    assert np.mean(result.distance / nearest) < 1.04


def test_reaches_the_confidence_it_is_asked_for():
    result = run(confidence=0.5)
    assert np.all(-linear_lead(result.images, LABELS) >= 0.5 - 1e-3)


def test_a_slower_descent_of_tau_comes_nearer():
    quick, slow = (run(decrease_factor=factor) for factor in (0.5, 0.95))
    assert np.mean(slow.distance) < np.mean(quick.distance)


def test_ends_where_tau_is_small_enough():
    # From there on nearer images are not looked for: a few steps are all it takes.
    result = run(smallest_tau=0.99)
    assert result.success.all()
    assert np.all(result.queries < run().queries)


def test_targeted_reaches_the_target_among_many():
    images = toys.some_images(3, 8, SHAPE)
    targets = (np.argmax(MANY(images), -1) + 2) % 5
    result = run(attacks_jax.stateless(MANY), images, targets, targeted=True)
    assert result.success.any()
    np.testing.assert_array_equal(np.argmax(MANY(result.images), -1) == targets, result.success)


def test_distance_is_the_linf_norm_of_what_is_returned():
    result = run()
    changes = np.abs(np.asarray(result.images) - IMAGES).reshape(len(IMAGES), -1)
    np.testing.assert_allclose(result.distance, changes.max(axis=1), rtol=1e-5)


def test_failure_says_so_and_returns_the_image_that_came_closest():
    result = run(confidence=100.0)  # out of reach within the bounds
    assert not result.success.any()
    assert np.all(linear_lead(result.images, LABELS) < linear_lead(IMAGES, LABELS))


def test_other_bounds_scale_with_the_pixels():
    def stretched(images):
        return linear((images + 1) / 2)

    result = run(attacks_jax.stateless(stretched), 2 * IMAGES - 1, bounds=(-1.0, 1.0))
    assert result.success.all()
    assert np.all(np.abs(result.images) <= 1)
    np.testing.assert_allclose(result.distance, 2 * run().distance, rtol=0.1)


def test_a_round_never_takes_more_than_its_steps_nor_an_example_more_than_its_rounds():
    attack = carlini_wagner_linf(num_steps=5, max_rounds=3)
    assert attack.stages == (15,)
    result = run(confidence=100.0, num_steps=5, max_rounds=3, abort_early=False)
    assert np.all(result.queries == 2 + 15)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_steps", 0), ("max_rounds", 0), ("step_size", 0.0), ("initial_const", -1.0),
        ("largest_const", float("inf")), ("const_factor", 1.0), ("decrease_factor", 1.0),
        ("decrease_factor", 0.0), ("smallest_tau", 0.0), ("confidence", -0.1),
        ("confidence", float("nan")),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ValueError, match=f"expected {option} to be .* got {value}"):
        carlini_wagner_linf(**{option: value})
