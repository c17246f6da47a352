"""OSD against a plain numpy one, and its threshold against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from spt_jax._defences.osd import OSD, osd_threshold
from tests.spt_jax.toys import flags_of

SHAPE = (2, 3, 1)
ENCODE = Partial(lambda weights, x: x.reshape(len(x), -1) @ weights, jnp.eye(6))
SMALL = OSD(ENCODE, threshold=0.3, neighbours=4, capacity=9)


def plain_flags(automaton, images):
    stored, flags = [], []
    for encoding in images.reshape(len(images), -1).astype(np.float64):
        flag = False
        if len(stored) >= automaton.neighbours:
            distances = sorted(np.linalg.norm(np.array(stored) - encoding, axis=-1))
            flag = bool(np.mean(distances[: automaton.neighbours]) < automaton.threshold)
        flags.append(flag)
        stored = [] if flag else [*stored, encoding][-automaton.capacity :]
    return flags


def stream(seed, length=120):
    """Attacks on several images, interleaved with images of other people."""
    rng = np.random.default_rng(seed)
    bases = rng.random((3, *SHAPE))
    images = [
        bases[rng.integers(3)] + rng.normal(size=SHAPE) * 0.05
        if rng.random() < 0.7
        else rng.random(SHAPE)
        for _ in range(length)
    ]
    return np.clip(images, 0, 1).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_it_flags_what_a_plain_numpy_one_flags(seed):
    images = stream(seed)
    flags, memory = flags_of(SMALL, images)
    expected = plain_flags(SMALL, images)
    np.testing.assert_array_equal(flags, expected)
    assert 3 < sum(expected) < 60
    assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, SMALL.init(SHAPE))


def test_a_repeated_image_is_flagged_when_enough_are_stored_and_then_all_is_forgotten():
    images = np.full((15, *SHAPE), 0.5, np.float32)
    flags, memory = flags_of(SMALL, images)
    np.testing.assert_array_equal(np.flatnonzero(flags), [4, 9, 14])  # four stored, the fifth
    assert memory.filled == 0 and memory.oldest == 0


def test_the_oldest_is_overwritten():
    image = np.full(SHAPE, 0.5, np.float32)
    corners = (np.arange(9)[:, None] >> np.arange(6) & 1).astype(np.float32)
    far = corners.reshape(9, *SHAPE)
    for between, flagged in ((5, True), (6, False)):  # 9 hold four versions and five others
        flags, _ = flags_of(SMALL, np.stack([image] * 4 + [*far[:between], image]))
        assert bool(flags[-1]) == flagged and not flags[:-1].any()


def test_an_attack_is_seen_and_unrelated_images_are_not():
    rng = np.random.default_rng(0)
    automaton = OSD(Partial(lambda x: x.reshape(len(x), -1)), threshold=2.0, capacity=200)
    images = rng.random((120, 8, 8, 3)).astype(np.float32)
    assert not flags_of(automaton, images)[0].any()
    steps = images[0] + np.cumsum(rng.normal(size=(120, 8, 8, 3)) * 1e-3, 0)
    attack = np.clip(steps, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(np.flatnonzero(flags_of(automaton, attack)[0]), [50, 101])


def test_update_serves_many_clients_each_by_itself():
    streams = np.stack([stream(seed, 40) for seed in (5, 6)])
    evidence = jax.vmap(lambda x: SMALL.observe(x, ()))(streams)
    memories = jax.vmap(lambda _: SMALL.init(SHAPE))(jnp.arange(2))

    def both(memories, t):
        return jax.vmap(SMALL.update)(memories, evidence[:, t])

    _, flags = jax.lax.scan(both, memories, jnp.arange(40))
    for client in range(2):
        np.testing.assert_array_equal(flags[:, client], flags_of(SMALL, streams[client])[0])


def test_no_gradient_flows_into_the_memory():
    def total(images):
        memory, _ = SMALL.update(SMALL.init(SHAPE), SMALL.observe(images, ())[0])
        return memory.encodings.sum()

    assert not jax.grad(total)(jnp.ones((1, *SHAPE))).any()


def test_the_threshold_is_below_all_but_the_share_asked_for():
    encodings = np.random.default_rng(0).normal(size=(600, 5)).astype(np.float32) + 10
    all_pairs = np.linalg.norm(encodings[:, None] - encodings[None].astype(np.float64), axis=-1)
    np.fill_diagonal(all_pairs, np.inf)  # nobody is its own neighbour
    distances = np.sort(all_pairs)[:, :20].mean(axis=1)
    for fpr, below in ((0.0, 0), (0.001, 0), (0.02, 12), (0.5, 300)):
        threshold = osd_threshold(encodings, 20, fpr)
        assert isinstance(threshold, float)
        np.testing.assert_allclose(threshold, np.sort(distances)[below], rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: osd_threshold(np.zeros((50, 3), np.float32)), "expected encodings"),
        (lambda: osd_threshold(np.zeros(60, np.float32)), "expected encodings"),
        (lambda: osd_threshold(np.zeros((60, 3), np.float32), fpr=1.0), "expected fpr"),
        (lambda: osd_threshold(np.zeros((60, 3), np.float32), 0), "expected neighbours"),
        (lambda: OSD(ENCODE, 1.0, neighbours=5, capacity=4).init(SHAPE), "expected capacity"),
        (lambda: OSD(Partial(lambda x: x), 1.0).init(SHAPE), "expected encode"),
    ],
)
def test_bad_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
