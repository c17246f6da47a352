"""Blacklight against a plain Python one: sets of hashes, one window at a time."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spt_jax._defences.blacklight import EMPTY, Blacklight, most_in_common
from tests.spt_jax.toys import flags_of

SHAPE = (6, 6, 3)
SMALL = Blacklight(threshold=5, window=8, fingerprint_size=12, capacity=7, salt=3)


def plain_fingerprint(automaton, image):
    """The k largest of the set of hashes, in Python's own integers."""
    grays = [round(float(v) * 255) for v in np.asarray(image, np.float64).ravel()]
    values = [v // automaton.quantisation for v in grays]
    rng = np.random.default_rng(automaton.salt)
    factors = [2 * int(f) + 1 for f in rng.integers(2**31, size=automaton.window, dtype=np.uint32)]
    hashes = set()
    for i in range(len(values) - automaton.window + 1):
        x = automaton.salt + sum(f * v for f, v in zip(factors, values[i:], strict=False))
        x %= 2**32
        x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
        x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
        hashes.add(max(x ^ (x >> 16), 1))
    return set(sorted(hashes, reverse=True)[: automaton.fingerprint_size])


def plain_flags(automaton, images):
    stored, flags = deque(maxlen=automaton.capacity), []
    for image in images:
        fingerprint = plain_fingerprint(automaton, image)
        most = max((len(fingerprint & other) for other in stored), default=0)
        flags.append(most > automaton.threshold)
        stored.append(fingerprint)
    return flags


def stream(seed, length=60):
    """Fresh images, steps from earlier ones, and images in few colours with windows alike."""
    rng = np.random.default_rng(seed)
    images = [rng.random(SHAPE)]
    for _ in range(length - 1):
        kind = rng.integers(3)
        if kind == 0:
            image = rng.random(SHAPE)
        elif kind == 1:
            image = images[rng.integers(len(images))] + rng.normal(size=SHAPE) * 0.03
        else:
            image = rng.integers(2, size=SHAPE) * (rng.random() < 0.5)
        images.append(np.clip(image, 0, 1))
    return np.stack(images).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_it_flags_what_a_plain_python_one_flags(seed):
    images = stream(seed)
    flags, _ = flags_of(SMALL, images)
    expected = plain_flags(SMALL, images)
    np.testing.assert_array_equal(flags, expected)
    assert 0 < sum(expected) < len(expected)


def test_a_fingerprint_is_the_set_of_the_largest_hashes_each_once():
    images = stream(0, 12)
    images[0] = 0  # all windows alike: one hash
    images[1, :4] = 0  # fewer distinct ones than windows
    fingerprints = np.asarray(jax.jit(lambda x: SMALL.observe(x, ()))(images))
    assert fingerprints.shape == (12, 12) and fingerprints.dtype == np.uint32
    for fingerprint, image in zip(fingerprints, images, strict=True):
        hashes = fingerprint[fingerprint != EMPTY].tolist()
        assert hashes == sorted(plain_fingerprint(SMALL, image), reverse=True)
        assert not fingerprint[len(hashes) :].any()
    assert np.count_nonzero(fingerprints[0]) == 1


def test_hashes_are_counted_once_and_what_is_empty_never():
    stored = jnp.array([[9, 7, 5, 0], [8, 6, 0, 0], [0, 0, 0, 0]], jnp.uint32)
    for query, count in (([9, 5, 0, 0], 2), ([8, 6, 5, 0], 2), ([0] * 4, 0), ([4, 3, 2, 1], 0)):
        assert most_in_common(stored, jnp.array(query, jnp.uint32)) == count


def test_another_salt_makes_other_fingerprints():
    images = stream(0, 3)
    other = Blacklight(threshold=5, window=8, fingerprint_size=12, capacity=7, salt=4)
    a, b = (set(np.asarray(x.observe(images, ())).ravel()) for x in (SMALL, other))
    assert len(a & b) <= 1  # EMPTY


def test_the_oldest_is_overwritten_and_nothing_grows():
    image, *others = np.random.default_rng(9).random((8, *SHAPE)).astype(np.float32)
    for between, seen in ((6, True), (7, False)):
        flags, memory = flags_of(SMALL, np.stack([image, *others[:between], image]))
        assert bool(flags[-1]) == seen
        assert not flags[:-1].any()
        before = SMALL.init(SHAPE)
        assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, before)
        assert memory.oldest == (between + 2) % 7


def test_with_the_paper_s_values_an_attack_is_seen_and_random_images_are_not():
    automaton = Blacklight(capacity=100)
    rng = np.random.default_rng(0)
    fresh = rng.random((50, 32, 32, 3)).astype(np.float32)
    flags, _ = flags_of(automaton, fresh)
    assert not flags.any()
    start = np.repeat(np.repeat(rng.random((8, 8, 3)), 4, 0), 4, 1)  # flat parts, as photographs
    steps = np.clip(start + np.cumsum(rng.normal(size=(50, 32, 32, 3)) * 1e-3, 0), 0, 1)
    flags, _ = flags_of(automaton, steps.astype(np.float32))
    assert not flags[0] and flags[1:].mean() > 0.9


def test_update_serves_many_clients_each_by_itself():
    streams = np.stack([stream(seed, 20) for seed in (5, 6)])
    evidence = jax.vmap(lambda x: SMALL.observe(x, ()))(streams)
    memories = jax.vmap(lambda _: SMALL.init(SHAPE))(jnp.arange(2))

    def both(memories, t):
        return jax.vmap(SMALL.update)(memories, evidence[:, t])

    _, flags = jax.lax.scan(both, memories, jnp.arange(20))
    for client in range(2):
        np.testing.assert_array_equal(flags[:, client], flags_of(SMALL, streams[client])[0])


def test_a_window_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="expected window"):
        Blacklight().init((4, 4, 1))
