"""The loop driver at its edge: what it refuses, and in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
IMAGES = toys.some_images(0, 6, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))
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


def test_images_that_are_constants_of_a_jit_are_checked_and_attacked(attack):
    oracle, images, labels = attacks_jax.stateless(LOGITS), jnp.asarray(IMAGES), jnp.asarray(LABELS)
    jitted = jax.jit(lambda key: attacks_jax.run(attack, oracle, key, images, labels))
    assert_same(jitted(KEY), attacks_jax.run(attack, oracle, KEY, images, labels))
    outside = images * 2 - 1
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        jax.jit(lambda key: attacks_jax.run(attack, oracle, key, outside, labels))(KEY)


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


@pytest.mark.parametrize("key", [jax.random.PRNGKey(0), jax.random.split(KEY, 2), 0, None])
def test_what_is_no_key_is_refused(attack, key):
    with pytest.raises(ValueError, match=r"expected one typed key, jax.random.key\(seed\), got"):
        attacks_jax.run(attack, attacks_jax.stateless(LOGITS), key, IMAGES, LABELS)


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_labels_of_any_integer_type_are_the_same_labels(attack, kind):
    oracle = attacks_jax.stateless(LOGITS)
    a, b = (attacks_jax.run(attack, oracle, KEY, IMAGES, LABELS.astype(t)) for t in (kind, int))
    assert_same(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 2.5}, "expected num_steps to be a whole number, got 2.5"),
        ({"eps": "0.3"}, "expected eps to be a number, got '0.3'"),
        ({"eps": np.array([0.1, 0.2])}, "expected eps to be a number, got"),
        ({"eps": jnp.array([0.1, 0.2])}, r"expected eps to be one number, got shape \(2,\)"),
        ({"eps": np.float32(-1)}, "expected eps to be 0 or above, got -1"),
        ({"restarts": True}, "expected restarts to be a number, got True"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        attacks_jax.pgd(**options)
