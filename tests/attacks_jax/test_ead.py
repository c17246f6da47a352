"""EAD against what is known in closed form: a linear boundary is nearest in l1 along one pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.ead import ead
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (3, 3, 1)
# Two classes whose logits differ by w.(x - .5), most of all by the fifth pixel, which has room.
W = np.random.default_rng(1).normal(size=9).astype(np.float32)
W[4] = 2.5
MANY = toys.random_network(KEY, SHAPE, classes=5)


def linear(images):
    difference = (images.reshape(images.shape[0], -1) - 0.5) @ W
    return jnp.stack([difference / 2, -difference / 2], axis=-1)


def linear_lead(images, labels):
    """How far the logit of `labels` lies above the other one."""
    difference = (np.asarray(images).reshape(len(images), -1) - 0.5) @ W
    return np.where(labels == 0, difference, -difference)


ORACLE = attacks_jax.stateless(linear)
IMAGES = 0.35 + 0.3 * toys.some_images(2, 8, SHAPE)  # the host loop compiles no smaller batch
LABELS = np.argmax(linear(IMAGES), -1)


def run(oracle=ORACLE, images=IMAGES, labels=LABELS, loop="auto", oracle_state=(), **options):
    defaults = {"num_steps": 150, "initial_const": 0.1, "binary_search_steps": 6, "beta": 0.01}
    attack = ead(**defaults | options)
    return attacks_jax.run(
        attack, oracle, KEY, images, labels, oracle_state=oracle_state, loop=loop
    )


@pytest.mark.parametrize("confidence", [0.0, 0.3])
def test_finds_the_nearest_image_beyond_the_margin(confidence):
    result = run(confidence=confidence, decision_rule="L1")
    nearest = (linear_lead(IMAGES, LABELS) + confidence) / W[4]
    assert result.success.all()
    assert np.all(result.distance >= nearest * 0.999)  # nothing nearer exists
    np.testing.assert_allclose(result.distance, nearest, rtol=0.1, atol=2e-3)


def test_reaches_the_confidence_it_is_asked_for():
    result = run(confidence=0.3)
    assert np.all(-linear_lead(result.images, LABELS) >= 0.3 - 1e-3)


def test_the_decision_rule_chooses_the_norm():
    """Where both matter: with a large beta, l1 alone prefers other images of the same search."""
    options = {"beta": 0.003, "confidence": 0.3}
    elastic, sparse = (run(decision_rule=rule, **options) for rule in ("EN", "L1"))
    assert np.all(sparse.distance <= elastic.distance + 1e-6)
    assert np.any(sparse.distance < elastic.distance - 1e-3)
    np.testing.assert_array_equal(elastic.queries, sparse.queries)


def test_a_larger_beta_changes_fewer_pixels():
    images = [np.asarray(run(beta=beta).images) for beta in (0.0, 0.01)]
    dense, sparse = ((changed != IMAGES).sum() for changed in images)
    assert sparse < dense / 2


def test_targeted_reaches_the_target_among_many():
    images = toys.some_images(3, 8, SHAPE)
    targets = (np.argmax(MANY(images), -1) + 2) % 5
    result = run(attacks_jax.stateless(MANY), images, targets, targeted=True)
    assert result.success.any()
    np.testing.assert_array_equal(np.argmax(MANY(result.images), -1) == targets, result.success)


def test_distance_is_the_l1_norm_of_what_is_returned():
    result = run()
    norms = np.abs(np.asarray(result.images) - IMAGES).reshape(len(IMAGES), -1).sum(axis=1)
    np.testing.assert_allclose(result.distance, norms, rtol=1e-5)


def test_failure_says_so_and_returns_the_image_that_came_closest():
    result = run(confidence=100.0)  # out of reach within the bounds
    assert not result.success.any()
    assert np.all(linear_lead(result.images, LABELS) < linear_lead(IMAGES, LABELS))


def test_the_oracle_is_asked_within_the_bounds_only():
    def strict(images):
        outside = jnp.any((images < -1) | (images > 1), axis=(1, 2, 3), keepdims=True)
        return jnp.where(outside[:, 0, 0], jnp.nan, linear((images + 1) / 2))

    images = np.clip(6 * (IMAGES - 0.5), -1, 1)  # some pixels at either bound
    labels = np.argmax(strict(images), -1)
    result = run(attacks_jax.stateless(strict), images, labels, bounds=(-1.0, 1.0))
    assert result.success.all()
    assert np.all(np.abs(result.images) <= 1)


def test_ending_a_stalled_round_early_saves_queries():
    patient, hasty = run(abort_early=False), run(abort_early=True)
    assert np.all(patient.queries == 2 + 2 * 6 * 150)  # two queries a step
    assert hasty.queries.mean() < 0.9 * patient.queries.mean()
    np.testing.assert_allclose(hasty.distance, patient.distance, rtol=0.1, atol=2e-3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_steps", 0), ("binary_search_steps", -1), ("step_size", 0.0), ("initial_const", -1.0),
        ("beta", -0.1), ("decision_rule", "L2"), ("confidence", -0.1),
        ("confidence", float("nan")),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(option, value):
    with pytest.raises(ValueError, match=f"expected {option} .*got {value!r}"):
        ead(**{option: value})
