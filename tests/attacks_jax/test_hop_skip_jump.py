"""HopSkipJump against what is known in closed form: a linear classifier's nearest image."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.hop_skip_jump import hop_skip_jump
from attacks_jax._batch_ops import norm
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
W = np.random.default_rng(1).normal(size=16).astype(np.float32)
IMAGES = 0.5 + 0.1 * (toys.some_images(2, 4, SHAPE) - 0.5)


def linear(images):
    """Decisions alone: the logits say nothing of the distance to the other class."""
    difference = (images.reshape(images.shape[0], -1) - 0.5) @ W - 0.4
    return jax.nn.one_hot((difference > 0).astype(int), 2)


LABELS = np.zeros(4, int)
LEAD = 0.4 - (IMAGES.reshape(4, -1) - 0.5) @ W
NEAREST = {"l2": LEAD / np.linalg.norm(W), "linf": LEAD / np.abs(W).sum()}


def run(oracle=linear, labels=LABELS, images=IMAGES, num_steps=600, **options):
    attack = hop_skip_jump(num_steps=num_steps, **({"initial_gradient_queries": 40} | options))
    oracle = attacks_jax.stateless(oracle)
    return attacks_jax.run(attack, oracle, KEY, images, labels, loop="compiled")


@pytest.mark.parametrize(("kind", "within"), [("l2", 1.05), ("linf", 1.1)])
def test_finds_the_nearest_image_of_a_linear_classifier(kind, within):
    result = run(norm=kind, num_steps=1000)
    assert result.success.all()
    assert np.all(result.distance >= NEAREST[kind] * 0.999)  # nothing nearer exists
    assert np.all(result.distance <= NEAREST[kind] * within)


def test_a_larger_budget_is_never_farther_and_may_end_anywhere():
    attack, oracle = hop_skip_jump(initial_gradient_queries=40), attacks_jax.stateless(linear)
    state = attack.init(oracle, (), KEY, jnp.asarray(IMAGES), jnp.asarray(LABELS))
    step = jax.jit(lambda state: attack.step(oracle, state))
    distances = []
    for _ in range(300):
        state = step(state)
        adversarial = linear(state.best)[:, 1] == 1
        distances.append(np.where(adversarial, norm(state.best - IMAGES, "l2"), np.inf))
    for farther, nearer in pairwise(distances):
        assert np.all(nearer <= farther + 1e-6)
    assert np.all(distances[-1] < 0.8 * distances[20])


def test_starting_points_are_tried_first_and_need_not_be_adversarial():
    points = np.repeat(np.where(W > 0, 1.0, 0.0).reshape(1, *SHAPE), 4, 0).astype(np.float32)
    result = run(starting_points=points, num_steps=1)
    assert result.success.all()
    np.testing.assert_array_equal(result.images, points)
    assert run(starting_points=1 - points, num_steps=600).success.all()
    with pytest.raises(ValueError, match=r"expected starting_points \(4, 4, 4, 1\)"):
        run(starting_points=points[:2])


def test_without_a_starting_point_the_clean_image_comes_back():
    result = run(lambda images: jnp.tile(jnp.array([1.0, 0.0]), (len(images), 1)), init_attempts=9)
    assert not result.success.any()
    np.testing.assert_array_equal(result.images, IMAGES)
    assert np.all(result.queries == 9 + 2)


def test_targeted_comes_near_the_target():
    result = run(labels=1 - LABELS, targeted=True, num_steps=600)
    assert result.success.all() and np.all(result.distance <= NEAREST["l2"] * 1.4)


def test_other_bounds_scale_with_the_pixels():
    def stretched(images):
        return linear((images + 3) / 4)

    wide = run(stretched, images=4 * IMAGES - 3, bounds=(-3.0, 1.0), num_steps=1000)
    assert wide.success.all()
    assert np.all(wide.distance <= 4 * NEAREST["l2"] * 1.05)


def test_an_oracle_that_changes_its_mind_leaves_the_nearest_image_so_far():
    """After 200 queries nothing is adversarial any more: the budget still ends the attack."""

    def oracle(count, images):
        logits = linear(images)
        return count + 1, jnp.where(count < 200, logits, jnp.array([1.0, 0.0]))

    attack = hop_skip_jump(num_steps=400, initial_gradient_queries=40)
    zero = jnp.int32(0)
    result = attacks_jax.run(
        attack, oracle, KEY, IMAGES, LABELS, oracle_state=zero, loop="compiled"
    )
    assert not result.success.any() and np.all(result.queries == 402)
    assert np.all(linear(result.images)[:, 1] == 1)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "l1"}, {"gamma": 0.0}, {"num_steps": 0}, {"init_attempts": 0},
        {"initial_gradient_queries": 0}, {"max_gradient_queries": 0},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        hop_skip_jump(**options)
