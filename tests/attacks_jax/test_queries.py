"""What every attack that only asks should keep to: its budget, its bounds, and its word."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import attacks_jax
from attacks_jax._boundary import boundary
from attacks_jax._hop_skip_jump import hop_skip_jump
from attacks_jax._nes import nes
from attacks_jax._one_pixel import one_pixel
from attacks_jax._square import square
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (5, 7, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
ORACLE = attacks_jax.stateless(LOGITS)
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


def assert_same(a, b):
    np.testing.assert_allclose(a.images, b.images, atol=1e-4)
    np.testing.assert_array_equal(a.success, b.success)
    np.testing.assert_array_equal(a.queries, b.queries)


def test_success_is_what_the_classifier_says(result):
    fooled = np.argmax(LOGITS(result.images), -1) != LABELS
    np.testing.assert_array_equal(result.success, fooled)
    assert result.success.any()


def test_the_compiled_loop_and_every_key_of_a_vmap_agree_with_the_host_loop(attack, result):
    keys = jnp.stack([KEY, jax.random.key(5)])

    @jax.jit  # with a traced attack: its strengths are arguments of the program
    def compiled(attack, keys):
        return jax.vmap(lambda key: attacks_jax.run(attack, ORACLE, key, IMAGES, LABELS))(keys)

    both = compiled(attack, keys)
    assert_same(jax.tree.map(lambda leaf: leaf[0], both), result)
    assert np.any(both.images[0] != both.images[1])


def test_no_example_depends_on_its_batch_mates(attack, result):
    alone = attacks_jax.run(attack, ORACLE, KEY, IMAGES[2:3], LABELS[2:3], loop="compiled")
    np.testing.assert_allclose(alone.images[0], result.images[2], atol=1e-3)
    assert alone.queries[0] == result.queries[2]


def test_each_step_is_one_query_within_budget_and_bounds(result):
    count, low, high = result.oracle_state
    assert int(count) == int(result.queries.max()) <= STEPS + 2
    assert 0 <= low <= high <= 1


def test_images_that_are_misclassified_already_are_left_alone(attack):
    labels = np.where(np.arange(6) < 3, (LABELS + 1) % 4, LABELS)
    result = attacks_jax.run(attack, watching, KEY, IMAGES, labels, oracle_state=UNASKED)
    np.testing.assert_array_equal(result.images[:3], IMAGES[:3])
    assert np.all(result.success[:3]) and np.all(result.distance[:3] == 0)
    assert np.all(result.queries[:3] == 2)  # the first look and the last


def constant(logits, images):
    return jnp.broadcast_to(logits, (len(images), len(logits)))


def test_nothing_to_find_yields_no_success_and_no_nan(attack):
    for logits in ([0.0, 0.0], [np.nan, np.nan], [np.nan, 1.0], [1.0, -np.inf]):
        oracle = attacks_jax.stateless(Partial(constant, jnp.array(logits)))
        labels = np.zeros(6, int)
        result = attacks_jax.run(attack, oracle, KEY, IMAGES, labels, loop="compiled")
        assert not result.success.any()
        assert np.isfinite(result.images).all() and np.isfinite(result.distance).all()


@pytest.mark.parametrize("name", ["square", "nes"])
def test_one_class_leaves_nothing_to_find(name):
    oracle = attacks_jax.stateless(Partial(constant, jnp.ones(1)))
    labels = np.zeros(6, int)
    result = attacks_jax.run(make(name), oracle, KEY, IMAGES, labels, loop="compiled")
    assert not result.success.any() and np.isfinite(result.images).all()


def test_targeted_within_other_bounds(name):
    shape = (9, 6, 3)
    logits = toys.random_network(jax.random.key(2), shape, classes=3)
    images = 4 * toys.some_images(1, 2, shape) - 2
    targets = (np.argmax(logits(images), -1) + 1) % 3
    attack = make(name, bounds=(-2.0, 2.0), targeted=True)
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
