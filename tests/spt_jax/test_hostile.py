"""Images that are not finite or out of range, and networks that don't answer as networks do.

Where pixels can be seen such images are refused. Inside jit they can't be: then the decoy answers,
and the memory is as if they had never come.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

import spt_jax
from tests.spt_jax import toys
from tests.spt_jax.toys import assert_same

ENCODER = Partial(lambda images: images.reshape(images.shape[0], -1)[:, :8])
NETS = (toys.classifier, toys.decoy)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counter:
    """One's own automaton, that knows nothing of hostile images: it adds up what it is sent."""

    limit: float | jax.Array = 20.0
    consults = 0

    def init(self, image_shape):
        return jnp.zeros((), jnp.float32)

    def observe(self, images, labels):
        return images.mean(axis=(1, 2, 3))

    def update(self, memory, evidence):
        total = memory + evidence
        return total, total > self.limit


SYSTEMS = toys.SYSTEMS | {
    "blacklight": spt_jax.blacklight(*NETS, threshold=3, window=4, fingerprint_size=8, capacity=9),
    "osd": spt_jax.osd(*NETS, ENCODER, threshold=0.01, neighbours=2, capacity=9),
    "one's own": spt_jax.package(Counter(), *NETS),
}
HOSTILE = {
    "NaN": np.float32(np.nan),
    "infinite": np.float32(np.inf),
    "too bright": np.nextafter(np.float32(1), np.float32(2)),
    "negative": np.float32(-1e-6),
}


@pytest.fixture(params=SYSTEMS, name="system")
def _system(request):
    return SYSTEMS[request.param]


def spoilt(image, kind):
    image = np.array(image)
    image[1, 2, 0] = HOSTILE[kind]
    return image


@pytest.mark.parametrize("kind", HOSTILE)
def test_inside_jit_a_hostile_image_is_the_decoy_s_and_leaves_no_trace(system, kind):
    stream = toys.streams(0, 1, 12)[0]
    query = jax.jit(system.query)
    state = system.init(toys.SHAPE, toys.key_for(system))
    for i, image in enumerate(stream):
        if i % 3 == 2:
            after, answer = query(state, spoilt(image, kind))
            assert answer.deceived and np.isfinite(answer.logits).all()
            assert_same(after.memory, state.memory)
        plain, expected = system.query(state, image)
        state, answer = query(state, image)
        assert_same(state, plain)
        np.testing.assert_array_equal(answer.deceived, expected.deceived)


def test_a_stream_many_clients_and_a_server_keep_it_out_too(system):
    """Every fourth image is hostile: the others are answered as if these had not come."""
    stream = toys.streams(1, 3, 16)
    mixed, hostile = np.array(stream), np.arange(16) % 4 == 3
    mixed[:, hostile, 0, 0, 0] = np.nan
    key = toys.key_for(system)
    states = system.init_clients(3, toys.SHAPE, key)
    _, clean = system.query_streams(states, stream[:, ~hostile])
    _, answers = jax.jit(system.query_streams)(states, mixed)
    assert answers.deceived[:, hostile].all()
    np.testing.assert_array_equal(answers.deceived[:, ~hostile], clean.deceived)

    server = spt_jax.serve(system, 8)
    query = jax.jit(server.query)
    table, found = server.init(toys.SHAPE, key), []
    for turn in range(16):
        table, answer = query(table, jnp.arange(3, dtype=jnp.int32), mixed[:, turn])
        found.append(answer.deceived)
    np.testing.assert_array_equal(np.stack(found, axis=1), answers.deceived)


def test_a_nan_pixel_in_every_tenth_image_does_not_blind_a_chain():
    rng = np.random.default_rng(0)
    images = np.clip(0.5 + 1e-3 * rng.normal(size=(300, *toys.SHAPE)), 0, 1).astype(np.float32)
    system = spt_jax.chain(*NETS)
    server = spt_jax.serve(system, 4)
    query = jax.jit(server.query)

    def deceived(images):
        table, count = server.init(toys.SHAPE), 0
        for image in images:
            table, answer = query(table, jnp.zeros(1, jnp.int32), image[None])
            count += int(answer.deceived[0])
        return count

    without = deceived(images)
    images[::10, 0, 0, 0] = np.nan
    assert without > 200 and deceived(images) > 200


def test_what_an_encoder_cannot_number_is_not_stored():
    """Images within range that make one's own network answer NaN."""

    def encode(images):
        flat = images.reshape(images.shape[0], -1)[:, :8]
        return jnp.where(images.max(axis=(1, 2, 3))[:, None] > 0.99, jnp.nan, flat)

    system = spt_jax.osd(*NETS, encode, threshold=0.01, neighbours=2, capacity=9)
    state = system.init(toys.SHAPE)
    after, answer = system.query(state, np.ones(toys.SHAPE, np.float32))
    assert answer.deceived
    assert_same(after, state)


def test_the_gradient_of_a_hostile_image_is_finite():
    system = toys.SYSTEMS["buffer"]
    states = system.init_clients(2, toys.SHAPE)
    images = np.stack([spoilt(np.full(toys.SHAPE, 0.5, np.float32), kind) for kind in HOSTILE][:2])
    gradient = jax.jit(jax.grad(lambda x: system.query_clients(states, x)[1].logits.sum()))(images)
    assert np.isfinite(gradient).all()


