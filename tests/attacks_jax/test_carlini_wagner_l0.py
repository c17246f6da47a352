"""CW-l0 against what is known in closed form: how few pixels cross a linear boundary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.carlini_wagner_l0 import carlini_wagner_l0
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
# Two classes whose logits differ by w.(x - .5) + 1.5: several pixels have to change.
W = np.random.default_rng(1).normal(size=16).astype(np.float32)
MANY = toys.random_network(KEY, SHAPE, classes=5)


def linear(images):
    difference = (images.reshape(images.shape[0], -1) - 0.5) @ W + 1.5
    return jnp.stack([difference / 2, -difference / 2], axis=-1)


def linear_lead(images):
    """How far the logit of class 0 lies above the other one."""
    return (np.asarray(images).reshape(len(images), -1) - 0.5) @ W + 1.5


ORACLE = attacks_jax.stateless(linear)
IMAGES = toys.some_images(2, 40, SHAPE)
IMAGES = IMAGES[linear_lead(IMAGES) > 1][:8]  # the host loop compiles no smaller batch
LABELS = np.zeros(len(IMAGES), int)


def fewest(images, confidence=0.0):
    """Changing those pixels as far as the bounds allow that lower the lead most."""
    pixels = images.reshape(len(images), -1)
    gains = np.abs(W) * np.where(W > 0, pixels, 1 - pixels)
    sums = np.cumsum(-np.sort(-gains, axis=1), axis=1)
    return 1 + (sums <= linear_lead(images)[:, None] + confidence).sum(axis=1)


def run(oracle=ORACLE, images=IMAGES, labels=LABELS, loop="auto", oracle_state=(), **options):
    attack = carlini_wagner_l0(**{"num_steps": 60, "step_size": 0.05} | options)
    return attacks_jax.run(
        attack, oracle, KEY, images, labels, oracle_state=oracle_state, loop=loop
    )


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_changes_about_as_few_pixels_as_can_be(confidence):
    result = run(confidence=confidence)
    assert result.success.all()
    excess = np.asarray(result.distance) - fewest(IMAGES, confidence)
    assert np.all(excess >= 0)
    assert np.all(excess <= 2) and excess.mean() <= 0.7
    assert fewest(IMAGES, confidence).max() >= 3  # or there was nothing to find


def test_reaches_the_confidence_it_is_asked_for():
    assert np.all(-linear_lead(run(confidence=0.5).images) >= 0.5 - 1e-3)


def test_pixels_it_does_without_are_the_clean_ones_to_the_bit():
    result = run()
    same = np.all(np.asarray(result.images) == IMAGES, axis=-1).sum(axis=(1, 2))
    np.testing.assert_array_equal(result.distance, 16 - same)
    assert np.all(same >= 10)


def test_the_channels_of_a_pixel_count_once():
    def colourful(images):
        return linear(images.mean(axis=-1, keepdims=True))

    images = np.repeat(IMAGES[:4], 3, axis=-1)
    result = run(attacks_jax.stateless(colourful), images, LABELS[:4])
    assert result.success.all()
    assert np.all(result.distance <= fewest(IMAGES[:4]) + 2)
    changed = np.any(np.asarray(result.images) != images, axis=-1).sum(axis=(1, 2))
    np.testing.assert_array_equal(result.distance, changed)


def test_targeted_reaches_the_target_among_many():
    images = toys.some_images(3, 6, SHAPE)
    targets = (np.argmax(MANY(images), -1) + 2) % 5
    result = run(attacks_jax.stateless(MANY), images, targets, targeted=True)
    assert result.success.any()
    np.testing.assert_array_equal(np.argmax(MANY(result.images), -1) == targets, result.success)


def test_failure_says_so_and_returns_the_image_that_came_closest():
    result = run(confidence=100.0)  # out of reach within the bounds
    assert not result.success.any()
    assert np.all(linear_lead(result.images) < linear_lead(IMAGES))


def test_other_bounds():
    def stretched(images):
        return linear((images + 1) / 2)

    result = run(attacks_jax.stateless(stretched), 2 * IMAGES - 1, bounds=(-1.0, 1.0))
    assert result.success.all()
    assert np.all(np.abs(result.images) <= 1)
    assert np.all(result.distance <= fewest(IMAGES) + 2)


def test_a_round_never_takes_more_than_its_steps_nor_an_example_more_than_its_rounds():
    attack = carlini_wagner_l0(num_steps=5, max_rounds=3)
    assert attack.stages == (15,)
    result = run(confidence=100.0, num_steps=5, max_rounds=3, abort_early=False)
    assert np.all(result.queries == 2 + 15)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_steps", 0), ("max_rounds", 0), ("step_size", 0.0), ("initial_const", -1.0),
        ("largest_const", float("inf")), ("const_factor", 1.0), ("confidence", -0.1),
        ("confidence", float("nan")),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ValueError, match=f"expected {option} to be .* got {value}"):
        carlini_wagner_l0(**{option: value})
