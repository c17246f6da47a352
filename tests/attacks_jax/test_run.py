"""The loop driver: one result however the steps are driven, and the contract of an attack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
IMAGES = toys.some_images(0, 6, SHAPE)
LABELS = np.argmax(LOGITS(IMAGES), -1)
ATTACKS = {
    "fgsm": attacks_jax.fgsm(eps=0.1),
    "carlini_wagner_l2": attacks_jax.carlini_wagner_l2(
        num_steps=40, binary_search_steps=3, initial_const=1.0
    ),
}


@pytest.fixture(params=ATTACKS, name="attack")
def _attack(request):
    return ATTACKS[request.param]


def assert_same(a, b):
    np.testing.assert_allclose(a.images, b.images, atol=1e-4)
    np.testing.assert_array_equal(a.success, b.success)
    np.testing.assert_array_equal(a.queries, b.queries)


def test_host_loop_compiled_loop_and_jit_agree(attack):
    oracle = attacks_jax.stateless(LOGITS)
    host = attacks_jax.run(attack, oracle, KEY, IMAGES, LABELS, loop="host")
    compiled = attacks_jax.run(attack, oracle, KEY, IMAGES, LABELS, loop="compiled")
    jitted = jax.jit(lambda x, y: attacks_jax.run(attack, oracle, KEY, x, y))(IMAGES, LABELS)
    assert_same(host, compiled)
    assert_same(host, jitted)


def test_images_that_are_constants_of_a_jit_are_checked_and_attacked(attack):
    oracle, images, labels = attacks_jax.stateless(LOGITS), jnp.asarray(IMAGES), jnp.asarray(LABELS)
    jitted = jax.jit(lambda key: attacks_jax.run(attack, oracle, key, images, labels))
    assert_same(jitted(KEY), attacks_jax.run(attack, oracle, KEY, images, labels))
    outside = images * 2 - 1
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        jax.jit(lambda key: attacks_jax.run(attack, oracle, key, outside, labels))(KEY)


def test_vmapped_runs_equal_plain_ones(attack):
    oracle = attacks_jax.stateless(LOGITS)
    keys = jax.random.split(KEY, 2)
    vmapped = jax.vmap(lambda key: attacks_jax.run(attack, oracle, key, IMAGES, LABELS))(keys)
    for i in range(2):
        plain = attacks_jax.run(attack, oracle, keys[i], IMAGES, LABELS)
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], vmapped), plain)


def test_the_result_does_not_depend_on_the_chunks(attack):
    oracle = attacks_jax.stateless(LOGITS)
    whole = attacks_jax.run(attack, oracle, KEY, IMAGES, LABELS)
    for i in range(0, len(IMAGES), 2):
        rows = slice(i, i + 2)
        part = attacks_jax.run(attack, oracle, KEY, IMAGES[rows], LABELS[rows])
        np.testing.assert_allclose(part.distance, whole.distance[rows], rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(part.success, whole.success[rows])


def test_success_is_what_the_oracle_says_of_the_returned_images(attack):
    result = attacks_jax.run(attack, attacks_jax.stateless(LOGITS), KEY, IMAGES, LABELS)
    fooled = np.argmax(LOGITS(result.images), -1) != LABELS
    np.testing.assert_array_equal(fooled, result.success)


@pytest.mark.parametrize(
    "make",
    [
        lambda strength: attacks_jax.fgsm(eps=strength),
        lambda strength: attacks_jax.carlini_wagner_l2(
            confidence=strength, num_steps=5, binary_search_steps=2
        ),
    ],
)
def test_a_sweep_of_strengths_and_of_weights_compiles_once(make):
    traces = []

    def logits(weights, images):
        traces.append(1)
        return images.reshape(images.shape[0], -1) @ weights

    counts = []
    for strength in (0.1, 0.2, 0.3):
        oracle = attacks_jax.stateless(Partial(logits, np.full((16, 2), strength, np.float32)))
        attacks_jax.run(make(strength), oracle, KEY, IMAGES, LABELS % 2)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


def test_an_oracle_that_remembers_threads_its_state_through_every_query(attack):
    """It counts its queries and, after the third, answers for another class."""

    def oracle(count, images):
        logits = LOGITS(images)
        return count + 1, jnp.where(count >= 3, jnp.roll(logits, 1, axis=-1), logits)

    for loop in ("host", "compiled"):
        result = attacks_jax.run(
            attack, oracle, KEY, IMAGES, LABELS, oracle_state=jnp.zeros((), int), loop=loop
        )
        assert int(result.oracle_state) == int(result.queries.max())
        if attack is ATTACKS["fgsm"]:
            assert int(result.oracle_state) == 2
        else:  # the re-check comes after the third query: the rolled logits answer it
            rolled = np.argmax(np.roll(LOGITS(result.images), 1, axis=-1), -1)
            np.testing.assert_array_equal(result.success, rolled != LABELS)


def test_an_empty_batch_and_a_batch_of_one(attack):
    oracle = attacks_jax.stateless(LOGITS)
    assert attacks_jax.run(attack, oracle, KEY, IMAGES[:0], LABELS[:0]).images.shape == (0, *SHAPE)
    assert attacks_jax.run(attack, oracle, KEY, IMAGES[:1], LABELS[:1]).success.shape == (1,)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES[0], r"float32 \(4, 4, 1\)"),
        ((IMAGES * 255).astype(np.uint8), "got uint8"),
        (IMAGES * 2, r"in \[0, 1\], got float32 \(6, 4, 4, 1\) with min"),
        (np.full_like(IMAGES, np.nan), "nan"),
        (IMAGES.astype(np.float64), "float64"),
    ],
)
def test_wrong_images_are_refused_in_words(attack, images, message):
    with pytest.raises(ValueError, match=message):
        attacks_jax.run(attack, attacks_jax.stateless(LOGITS), KEY, images, LABELS)


@pytest.mark.parametrize("labels", [LABELS[:3], LABELS.astype(np.float32), LABELS[:, None]])
def test_wrong_labels_are_refused_in_words(attack, labels):
    with pytest.raises(ValueError, match=r"expected labels \(6,\) of an integer type"):
        attacks_jax.run(attack, attacks_jax.stateless(LOGITS), KEY, IMAGES, labels)


@pytest.mark.parametrize("label", [-1, 4])
def test_labels_of_no_class_are_refused(attack, label):
    labels = np.where(np.arange(6) == 3, label, LABELS)
    with pytest.raises(ValueError, match=r"expected labels in \[0, 4\), got"):
        attacks_jax.run(attack, attacks_jax.stateless(LOGITS), KEY, IMAGES, labels)


def test_an_oracle_without_logits_and_a_loop_of_no_name_are_refused(attack):
    with pytest.raises(ValueError, match=r"logits \(6, K\), got \(6,\)"):
        attacks_jax.run(
            attack, attacks_jax.stateless(lambda x: LOGITS(x)[:, 0]), KEY, IMAGES, LABELS
        )
    with pytest.raises(ValueError, match="got 'fast'"):
        attacks_jax.run(attack, attacks_jax.stateless(LOGITS), KEY, IMAGES, LABELS, loop="fast")


@pytest.mark.parametrize("bounds", [(1.0, 0.0), (0.0, float("inf")), (0.0, float("nan"))])
def test_wrong_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="low < high"):
        attacks_jax.fgsm(bounds=bounds)


def test_the_host_loop_inside_jit_is_refused(attack):
    oracle = attacks_jax.stateless(LOGITS)
    with pytest.raises(ValueError, match="compiled"):
        jax.jit(lambda x: attacks_jax.run(attack, oracle, KEY, x, LABELS, loop="host"))(IMAGES)
