"""DeepFool: on linear classifiers its first step is the answer."""

import jax
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (3, 3, 1)
WEIGHTS = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
BIAS = np.array([0.3, 0.0, -0.1, 0.1], np.float32)


def linear(images):
    return (images.reshape(images.shape[0], -1) - 0.5) @ WEIGHTS + BIAS


IMAGES = 0.5 + 0.05 * (toys.some_images(2, 16, SHAPE) - 0.5)
LABELS = np.asarray(np.argmax(linear(IMAGES), -1))


def run(attack, logits=linear, images=IMAGES, labels=LABELS):
    return attacks_jax.run(attack, attacks_jax.stateless(logits), KEY, images, labels)


def nearest_boundary():
    """The l2 distance to the nearest other class's region, in closed form."""
    logits, rows = np.asarray(linear(IMAGES)), np.arange(len(IMAGES))
    gaps = logits[rows, LABELS][:, None] - logits
    lengths = np.linalg.norm(WEIGHTS[:, LABELS].T[:, :, None] - WEIGHTS[None], axis=1)
    return np.min(np.where(gaps > 0, gaps / np.maximum(lengths, 1e-9), np.inf), axis=1)


def test_finds_the_nearest_of_the_linear_boundaries_in_one_step():
    result = run(attacks_jax.deepfool(overshoot=0.02))
    assert result.success.all()
    # BEYOND adds 1e-4 to the way, which the overshoot scales too.
    np.testing.assert_allclose(result.distance, 1.02 * (nearest_boundary() + 1e-4), rtol=1e-3)
    assert np.all(result.queries == 4)  # the clean image, a step, a look, the re-check


def test_overshoot_lengthens_the_way():
    near, far = (run(attacks_jax.deepfool(overshoot=o)) for o in (0.0, 0.5))
    np.testing.assert_allclose(far.distance, 1.5 * np.asarray(near.distance), rtol=1e-3)


def test_fewer_candidates_leave_the_unlikely_classes_out():
    logits = np.asarray(linear(IMAGES))
    result = run(attacks_jax.deepfool(candidates=2))
    second = np.argsort(logits, axis=1)[:, -2]
    np.testing.assert_array_equal(np.argmax(linear(result.images), -1), second)


def test_curved_boundaries_take_more_steps_and_are_crossed():
    logits = toys.random_network(KEY, SHAPE, classes=5)
    images = toys.some_images(3, 20, SHAPE)
    labels = np.argmax(logits(images), -1)
    result = run(attacks_jax.deepfool(), logits, images, labels)
    assert result.success.all() and np.max(result.queries) > 4
    # Nearer than the gradient's sign at the same success, by far.
    fgsm = run(attacks_jax.fgsm(eps=0.1), logits, images, labels)
    fgsm_l2 = np.linalg.norm((np.asarray(fgsm.images) - images).reshape(20, -1), axis=1)
    assert np.median(result.distance) < np.median(fgsm_l2)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="expected candidates of at least 2, got 1"):
        attacks_jax.deepfool(candidates=1)
    with pytest.raises(ValueError, match="expected num_steps"):
        attacks_jax.deepfool(num_steps=0)
