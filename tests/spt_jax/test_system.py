"""A memory joined to two networks: one query, many clients, a stream; gradients; what runs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spt_jax
from experiments.runtime import checkpoints
from tests.spt_jax import toys

STREAM = toys.streams(11, 1, 24, stay=0.85)[0]
KINDS = pytest.mark.parametrize("kind", [k for k in toys.SYSTEMS if k != "on_dissimilar"])


def loop(system, state, stream):
    """One image after another: (the last state, answers with a leading axis)."""
    answers = []
    for image in stream:
        state, answer = system.query(state, image)
        answers.append(answer)
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *answers)


def counting(log, name, network):
    """The network, and a line in the log whenever it runs."""

    def counted(images):
        jax.debug.callback(lambda: log.append(name))
        return network(images)

    return counted


def ran(log):
    jax.effects_barrier()
    names = "".join(sorted(log))
    log.clear()
    return names


@KINDS
def test_a_loop_a_scan_a_stream_and_one_client_are_the_same(kind):
    system = toys.SYSTEMS[kind]
    key = toys.key_for(system)
    start = system.init(toys.SHAPE, key)
    state, answers = loop(system, start, STREAM)
    assert 0 < answers.deceived.mean() < 1
    scanned, again = jax.lax.scan(system.query, start, jnp.asarray(STREAM))
    toys.assert_same(scanned, state)
    toys.assert_same_answers(again, answers)
    streamed, again = system.query_stream(start, STREAM)
    toys.assert_same(streamed, state)
    toys.assert_same_answers(again, answers)
    clients = jax.tree.map(lambda leaf: leaf[None], start)
    for image, deceived, logits in zip(STREAM, answers.deceived, answers.logits, strict=True):
        clients, answer = system.query_clients(clients, image[None])
        assert answer.deceived[0] == deceived
        np.testing.assert_allclose(answer.logits[0], logits, atol=1e-5)
    toys.assert_same(jax.tree.map(lambda leaf: leaf[0], clients), state)


@KINDS
def test_many_clients_are_as_many_loops(kind):
    system = toys.SYSTEMS[kind]
    streams = toys.streams(3, 4, 12)
    states = system.init_clients(4, toys.SHAPE, toys.key_for(system))
    starts = [jax.tree.map(lambda leaf: leaf[i], states) for i in range(4)]  # noqa: B023
    told = []
    for images in streams.swapaxes(0, 1):
        states, answers = system.query_clients(states, images)
        told.append(answers)
    for i in range(4):
        state, answers = loop(system, starts[i], streams[i])
        toys.assert_same(jax.tree.map(lambda leaf: leaf[i], states), state)  # noqa: B023
        mine = jax.tree.map(lambda *leaves: np.stack([leaf[i] for leaf in leaves]), *told)  # noqa: B023
        toys.assert_same_answers(mine, answers)


def test_the_answer_is_that_of_one_network():
    system = toys.SYSTEMS["buffer"]
    _, answers = loop(system, system.init(toys.SHAPE), STREAM)
    by = [net(STREAM) for net in (toys.classifier, toys.decoy)]
    expected = np.where(answers.deceived[:, None], by[1], by[0])
    np.testing.assert_allclose(answers.logits, expected, atol=1e-5)
    np.testing.assert_array_equal(answers.label, expected.argmax(-1))
    assert answers.label.dtype == np.int32 and answers.logits.dtype == np.float32


# Gradients.

WEIGHTS = np.random.default_rng(2).normal(size=toys.CLASSES).astype(np.float32)


def gradient_of(network, image):
    return jax.grad(lambda x: network(x[None])[0] @ WEIGHTS)(image)


@pytest.mark.parametrize("kind", ["buffer", "chain", "agreement", "comparator"])
def test_the_gradient_is_that_of_whoever_answered(kind):
    """Through `query`, `query_clients` and the oracle, for both networks."""
    system = toys.SYSTEMS[kind]
    second = toys.nearly if kind == "agreement" else toys.decoy

    @jax.jit
    def both(state, image):
        def loss(image):
            after, answer = system.query(state, image)
            return answer.logits @ WEIGHTS, (after, answer.deceived)

        def of_clients(ask):
            clients = jax.tree.map(lambda leaf: leaf[None], state)
            return lambda image: jnp.sum(ask(clients, image[None]) @ WEIGHTS)

        oracle = spt_jax.one_client_per_image(system)
        asks = (
            lambda s, x: system.query_clients(s, x)[1].logits,
            lambda s, x: oracle(s, x)[1],
        )
        gradient, (after, deceived) = jax.grad(loss, has_aux=True)(image)
        others = [jax.grad(of_clients(ask))(image) for ask in asks]
        bare = [gradient_of(network, image) for network in (toys.classifier, second)]
        return after, deceived, [gradient, *others], bare

    state, told = system.init(toys.SHAPE), []
    for image in STREAM:
        state, deceived, gradients, bare = both(state, image)
        told.append(bool(deceived))
        assert np.abs(bare[0] - bare[1]).max() > 1e-3
        for gradient in gradients:
            np.testing.assert_allclose(gradient, bare[int(deceived)], rtol=1e-5, atol=1e-6)
    assert {True, False} == set(told)


def test_an_infinite_slope_of_who_did_not_answer_is_nobody_s_gradient():
    classifier = toys.classifier
    image = jnp.full(toys.SHAPE, 0.5)

    def steep(images):  # the square root's slope at 0 is infinite
        return jnp.sqrt(0.0 * classifier(images))

    always = {"length": 1, "patience": 0, "reset": "on_dissimilar"}
    for system, deceives in (
        (spt_jax.buffer(classifier, steep), False),
        (spt_jax.buffer(steep, classifier, **always), True),
    ):
        state = system.init(toys.SHAPE)
        for _ in range(3):
            state, answer = system.query(state, image)
        assert bool(answer.deceived) == deceives
        gradient = jax.grad(lambda x, s=system, at=state: s.query(at, x)[1].logits[0])(image)
        want = jax.grad(lambda x: classifier(x[None])[0, 0])(image)
        np.testing.assert_allclose(gradient, want, rtol=1e-5)


def test_answers_differentiate_forwards_and_by_weights_too():
    weights = jax.random.normal(jax.random.key(0), (16, toys.CLASSES))
    image = jnp.full(toys.SHAPE, 0.5)

    def label(weights, image):
        system = spt_jax.buffer(lambda x: x.reshape(len(x), -1) @ weights, toys.decoy)  # a closure
        return system.query(system.init(toys.SHAPE), image)[1].logits

    forwards = jax.jacfwd(label, argnums=(0, 1))(weights, image)
    backwards = jax.jacrev(label, argnums=(0, 1))(weights, image)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), forwards, backwards)
    np.testing.assert_allclose(forwards[1].reshape(toys.CLASSES, -1), weights.T, rtol=1e-5)


@pytest.mark.parametrize("kind", ["buffer", "chain"])
def test_the_memory_has_no_gradient(kind):
    """An answer depends on the images before it, and by no gradient."""
    system = toys.SYSTEMS[kind]

    def by_scan(stream):
        _, answers = jax.lax.scan(system.query, system.init(toys.SHAPE), stream)
        return answers.logits @ WEIGHTS

    def by_stream(stream):
        return system.query_stream(system.init(toys.SHAPE), stream)[1].logits @ WEIGHTS

    for answers in (by_scan, by_stream):
        jacobian = np.abs(jax.jacrev(answers)(STREAM[:8])).sum((2, 3, 4))
        np.testing.assert_array_equal(jacobian > 0, np.eye(8, dtype=bool))


# What runs.


def test_a_network_that_does_not_answer_does_not_run():
    log = []
    nets = [counting(log, "c", toys.classifier), counting(log, "d", toys.decoy)]
    system = spt_jax.buffer(*nets, length=1, patience=0)
    image = STREAM[0]
    state, _ = system.query(system.init(toys.SHAPE), image)
    assert ran(log) == "c"
    state, answer = system.query(state, image)
    assert answer.deceived and ran(log) == "d"

    states, images = system.init_clients(2, toys.SHAPE), np.stack([image, image])
    states, _ = system.query_clients(states, images)
    assert ran(log) == "c"
    _, answers = system.query_clients(states, images)
    assert answers.deceived.all() and ran(log) == "d"
    _, answers = system.query_clients(states, np.stack([image, 1 - image]))
    assert answers.deceived.tolist() == [True, False] and ran(log) == "cd"
    _, answers = system.query_stream(system.init(toys.SHAPE), np.repeat(image[None], 5, axis=0))
    assert ran(log) == "cd"  # each once


def test_what_the_memory_consults_runs_once():
    log = []
    nets = [counting(log, "c", toys.classifier), counting(log, "d", toys.nearly)]
    flags = spt_jax.agreement(*nets)
    flags.query(flags.init(toys.SHAPE), STREAM[0])
    assert ran(log) == "cd"


# Random responses.


def test_random_labels_are_uniform_over_all_classes_and_say_nothing_else():
    system = spt_jax.buffer(toys.classifier, None, length=1, patience=0, response="random")
    images = np.repeat(STREAM[:1], 2001, axis=0)
    state = system.init(toys.SHAPE, jax.random.key(4))
    end, answers = system.query_stream(state, images)
    again, same = system.query_stream(state, images)
    toys.assert_same((end, answers), (again, same))  # the same key, the same labels
    assert not answers.deceived[0] and answers.deceived[1:].all()
    np.testing.assert_allclose(answers.logits[0], toys.classifier(images[:1])[0], atol=1e-5)
    assert not answers.logits[1:].any()
    counts = np.bincount(answers.label[1:], minlength=toys.CLASSES)
    chi_square = np.square(counts - 400).sum() / 400  # four degrees of freedom
    assert len(counts) == toys.CLASSES and chi_square < 18.5  # p = .001
    _, others = system.query_stream(system.init(toys.SHAPE, jax.random.key(5)), images)
    assert 0.1 < np.mean(others.label[1:] == answers.label[1:]) < 0.3
    gradient = jax.grad(lambda x: system.query(end, x)[1].logits @ WEIGHTS)(images[0])
    assert not gradient.any()


def test_each_client_has_its_own_key():
    states = toys.SYSTEMS["random"].init_clients(50, toys.SHAPE, jax.random.key(0))
    assert len(np.unique(jax.random.key_data(states.key), axis=0)) == 50


def test_keys_are_for_random_responses_and_only_for_them():
    random, plain = toys.SYSTEMS["random"], toys.SYSTEMS["buffer"]
    keys = (None, jax.random.PRNGKey(0), jax.random.split(jax.random.key(0)))
    for key, came in zip(keys, ("None", r"uint32 \(2,\)", r"key<fry> \(2,\)"), strict=True):
        with pytest.raises(ValueError, match=f"expected one typed key.* got {came}"):
            random.init(toys.SHAPE, key)
    with pytest.raises(ValueError, match="expected a key only with"):
        plain.init(toys.SHAPE, jax.random.key(0))


# States are values.


@pytest.mark.parametrize("kind", ["random", "chain"])
def test_a_state_saved_in_mid_stream_goes_on_identically(kind, tmp_path):
    system = toys.SYSTEMS[kind]
    start = system.init(toys.SHAPE, toys.key_for(system))
    middle, _ = system.query_stream(start, STREAM[:12])
    checkpoints.save(tmp_path / "state", middle)
    restored = checkpoints.load(tmp_path / "state", start)
    toys.assert_same(restored, middle)
    ends = [system.query_stream(state, STREAM[12:]) for state in (middle, restored)]
    toys.assert_same(*ends)


@KINDS
def test_a_state_may_be_donated(kind):
    system = toys.SYSTEMS[kind]
    query = jax.jit(system.query, donate_argnums=0)
    kept = system.init(toys.SHAPE, toys.key_for(system))
    state = system.init(toys.SHAPE, toys.key_for(system))
    for image in STREAM[:6]:
        kept, expected = system.query(kept, image)
        before = state
        state, answer = query(before, image)
        toys.assert_same_answers(answer, expected)
    toys.assert_same(state, kept)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


def test_thresholds_are_leaves_and_a_sweep_compiles_once():
    traces = []

    @jax.jit
    def answers(system, stream):
        traces.append(1)
        return system.query_stream(system.init(toys.SHAPE), stream)[1]

    def sweep(factory, name, values):
        """How many were deceived at each value, by one compilation."""
        traces.clear()
        told = [answers(factory(**{name: value}), STREAM) for value in values]
        assert len(traces) <= 1, name  # none where another sweep has compiled it already
        return [int(answer.deceived.sum()) for answer in told]

    nets = (toys.classifier, toys.decoy)
    buffer = partial(spt_jax.buffer, *nets, length=2, patience=1)
    chain = partial(spt_jax.chain, *nets)
    comparator = partial(spt_jax.comparator, *nets, toys.STANDARDS, toys.similarity)
    for factory, name, low, high in (
        (buffer, "patience", 0, 1), (buffer, "threshold_db", 30.0, 200.0),
        (chain, "trigger", 1, 3), (chain, "threshold_db", 30.0, 200.0),
    ):  # fmt: skip
        most, fewest = sweep(factory, name, (low, high))
        assert most > fewest, name
    assert sweep(comparator, "threshold", (-9.0, 9.0)) == [0, len(STREAM)]
    few, many = sweep(chain, "chain_length", (6, 20))
    assert few < many


# What is refused.

IMAGE = STREAM[0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ((IMAGE * 255).astype(np.uint8), r"float32 in \[0, 1\], got uint8 \(4, 4, 1\)"),
        (IMAGE.astype(np.float64), "got float64"),
        (np.full_like(IMAGE, np.nan), "min nan"),
        (IMAGE * 255, r"got float32 \(4, 4, 1\) with min .*, max [0-9.]+"),
        (IMAGE - 1, "with min -0"),
        (IMAGE[None], r"expected an image \(H, W, C\) .* got float32 \(1, 4, 4, 1\)"),
        (IMAGE[:3], r"expected an image \(4, 4, 1\), as at init, got \(3, 4, 1\)"),
        (IMAGE.tolist(), "got list"),
    ],
)
def test_wrong_images_are_refused_in_words(image, message):
    system = toys.SYSTEMS["buffer"]
    with pytest.raises(ValueError, match=message):
        system.query(system.init(toys.SHAPE), image)


def test_batches_want_their_rank():
    system = toys.SYSTEMS["chain"]
    for ask in (system.query_clients, system.query_stream):
        with pytest.raises(ValueError, match=r"expected images \(B, H, W, C\) float32"):
            ask(system.init(toys.SHAPE), IMAGE)
    with pytest.raises(ValueError, match="as at init"):
        system.query(system.init((5, 4, 1)), IMAGE)
    with pytest.raises(ValueError, match="got uint8"):  # traced images too
        jax.jit(system.query)(system.init(toys.SHAPE), IMAGE.astype(np.uint8))


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4, 1), (4, 0, 1), (4.0, 4, 1), 4, None])
def test_wrong_shapes_are_refused_in_words(shape):
    with pytest.raises(ValueError, match="expected an image shape"):
        toys.SYSTEMS["buffer"].init(shape)


def test_wrong_clients_are_refused_in_words():
    with pytest.raises(ValueError, match="expected clients to be"):
        toys.SYSTEMS["buffer"].init_clients(0, toys.SHAPE)


def test_decoys_are_asked_for_and_have_the_classifier_s_classes():
    with pytest.raises(ValueError, match="expected a decoy"):
        spt_jax.buffer(toys.classifier, None)
    wide = spt_jax.buffer(toys.classifier, toys.constant(np.zeros(9)))
    with pytest.raises(ValueError, match=r"logits \(1, 5\) .* got \(1, 9\)"):
        wide.query(wide.init(toys.SHAPE), IMAGE)


def test_a_memory_of_one_s_own():
    """Every third query is the decoy's: an automaton is four attributes."""

    class Thirds:
        consults = 0

        def init(self, image_shape):
            return jnp.zeros((), jnp.int32)

        def observe(self, images, labels):
            return jnp.zeros(len(images))

        def update(self, memory, evidence):
            return (memory + 1) % 3, memory == 2

    jax.tree_util.register_static(Thirds)
    system = spt_jax.package(Thirds(), toys.classifier, toys.decoy)
    _, answers = system.query_stream(system.init(toys.SHAPE), STREAM[:6])
    assert answers.deceived.tolist() == [False, False, True] * 2
