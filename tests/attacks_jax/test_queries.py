"""What every attack that only asks should keep to beside the contract: its budget, its bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import attacks_jax
from attacks_jax import boundary, hop_skip_jump, nes, one_pixel, square
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (5, 7, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
IMAGES = toys.some_images(0, 6, SHAPE)
LABELS = np.argmax(LOGITS(IMAGES), -1)
STEPS = 60


def make(name, **options):
    makers = {
        "square": lambda: square(eps=0.05, num_steps=STEPS, **options),
        "square l2": lambda: square(eps=0.3, num_steps=STEPS, norm="l2", **options),
        "nes": lambda: nes(eps=0.05, num_steps=STEPS, samples=10, **options),
        "boundary": lambda: boundary(num_steps=STEPS, **options),
        "hop_skip_jump": lambda: hop_skip_jump(
            num_steps=STEPS, initial_gradient_queries=10, **options
        ),
        "one_pixel": lambda: one_pixel(num_steps=STEPS, population=10, **options),
    }
    return makers[name]()


NAMES = ["square", "square l2", "nes", "boundary", "hop_skip_jump", "one_pixel"]


@pytest.fixture(params=NAMES, name="name", scope="module")
def _name(request):
    return request.param


@pytest.fixture(name="attack", scope="module")
def _attack(name):
    return make(name)


def watching(state, images):
    """Counts its queries and sees whether images are out of bounds."""
    count, low, high = state
    return (count + 1, jnp.minimum(low, images.min()), jnp.maximum(high, images.max())), LOGITS(
        images
    )


UNASKED = (jnp.int32(0), jnp.ones(()), jnp.zeros(()))


@pytest.fixture(name="result", scope="module")
def _result(attack):
    return attacks_jax.run(attack, watching, KEY, IMAGES, LABELS, oracle_state=UNASKED)


def test_each_step_is_one_query_within_budget_and_bounds(result):
    count, low, high = result.oracle_state
    assert int(count) == int(result.queries.max()) <= STEPS + 2
    assert 0 <= low <= high <= 1


def constant(logits, images):
    return jnp.broadcast_to(logits, (len(images), len(logits)))


def test_what_is_partly_no_number_yields_no_success_and_no_nan(attack):
    for logits in ([np.nan, 1.0], [1.0, -np.inf]):
        oracle = attacks_jax.stateless(Partial(constant, jnp.array(logits)))
        labels = np.zeros(6, int)
        result = attacks_jax.run(attack, oracle, KEY, IMAGES, labels, loop="compiled")
        assert not result.success.any()
        assert np.isfinite(result.images).all() and np.isfinite(result.distance).all()


def test_targeted_within_other_bounds(name):
    shape = (9, 6, 3)
    logits = toys.random_network(jax.random.key(2), shape, classes=3)
    images = 4 * toys.some_images(1, 2, shape) - 2
    targets = (np.argmax(logits(images), -1) + 1) % 3
    pixels = {"sigma": 0.004, "step_size": 0.04} if name == "nes" else {}
    attack = make(name, bounds=(-2.0, 2.0), targeted=True, **pixels)
    oracle = attacks_jax.stateless(logits)
    result = attacks_jax.run(attack, oracle, KEY, images, targets, loop="compiled")
    assert np.isfinite(result.distance).all()
    assert result.images.min() >= -2 and result.images.max() <= 2
    reached = np.argmax(logits(result.images), -1) == targets
    np.testing.assert_array_equal(result.success, reached)


def test_a_win_that_may_be_rounding_is_no_win():
    """The first logit is ahead by a millionth: another compilation may say otherwise."""

    def oracle(count, images):
        ahead = jnp.where(count == 0, -1.0, 1e-6)
        return count + 1, jnp.tile(jnp.stack([ahead + 1, jnp.ones(())]), (len(images), 1))

    attack = square(num_steps=5)
    result = attacks_jax.run(
        attack, oracle, KEY, IMAGES, np.ones(6, int), oracle_state=jnp.int32(0), loop="compiled"
    )
    assert np.all(result.queries == 7)
