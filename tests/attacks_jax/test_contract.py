"""What holds for every attack, on every attack of the zoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import attacks_jax
from attacks_jax._run import _in_float32
from tests.attacks_jax import toys, zoo
from tests.compilations import counted

KEY = jax.random.key(0)
SHAPE = (5, 4, 1)
CLASSES = 4
LOGITS = toys.random_network(jax.random.key(1), SHAPE, CLASSES)
ORACLE = attacks_jax.stateless(LOGITS)
IMAGES = toys.some_images(0, 12, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))


def goals(targeted, labels=LABELS):
    return (labels + 1) % CLASSES if targeted else labels


@pytest.fixture(params=zoo.EVERY, name="case")
def _case(request):
    return request.param, *zoo.EVERY[request.param]


@pytest.fixture(params=zoo.ONCE, name="once")
def _once(request):
    return request.param, *zoo.ONCE[request.param]


@pytest.fixture(params=zoo.INDEPENDENT, name="independent")
def _independent(request):
    return request.param, *zoo.INDEPENDENT[request.param]


def assert_same(a, b, atol=1e-4):
    np.testing.assert_allclose(a.images, b.images, atol=atol)
    np.testing.assert_array_equal(a.success, b.success)
    np.testing.assert_array_equal(a.queries, b.queries)


def test_every_public_attack_is_in_the_zoo():
    made = {name.split(",")[0].split("-")[0] for name in zoo.EVERY}
    public = {
        name for name in dir(attacks_jax)
        if callable(getattr(attacks_jax, name)) and name[0].islower()
    }  # fmt: skip
    helpers = {"run", "fit", "steps", "stateless", "stochastic", "eot", "bpda"}
    helpers |= {"guarded", "guarded_state"}
    losses = {"cross_entropy", "margin", "dlr"}
    assert made == public - helpers - losses


def test_every_way_to_run_it_gives_the_same(once):
    """Host loop, compiled loop, inside jit, and mapped over keys."""
    name, attack, targeted = once
    labels = goals(targeted)
    atol = 0.02 if name.split(",")[0] in zoo.LEARNING else 1e-4  # training magnifies rounding
    host = attacks_jax.run(attack, ORACLE, KEY, IMAGES, labels, loop="host")
    compiled = attacks_jax.run(attack, ORACLE, KEY, IMAGES, labels, loop="compiled")
    assert_same(host, compiled, atol)

    @jax.jit
    def both(keys):
        return jax.vmap(lambda key: attacks_jax.run(attack, ORACLE, key, IMAGES, labels))(keys)

    mapped = both(jnp.stack([KEY, jax.random.key(1)]))
    assert_same(host, jax.tree.map(lambda leaf: leaf[0], mapped), atol)


def test_no_example_depends_on_its_batch_mates_or_its_place(independent):
    _, attack, targeted = independent
    labels = goals(targeted)
    whole = attacks_jax.run(attack, ORACLE, KEY, IMAGES, labels)
    order = np.array([7, 2, 2, 9, 0])  # another size, other places, a mate twice
    part = attacks_jax.run(attack, ORACLE, KEY, IMAGES[order], labels[order])
    assert_same(part, jax.tree.map(lambda leaf: leaf[order], whole))


def test_success_is_what_the_oracle_says_of_the_images(case):
    _, attack, targeted = case
    labels = goals(targeted)
    result = attacks_jax.run(attack, ORACLE, KEY, IMAGES, labels)
    answers = np.argmax(LOGITS(result.images), -1)
    np.testing.assert_array_equal((answers == labels) == targeted, result.success)
    assert result.images.min() >= 0 and result.images.max() <= 1
    assert result.success.dtype == bool and result.queries.dtype == jnp.int32
    assert result.distance.shape == result.success.shape == result.queries.shape == (12,)


def test_what_is_misclassified_already_is_left_alone(case):
    _, attack, targeted = case
    fooled = LABELS if targeted else (LABELS + 1) % CLASSES
    result = attacks_jax.run(attack, ORACLE, KEY, IMAGES, fooled)
    np.testing.assert_array_equal(result.images, IMAGES)
    assert result.success.all() and not result.distance.any()


def test_an_oracle_that_remembers_is_asked_as_often_as_is_counted(once):
    """It counts its queries and, after the third, answers for the next class."""
    name, attack, targeted = once

    def oracle(count, images):
        logits = LOGITS(images)
        return count + 1, jnp.where(count >= 3, jnp.roll(logits, 1, axis=-1), logits)

    count = jnp.zeros((), int)
    result = attacks_jax.run(attack, oracle, KEY, IMAGES, goals(targeted), oracle_state=count)
    count = int(result.oracle_state)
    if name not in ("auto_attack", "ensemble"):  # whose members' slowest examples differ
        assert count == int(result.queries.max())
    if count > 3:  # the re-check is after the third query
        answers = np.roll(LOGITS(result.images), 1, axis=-1).argmax(-1)
        np.testing.assert_array_equal((answers == goals(targeted)) == targeted, result.success)


@pytest.mark.parametrize("answer", [jnp.float32, jnp.bfloat16])
def test_nothing_changes_its_type_with_64_bits_or_with_narrow_logits(case, answer):
    """Every leaf of the state keeps its shape and type from step to step: nothing is run."""
    _, attack, _ = case

    def oracle(state, images):
        return state, (images.reshape(len(images), -1) @ jnp.ones((20, CLASSES), answer)).astype(
            answer
        )

    with jax.enable_x64(True):
        images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS, jnp.int32)
        wrapped = Partial(_in_float32, Partial(oracle))  # as `run` does
        before = jax.eval_shape(lambda key: attack.init(wrapped, (), key, images, labels), KEY)
        after = jax.eval_shape(lambda state: attack.step(wrapped, state), before)
        result = jax.eval_shape(lambda state: attack.result(wrapped, state), after)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )
    assert (result.images.dtype, result.distance.dtype) == (jnp.float32, jnp.float32)


@pytest.mark.parametrize("logits", [0.0, np.nan])
def test_an_oracle_that_says_nothing_yields_no_success_and_no_nan(once, logits):
    _, attack, targeted = once
    mute = attacks_jax.stateless(Partial(_constant, logits))
    result = attacks_jax.run(attack, mute, KEY, IMAGES, goals(targeted))
    assert not result.success.any()
    assert np.isfinite(result.images).all() and np.isfinite(result.distance).all()
    assert result.images.min() >= 0 and result.images.max() <= 1


def _constant(value, images):
    return 0.0 * images.reshape(len(images), -1)[:, :CLASSES] + value


def test_one_class_only_an_odd_size_and_a_batch_of_one(once):
    _, attack, targeted = once
    image = toys.some_images(5, 1, (7, 5, 3))

    def one_class(images):
        return images.reshape(len(images), -1)[:, :1]

    result = attacks_jax.run(attack, attacks_jax.stateless(one_class), KEY, image, np.zeros(1, int))
    assert result.success.tolist() == [targeted]  # the one class is the target, already
    assert np.isfinite(result.images).all() and np.isfinite(result.distance).all()


def test_an_empty_batch_gives_an_empty_result(case):
    _, attack, _ = case
    result = attacks_jax.run(attack, ORACLE, KEY, IMAGES[:0], LABELS[:0])
    assert result.images.shape == (0, *SHAPE) and result.success.shape == (0,)


MAKERS = {
    "fgsm": lambda s: attacks_jax.fgsm(eps=s),
    "bim": lambda s: attacks_jax.bim(eps=s, num_steps=3),
    "pgd": lambda s: attacks_jax.pgd(eps=s, num_steps=3),
    "mifgsm": lambda s: attacks_jax.mifgsm(eps=s, num_steps=3),
    "apgd": lambda s: attacks_jax.apgd(eps=s, num_steps=3),
    "carlini_wagner_l2": lambda s: attacks_jax.carlini_wagner_l2(
        confidence=s, num_steps=5, binary_search_steps=2
    ),
    "carlini_wagner_linf": lambda s: attacks_jax.carlini_wagner_linf(confidence=s, **zoo.FEW_LINF),
    "carlini_wagner_l0": lambda s: attacks_jax.carlini_wagner_l0(confidence=s, **zoo.FEW_L0),
    "ead": lambda s: attacks_jax.ead(confidence=s, num_steps=5, binary_search_steps=2),
    "deepfool": lambda s: attacks_jax.deepfool(overshoot=s, num_steps=3),
    "jsma": lambda s: attacks_jax.jsma(theta=s, gamma=0.3),
    "nes": lambda s: attacks_jax.nes(eps=s, num_steps=6, samples=2),
    "square": lambda s: attacks_jax.square(eps=s, num_steps=6),
    "auto_attack": lambda s: attacks_jax.auto_attack(eps=s, num_steps=3, num_queries=3),
    "atn": lambda s: attacks_jax.atn(beta=s, num_steps=3),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_sweep_of_strengths_and_of_weights_compiles_once(name):
    def logits(weights, images):
        return images.reshape(images.shape[0], -1) @ weights

    for strength in (0.1, 0.2, 0.3):
        weights = np.full((20, 2), strength, np.float32)
        oracle = attacks_jax.stateless(Partial(logits, weights))
        with counted() as compiled:
            attacks_jax.run(MAKERS[name](strength), oracle, KEY, IMAGES[:4], LABELS[:4] % 2)
        assert strength == 0.1 or not compiled


def test_eps_of_zero_changes_nothing():
    for name in ("fgsm", "bim", "pgd", "mifgsm", "apgd", "nes", "square", "auto_attack"):
        result = attacks_jax.run(MAKERS[name](0.0), ORACLE, KEY, IMAGES, LABELS)
        np.testing.assert_allclose(result.images, IMAGES, atol=1e-7, err_msg=name)
        assert not result.success.any(), name
