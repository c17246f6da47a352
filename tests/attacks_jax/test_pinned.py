"""A callable that closes over weights is compiled anew when they have changed, and only then."""

import dataclasses
import types

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import attacks_jax
from attacks_jax._pinned import pinned
from tests.attacks_jax import toys
from tests.compilations import counted

KEY = jax.random.key(0)
SHAPE, CLASSES = (4, 4, 1), 3
IMAGES = toys.some_images(0, 8, SHAPE)
WEIGHTS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, CLASSES)), jnp.float32)
ATTACK = attacks_jax.pgd(eps=0.3, step_size=0.1, num_steps=5)

weights = WEIGHTS[0]  # a global that changes
box = types.SimpleNamespace(weights=WEIGHTS[0])  # an object whose attribute changes


def flat(images):
    return images.reshape(images.shape[0], 16) - 0.5


def of_a_global(images):
    return flat(images) @ weights


def of_an_attribute(images):
    return flat(images) @ box.weights


class Linen(nn.Module):
    activation: object = nn.relu
    factor: float = 1.0

    @nn.compact
    def __call__(self, images):
        return nn.Dense(CLASSES)(self.factor * self.activation(flat(images)))


class Layers(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(16, CLASSES, rngs=nnx.Rngs(0))
        self.activation = jnp.tanh

    def __call__(self, images):
        return self.dense(self.activation(flat(images)))


class Tree(equinox.Module):
    kernel: jax.Array
    activation: object = jnp.tanh

    def __call__(self, images):
        return self.activation(flat(images)) @ self.kernel

    def ask(self, images):
        return self(images)


@dataclasses.dataclass
class Plain:
    kernel: object

    def __call__(self, images):
        return flat(images) @ self.kernel


def closures():
    """name -> (a classifier, a function that changes its weights in place)"""

    def to_second_global():
        global weights
        weights = WEIGHTS[1]

    def closure():
        cell = WEIGHTS[0]

        def change():
            nonlocal cell
            cell = WEIGHTS[1]

        return (lambda images: flat(images) @ cell), change

    module, held, array = Layers(), {"w": WEIGHTS[0]}, np.array(WEIGHTS[0])
    plain, listed = Plain(WEIGHTS[0]), [WEIGHTS[0]]

    def retrain():
        module.dense.kernel[...] = WEIGHTS[1]

    def default(images, kernel=held):
        return flat(images) @ kernel["w"]

    return {
        "a global": (of_a_global, to_second_global),
        "an attribute": (of_an_attribute, lambda: setattr(box, "weights", WEIGHTS[1])),
        "a closure": closure(),
        "a dict": (lambda x: flat(x) @ held["w"], lambda: held.update(w=WEIGHTS[1])),
        "a default": (default, lambda: held.update(w=WEIGHTS[1])),
        "a list": (lambda x: flat(x) @ listed[0], lambda: listed.__setitem__(0, WEIGHTS[1])),
        "an array": (lambda x: flat(x) @ array, lambda: np.copyto(array, WEIGHTS[1])),
        "an nnx module": (module, retrain),
        "a function of an nnx module": (lambda x: module(x), retrain),
        "a bound method of an nnx module": (module.__call__, retrain),
        "an nnx module as an argument": (Partial(lambda m, x: m(x), module), retrain),
        "an object": (plain, lambda: setattr(plain, "kernel", WEIGHTS[1])),
        "a function of a function": (
            lambda x: of_an_attribute(x) + 0,
            lambda: setattr(box, "weights", WEIGHTS[1]),
        ),
    }


@pytest.fixture(autouse=True)
def _fresh():
    global weights
    weights, box.weights = WEIGHTS[0], WEIGHTS[0]


@pytest.mark.parametrize("name", closures())
def test_weights_that_changed_in_place_are_the_ones_attacked(name):
    classifier, change = closures()[name]
    oracle = attacks_jax.stateless(classifier)

    def fooled():
        labels = np.argmax(classifier(IMAGES), -1)
        result = attacks_jax.run(ATTACK, oracle, KEY, IMAGES, labels)
        right = np.argmax(classifier(result.images), -1) == labels
        np.testing.assert_array_equal(result.success, ~right)
        return np.asarray(result.images)

    before = fooled()
    with counted() as compiled:
        np.testing.assert_array_equal(fooled(), before)
    assert not compiled
    change()
    assert np.any(fooled() != before)


@pytest.mark.parametrize("bound", ["itself", "method", "lambda", "argument"])
def test_an_equinox_module_is_attacked_however_it_is_bound(bound):
    for kernel in WEIGHTS:
        module = Tree(kernel)
        classifier = {
            "itself": module,
            "method": module.ask,
            "lambda": lambda x, module=module: module(x),
            "argument": Partial(lambda m, x: m(x), module),
        }[bound]
        labels = np.argmax(module(IMAGES), -1)
        result = attacks_jax.run(ATTACK, attacks_jax.stateless(classifier), KEY, IMAGES, labels)
        answers = np.argmax(module(result.images), -1)
        np.testing.assert_array_equal(result.success, answers != labels)


def test_a_module_bound_as_an_argument_is_not_compiled_in():
    def ask(module, images):
        return module(images)

    labels = np.zeros(len(IMAGES), int)
    for kernel in WEIGHTS:
        oracle = attacks_jax.stateless(Partial(ask, Tree(kernel)))
        with counted() as compiled:
            attacks_jax.run(ATTACK, oracle, KEY, IMAGES, labels)
    assert not compiled


def test_losses_and_detectors_that_close_over_weights_are_traced_anew_too():
    held = {"sign": 1.0}

    def loss(logits, labels, images):
        return held["sign"] * attacks_jax.margin(logits, labels, images)

    attack = attacks_jax.fgsm(eps=0.1, loss=loss)
    labels = np.argmax(of_a_global(IMAGES), -1)
    oracle = attacks_jax.stateless(of_a_global)
    up = attacks_jax.run(attack, oracle, KEY, IMAGES, labels).images
    held["sign"] = -1.0
    down = attacks_jax.run(attack, oracle, KEY, IMAGES, labels).images
    inside = (IMAGES > 0.1) & (IMAGES < 0.9)
    np.testing.assert_allclose((up - IMAGES)[inside], (IMAGES - down)[inside], atol=1e-6)


def test_the_same_code_over_the_same_weights_is_compiled_once():
    """A lambda that is written anew in every round of a loop."""
    kernel = WEIGHTS[0]
    labels = np.zeros(len(IMAGES), int)
    for _ in range(2):
        oracle = attacks_jax.stateless(lambda images: flat(images) @ kernel)
        with counted() as compiled:
            attacks_jax.run(ATTACK, oracle, KEY, IMAGES, labels)
    assert not compiled


def test_what_cannot_be_looked_into_is_traced_at_each_call():
    """A generator's next value is nobody's attribute."""
    values = iter([1.0, -1.0, 1.0, -1.0] * 100)
    key = pinned(Partial(lambda images: flat(images) * next(values))).func
    assert key != pinned(Partial(key.function)).func
    dynamic = Partial(lambda images: flat(images) @ globals()["weights"])
    assert pinned(dynamic).func != pinned(dynamic).func


def test_equal_linen_modules_are_one_key_and_others_are_not():
    def key(module):
        return pinned(Partial(module.apply)).func

    for make in (nn.Dense, lambda factor: Linen(factor=factor)):
        assert key(make(3)) == key(make(3)) and hash(key(make(3))) == hash(key(make(3)))
        assert key(make(3)) != key(make(4))
    assert key(Linen(nn.relu)) != key(Linen(nn.tanh))


def test_a_network_that_changes_itself_is_refused_in_words():
    training = nnx.Sequential(lambda x: x.reshape(len(x), 16), nnx.BatchNorm(16, rngs=nnx.Rngs(0)))
    labels = np.zeros(len(IMAGES), int)
    with pytest.raises(ValueError, match=r"module\.eval\(\)"):
        attacks_jax.run(ATTACK, attacks_jax.stateless(training), KEY, IMAGES, labels)
    training.eval()
    attacks_jax.run(ATTACK, attacks_jax.stateless(training), KEY, IMAGES, labels)

    linen = nn.BatchNorm(use_running_average=False)
    variables = linen.init(KEY, IMAGES)
    with pytest.raises(ValueError, match="evaluation mode"):
        oracle = attacks_jax.stateless(Partial(linen.apply, variables))
        attacks_jax.run(ATTACK, oracle, KEY, IMAGES, labels)
