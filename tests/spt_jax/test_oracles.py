"""Systems as what an attack asks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
import spt_jax
from tests.spt_jax import toys

IMAGES = np.random.default_rng(5).uniform(0.2, 0.8, size=(6, *toys.SHAPE)).astype(np.float32)
LABELS = np.argmax(toys.classifier(IMAGES), -1)
BIM = attacks_jax.bim(eps=0.1, step_size=0.005, num_steps=8)


def attacked(system, images, labels, states):
    oracle = spt_jax.one_client_per_image(system)
    key = jax.random.key(3)
    return attacks_jax.run(BIM, oracle, key, images, labels, oracle_state=states)


def test_no_example_of_an_attack_depends_on_its_batch_mates():
    system = toys.SYSTEMS["buffer"]
    states = system.init_clients(len(IMAGES), toys.SHAPE)
    together = attacked(system, IMAGES, LABELS, states)
    bare = attacks_jax.stateless(toys.classifier)
    alone = attacks_jax.run(BIM, bare, jax.random.key(3), IMAGES, LABELS)
    assert np.abs(together.images - alone.images).max() > 1e-3  # it was led astray
    for i in range(3):
        one = slice(i, i + 1)
        single = attacked(system, IMAGES[one], LABELS[one], system.init_clients(1, toys.SHAPE))
        np.testing.assert_allclose(single.images, together.images[one], atol=1e-5)
        assert single.queries == together.queries[i]
        mine = jax.tree.map(lambda leaf: leaf[one], together.oracle_state)  # noqa: B023
        toys.assert_same(single.oracle_state, mine, atol=1e-5)


def test_the_system_counts_the_queries_that_the_attack_counts():
    """Under "on_dissimilar", whose counter is never wound back while the images stay alike."""
    system = toys.SYSTEMS["on_dissimilar"]
    states = system.init_clients(len(IMAGES), toys.SHAPE)
    result = attacked(system, IMAGES, LABELS, states)
    assert result.queries.min() >= 9
    np.testing.assert_array_equal(result.oracle_state.memory.queries, result.queries)


@pytest.mark.parametrize("kind", ["buffer", "chain", "agreement"])
def test_a_stream_is_the_same_whether_batched_or_in_turns(kind):
    """A0, B0, C0, A1, ... in batches of three, and one image after another."""
    system = toys.SYSTEMS[kind]
    turns = toys.streams(1, 3, 6, stay=0.9).swapaxes(0, 1)  # (6 turns, 3 images)
    ask = spt_jax.one_stream(system)
    batched, single = system.init(toys.SHAPE), system.init(toys.SHAPE)
    for images in turns:
        batched, logits = ask(batched, images)
        for image, expected in zip(images, logits, strict=True):
            single, answer = system.query(single, image)
            np.testing.assert_allclose(answer.logits, expected, atol=1e-5)
    toys.assert_same(batched, single)


def test_random_labels_are_one_hot_and_have_no_gradient():
    system = spt_jax.buffer(toys.classifier, None, length=1, patience=0, response="random")
    image = np.full((1, *toys.SHAPE), 0.5, np.float32)
    oracle = spt_jax.one_client_per_image(system)
    state = system.init_clients(1, toys.SHAPE, jax.random.key(0))
    state, logits = oracle(state, image)
    np.testing.assert_allclose(logits, toys.classifier(image), atol=1e-6)
    seen = set()
    for _ in range(12):
        _, answer = system.query_clients(state, image)
        assert answer.deceived.all()
        state, logits = oracle(state, image)
        np.testing.assert_array_equal(logits, jax.nn.one_hot(answer.label, toys.CLASSES))
        seen.add(int(answer.label[0]))
    assert len(seen) > 1
    weights = jnp.arange(float(toys.CLASSES))
    gradient = jax.grad(lambda x: jnp.sum(oracle(state, x)[1] * weights))(image)
    assert not gradient.any()


@pytest.mark.parametrize("wrap", [spt_jax.one_client_per_image, spt_jax.one_stream])
def test_oracles_are_trees_and_compile_once_for_a_sweep(wrap):
    traces = []

    @jax.jit
    def ask(oracle, state, images):
        traces.append(1)
        return oracle(state, images)

    for threshold in (20.0, 30.0):
        system = spt_jax.buffer(toys.classifier, toys.decoy, threshold_db=threshold)
        state = system.init(toys.SHAPE)
        if wrap is spt_jax.one_client_per_image:
            state = system.init_clients(len(IMAGES), toys.SHAPE)
        ask(wrap(system), state, IMAGES)
    assert len(traces) == 1
