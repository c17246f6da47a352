"""The one-pixel attack: how many pixels, which one, and how its population evolves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.one_pixel import one_pixel
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (6, 5, 3)
IMAGES = 0.5 * toys.some_images(0, 4, SHAPE)
LABELS = np.zeros(4, int)


def weak_spot(images):
    """One channel of one pixel decides, when it is bright."""
    lead = 20 * (0.6 - images[:, 4, 2, 1])
    return jnp.stack([lead, 0 * lead], axis=-1)


def run(oracle=weak_spot, labels=LABELS, **options):
    attack = one_pixel(**({"population": 60, "generations": 10} | options))
    oracle = attacks_jax.stateless(oracle)
    return attacks_jax.run(attack, oracle, KEY, IMAGES, labels, loop="compiled")


def changed(result):
    return np.any(np.asarray(result.images) != IMAGES, axis=-1)


def test_finds_the_pixel_that_decides():
    result = run()
    assert result.success.all()
    assert np.all(result.distance == 1) and np.all(changed(result)[:, 4, 2])
    assert np.all(result.images[:, 4, 2, 1] > 0.6)
    assert np.all(result.queries < 60 * 11 + 2)


def test_changes_no_more_pixels_than_it_may():
    logits = toys.random_network(jax.random.key(3), SHAPE, classes=3)
    result = run(logits, np.argmax(logits(IMAGES), -1), pixels=3, generations=2)
    counts = changed(result).sum((1, 2))
    assert np.all(counts <= 3)
    np.testing.assert_array_equal(result.distance, counts)


def test_evolution_improves_on_the_first_generation_and_never_gets_worse():
    """Out of reach: the whole image's mean would have to be above one."""

    def far(images):
        return jnp.stack([jnp.ones(len(images)), images.mean((1, 2, 3)) - 0.1], axis=-1)

    means = [run(far, generations=n).images.mean((1, 2, 3)) for n in (0, 12)]
    assert np.all(means[0] > IMAGES.mean((1, 2, 3))) and np.all(means[1] > means[0])


def test_budget_is_generations_of_queries_unless_given():
    hopeless = lambda images: jnp.tile(jnp.array([1.0, 0.0]), (len(images), 1))  # noqa: E731
    result = run(hopeless, population=7, generations=3)
    assert np.all(result.queries == 7 * 4 + 2)
    np.testing.assert_array_equal(result.images, IMAGES)  # no candidate is any better
    assert one_pixel(num_steps=5).stages == (5,)
    assert one_pixel().stages == (400 * 101,)


def test_a_child_takes_its_parent_s_place_only_if_it_is_fitter():
    attack = one_pixel(population=5, generations=4)

    def mean(images):
        return jnp.stack([5 - images.mean((1, 2, 3)), jnp.zeros(len(images))], axis=-1)

    oracle = attacks_jax.stateless(mean)
    step = jax.jit(lambda state: attack.step(oracle, state))
    state = attack.init(oracle, (), KEY, jnp.asarray(IMAGES), jnp.asarray(LABELS))
    for _ in range(5):
        state = step(state)
    np.testing.assert_array_equal(state.memory.parents, state.memory.population)
    first = state.memory.scores
    for _ in range(4):
        state = step(state)
    kept = state.memory.scores == first
    same = np.all(state.memory.parents == state.memory.population, axis=(2, 3))
    np.testing.assert_array_equal(kept, same)
    assert np.all(state.memory.scores >= first) and not kept.all()


def test_targeted_goes_for_the_target():
    assert run(labels=1 - LABELS, targeted=True).success.all()


@pytest.mark.parametrize(
    "options", [{"pixels": 0}, {"population": 2}, {"num_steps": 0}, {"generations": -1}]
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        one_pixel(**options)
