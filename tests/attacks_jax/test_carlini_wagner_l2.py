"""CW-l2 against what is known in closed form: a linear classifier's nearest misclassified image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (3, 3, 1)
# Two classes whose logits differ by w.(x - .5); small enough for the solution to lie inside.
W = np.random.default_rng(1).normal(size=9).astype(np.float32)


def linear(images):
    difference = (images.reshape(images.shape[0], -1) - 0.5) @ W
    return jnp.stack([difference / 2, -difference / 2], axis=-1)


ORACLE = attacks_jax.stateless(linear)
IMAGES = 0.5 + 0.1 * (toys.some_images(2, 16, SHAPE) - 0.5)
LABELS = np.argmax(linear(IMAGES), -1)


def run(oracle=ORACLE, images=IMAGES, labels=LABELS, **options):
    options = {"num_steps": 300, "initial_const": 0.1, "binary_search_steps": 9} | options
    attack = attacks_jax.carlini_wagner_l2(**options)
    return attacks_jax.run(attack, oracle, KEY, images, labels)


def lead(images, labels):
    logits = np.asarray(linear(images))
    rows = np.arange(len(labels))
    return logits[rows, labels] - logits[rows, 1 - labels]


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_finds_the_nearest_image_beyond_the_margin(confidence):
    result = run(confidence=confidence)
    nearest = (lead(IMAGES, LABELS) + confidence) / np.linalg.norm(W)
    assert result.success.all()
    assert np.all(result.distance >= nearest * 0.999)  # nothing nearer exists
    # Adam's steps of 0.01 resolve the shortest distances to a small part of a step.
    np.testing.assert_allclose(result.distance, nearest, rtol=0.02, atol=2e-4)


def test_reaches_the_confidence_it_is_asked_for():
    result = run(confidence=0.5)
    assert np.all(-lead(result.images, LABELS) >= 0.5 - 1e-3)


def test_targeted_at_the_other_class_is_untargeted_with_two_classes():
    targeted, untargeted = run(labels=1 - LABELS, targeted=True), run()
    assert targeted.success.all()
    np.testing.assert_allclose(targeted.distance, untargeted.distance, rtol=1e-4)


def test_targeted_reaches_the_target_among_many():
    logits = toys.random_network(KEY, SHAPE, classes=5)
    images = toys.some_images(3, 8, SHAPE)
    targets = (np.argmax(logits(images), -1) + 2) % 5
    result = run(attacks_jax.stateless(logits), images, targets, targeted=True)
    assert result.success.any()
    reached = np.argmax(logits(result.images), -1) == targets
    np.testing.assert_array_equal(reached, result.success)


def test_distance_is_the_l2_norm_of_what_is_returned():
    result = run()
    norms = np.linalg.norm((np.asarray(result.images) - IMAGES).reshape(16, -1), axis=1)
    np.testing.assert_allclose(result.distance, norms, rtol=1e-5)


def test_failure_says_so_and_returns_the_image_that_came_closest():
    result = run(confidence=100.0)  # out of reach within the bounds
    assert not result.success.any()
    assert np.all(lead(result.images, LABELS) < lead(IMAGES, LABELS))


def test_an_image_that_is_misclassified_already_is_left_alone():
    result = run(labels=1 - LABELS)
    assert result.success.all()
    np.testing.assert_array_equal(result.images, IMAGES)
    assert np.all(result.distance == 0)
    assert np.all(result.queries == 2)  # the first look and the last


def test_other_bounds_scale_with_the_pixels():
    def stretched(images):
        return linear(images / 255)

    result = run(attacks_jax.stateless(stretched), 255 * IMAGES, bounds=(0.0, 255.0))
    np.testing.assert_allclose(result.distance, 255 * run().distance, rtol=0.02)


def test_ending_a_stalled_round_early_saves_queries_and_little_distance():
    patient, hasty = run(abort_early=False), run(abort_early=True)
    assert np.all(patient.queries == 2 + 9 * 300)
    assert hasty.queries.mean() < 0.8 * patient.queries.mean()
    np.testing.assert_allclose(hasty.distance, patient.distance, rtol=0.03)


def test_no_example_depends_on_its_batch_mates():
    logits = toys.random_network(KEY, SHAPE, classes=4)
    images = toys.some_images(4, 6, SHAPE)
    labels = np.argmax(logits(images), -1)
    options = {"num_steps": 60, "binary_search_steps": 4, "initial_const": 1.0}
    together = run(attacks_jax.stateless(logits), images, labels, **options)
    for i in range(len(images)):
        one = slice(i, i + 1)
        alone = run(attacks_jax.stateless(logits), images[one], labels[one], **options)
        assert alone.success[0] == together.success[i]
        assert alone.queries[0] == together.queries[i]
        np.testing.assert_allclose(alone.distance[0], together.distance[i], rtol=1e-3)


@pytest.mark.parametrize("logits", [0.0, np.nan])
def test_nothing_to_follow_yields_no_success_and_no_nan(logits):
    result = run(attacks_jax.stateless(lambda x: jnp.full((len(x), 2), logits)), num_steps=20)
    assert not result.success.any()
    assert np.isfinite(result.images).all() and np.isfinite(result.distance).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_steps", 0), ("binary_search_steps", -1), ("step_size", 0.0), ("initial_const", -1.0),
        ("confidence", -0.1), ("confidence", float("nan")), ("step_size", float("inf")),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ValueError, match=f"expected {option} to be .* got {value}"):
        attacks_jax.carlini_wagner_l2(**{option: value})
