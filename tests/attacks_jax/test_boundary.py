"""The Boundary Attack: its walk, its step sizes, and where it ends on a linear classifier."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.boundary import SOURCE_ANSWERS, WALK, boundary
from attacks_jax._batch_ops import norm
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
W = np.random.default_rng(1).normal(size=16).astype(np.float32)
IMAGES = 0.5 + 0.1 * (toys.some_images(2, 4, SHAPE) - 0.5)
LABELS = np.zeros(4, int)


def linear(images):
    """Decisions alone: the logits say nothing of the distance to the other class."""
    difference = (images.reshape(images.shape[0], -1) - 0.5) @ W - 0.4
    return jax.nn.one_hot((difference > 0).astype(int), 2)


NEAREST = (0.4 - (IMAGES.reshape(4, -1) - 0.5) @ W) / np.linalg.norm(W)


def run(oracle=linear, labels=LABELS, images=IMAGES, num_steps=300, **options):
    attack = boundary(num_steps=num_steps, **({"spherical_step": 0.1} | options))
    oracle = attacks_jax.stateless(oracle)
    return attacks_jax.run(attack, oracle, KEY, images, labels, loop="compiled")


def test_comes_near_the_nearest_image_of_a_linear_classifier():
    result = run(num_steps=3000)
    assert result.success.all()
    assert np.all(result.distance >= NEAREST * 0.999)  # nothing nearer exists
    assert np.all(result.distance <= NEAREST * 1.05)


def test_a_larger_budget_is_never_farther():
    attack, oracle = boundary(spherical_step=0.1), attacks_jax.stateless(linear)
    state = attack.init(oracle, (), KEY, jnp.asarray(IMAGES), jnp.asarray(LABELS))
    step = jax.jit(lambda state: attack.step(oracle, state))
    distances = []
    for _ in range(300):
        state = step(state)
        adversarial = linear(state.best)[:, 1] == 1
        distances.append(np.where(adversarial, norm(state.best - IMAGES, "l2"), np.inf))
    for farther, nearer in pairwise(distances):
        assert np.all(nearer <= farther + 1e-6)
    assert np.all(distances[-1] < 0.9 * distances[20])


def walking(**options):
    """The attack, and its state at the beginning of a walk from a corner of the cube."""
    attack = boundary(**options)
    oracle = attacks_jax.stateless(linear)
    state = attack.init(oracle, (), KEY, jnp.asarray(IMAGES), jnp.asarray(LABELS))
    corner = jnp.broadcast_to(jnp.where(W > 0, 0.9, 0.1).reshape(SHAPE), IMAGES.shape)
    phase, left = jnp.full_like(state.memory.phase, WALK), jnp.full_like(state.memory.left, 10)
    memory = state.memory._replace(phase=phase, left=left)
    return attack, state._replace(best=corner, memory=memory)


def test_a_step_of_the_walk_goes_sideways_and_then_towards_the_clean_image():
    attack, state = walking(spherical_step=0.2, source_step=0.1, bounds=(-9.0, 9.0))
    example = jax.tree.map(lambda leaf: leaf[0], state)
    normal = jax.random.normal(KEY, SHAPE)
    on_sphere, onwards = (np.asarray(a) for a in attack._steps(example, normal))
    start, clean = np.asarray(example.best), IMAGES[0]
    distance = np.linalg.norm(start - clean)
    np.testing.assert_allclose(np.linalg.norm(on_sphere - clean), distance, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(onwards - clean), 0.9 * distance, rtol=1e-5)
    cosine = np.sum((on_sphere - clean) * (start - clean)) / distance**2
    np.testing.assert_allclose(cosine, 1 / np.sqrt(1 + 0.2**2), rtol=1e-5)


@pytest.mark.parametrize(("answer", "factor"), [(1, 1.5), (0, 1 / 1.5)])
def test_step_sizes_follow_the_success_rates(answer, factor):
    """Every tenth step of the walk counts, and the look after it: after 30 of them the steps
    towards the clean image change."""
    attack, state = walking()

    def oracle(state, images):
        return state, jax.nn.one_hot(jnp.full(len(images), answer), 2)

    step = jax.jit(lambda state: attack.step(oracle, state))
    for _ in range(11 * SOURCE_ANSWERS - 1):
        state = step(state)
    np.testing.assert_allclose(state.memory.source_step, 0.01)
    state = step(state)
    np.testing.assert_allclose(state.memory.source_step, 0.01 * factor, rtol=1e-6)
    np.testing.assert_allclose(state.memory.spherical_step, 0.01)
    assert np.all(state.memory.source_answers.number == 0)
    assert np.all(state.memory.spherical_answers.number == SOURCE_ANSWERS)


def test_ends_where_it_has_converged():
    assert np.all(run(source_step=1e-8, num_steps=100).queries < 40)


def test_starting_points_are_tried_first():
    points = np.repeat(np.where(W > 0, 1.0, 0.0).reshape(1, *SHAPE), 4, 0).astype(np.float32)
    result = run(starting_points=points, num_steps=1)
    assert result.success.all()
    np.testing.assert_array_equal(result.images, points)
    with pytest.raises(ValueError, match=r"expected starting_points \(4, 4, 4, 1\)"):
        run(starting_points=points[:2])


def test_without_a_starting_point_the_clean_image_comes_back():
    result = run(lambda images: jnp.tile(jnp.array([1.0, 0.0]), (len(images), 1)), init_attempts=9)
    assert not result.success.any()
    np.testing.assert_array_equal(result.images, IMAGES)
    assert np.all(result.queries == 9 + 2)


def test_targeted_comes_near_the_target():
    result = run(labels=1 - LABELS, targeted=True, num_steps=600)
    assert result.success.all() and np.all(result.distance <= NEAREST * 1.4)


@pytest.mark.parametrize(
    "options",
    [
        {"num_steps": 0}, {"spherical_step": 0.0}, {"source_step": -1.0},
        {"step_adaptation": 0.5}, {"init_attempts": 0},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        boundary(**options)