def test_other_bounds_may_be_given_to_attacks_that_leave_the_range():
    from dataclasses import replace

    system = replace(toys.SYSTEMS["buffer"], bounds=(-10.0, 10.0))
    state = system.init(toys.SHAPE)
    image = np.full(toys.SHAPE, 3.0, np.float32)
    after, answer = jax.jit(system.query)(state, image)
    assert not answer.deceived and np.any(after.memory.images == 3.0)
    with pytest.raises(ValueError, match=r"in \[-10, 10\]"):
        system.query(state, image * 10)


def test_nothing_is_asked_about_nothing():
    """Networks that reshape by the batch's size can't be called on an empty batch."""

    def picky(network, images):
        return network(images.reshape((images.shape[0], -1)).reshape(-1, *toys.SHAPE))

    system = spt_jax.agreement(partial(picky, toys.classifier), partial(picky, toys.nearly))
    none = np.zeros((0, *toys.SHAPE), np.float32)
    state = system.init(toys.SHAPE)
    after, answer = system.query_stream(state, none)
    assert_same(after, state)
    assert answer.logits.shape == (0, toys.CLASSES) and answer.label.dtype == np.int32
    states = system.init_clients(2, toys.SHAPE)
    _, answer = system.query_streams(states, np.zeros((2, 0, *toys.SHAPE), np.float32))
    assert answer.deceived.shape == (2, 0)
    _, answer = system.query_clients(jax.tree.map(lambda leaf: leaf[:0], states), none)
    assert answer.logits.shape == (0, toys.CLASSES)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            lambda x: (x, toys.classifier(x)),
            r"expected a network that gives logits .* got tuple of",
        ),
        (lambda x: toys.classifier(x)[0], r"got float32 \(5,\)"),
        (lambda x: jnp.argmax(toys.classifier(x), -1), "got int32"),
        (lambda x: None, "got NoneType"),
        (nnx.BatchNorm(1, rngs=nnx.Rngs(0)), r"module\.eval\(\)"),
    ],
)
def test_networks_that_give_something_else_are_refused_in_words(network, message):
    system = spt_jax.buffer(network, network)
    with pytest.raises(ValueError, match=message):
        system.query(system.init(toys.SHAPE), np.zeros(toys.SHAPE, np.float32))
    for wrong in (1, "decoy", None):
        with pytest.raises(ValueError, match="expected classifier to be a function"):
            spt_jax.buffer(wrong, toys.decoy)
    with pytest.raises(ValueError, match="expected decoy to be a function"):
        spt_jax.buffer(toys.classifier, 0)


def test_a_network_in_half_precision_answers_in_float32():
    def narrow(network, images):
        return network(images).astype(jnp.bfloat16)

    system = spt_jax.agreement(partial(narrow, toys.classifier), partial(narrow, toys.nearly))
    _, answer = system.query_stream(system.init(toys.SHAPE), toys.streams(2, 1, 4)[0])
    assert answer.logits.dtype == jnp.float32


def test_weights_of_a_module_that_changed_are_the_ones_that_answer():
    module = nnx.Linear(16, toys.CLASSES, rngs=nnx.Rngs(0))
    system = spt_jax.buffer(lambda x: module(x.reshape(x.shape[0], -1)), toys.decoy)
    image, state = toys.streams(3, 1, 1)[0][0], system.init(toys.SHAPE)
    before = system.query(state, image)[1].logits
    module.kernel[...] = module.kernel[...] + 1
    expected = module(image.reshape(1, -1))[0]
    np.testing.assert_allclose(system.query(state, image)[1].logits, expected, atol=1e-5)
    assert np.any(before != expected)


def test_everything_is_float32_with_64_bits_too(system):
    def asked(network, images):
        assert images.dtype == jnp.float32
        return network(images)

    from dataclasses import replace

    system = replace(
        system,
        classifier=Partial(partial(asked, system.classifier)),
        decoy=Partial(partial(asked, system.decoy)),
    )
    with jax.enable_x64(True):
        state = system.init(toys.SHAPE, toys.key_for(system))
        after, answer = jax.eval_shape(system.query, state, jnp.zeros(toys.SHAPE, jnp.float32))
    assert answer.logits.dtype == jnp.float32 and answer.label.dtype == jnp.int32
    kinds = [jax.tree.map(lambda leaf: leaf.dtype, tree) for tree in (state, after)]
    assert kinds[0] == kinds[1]
    assert np.float64 not in [leaf.dtype for leaf in jax.tree.leaves(after.memory)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(spt_jax.buffer, *NETS, length=4, patience=4), "patience below the length 4"),
        (
            partial(spt_jax.chain, *NETS, trigger=6, chain_length=6),
            "trigger below the chain_length",
        ),
        (partial(spt_jax.blacklight, *NETS, threshold=8, fingerprint_size=8), "below the 8 hashes"),
        (partial(spt_jax.osd, *NETS, ENCODER, threshold=0.0), "threshold to be a number above 0"),
        (
            lambda: spt_jax.blacklight(*NETS, threshold=13, window=4).init(toys.SHAPE),
            "below the 13 windows of an image",
        ),
    ],
)
def test_a_defence_that_can_never_fire_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
