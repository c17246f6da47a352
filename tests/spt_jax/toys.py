"""Networks, streams and systems small enough for every test."""

import jax
import jax.numpy as jnp
import numpy as np

import spt_jax
from tests.attacks_jax.toys import random_network

SHAPE = (4, 4, 1)
CLASSES = 5
classifier = random_network(jax.random.key(1), SHAPE, CLASSES)
decoy = random_network(jax.random.key(2), SHAPE, CLASSES)


def nearly(images):
    """Agrees with the classifier on some images and not on others."""
    return classifier(images) + 1.5 * decoy(images)


def constant(logits):
    """A network that says always the same."""
    logits = jnp.asarray(logits, jnp.float32)
    return lambda images: jnp.broadcast_to(logits, (len(images), len(logits)))


def similarity(images, standards):
    return -jnp.mean(jnp.square(images - standards), axis=(1, 2, 3))


STANDARDS = np.random.default_rng(7).uniform(size=(CLASSES, *SHAPE)).astype(np.float32)

SYSTEMS = {
    "buffer": spt_jax.buffer(classifier, decoy, length=2, patience=1),
    "on_dissimilar": spt_jax.buffer(classifier, decoy, length=2, patience=1, reset="on_dissimilar"),
    "chain": spt_jax.chain(classifier, decoy, regions=2, trigger=2, chain_length=6),
    "agreement": spt_jax.agreement(classifier, nearly),
    "comparator": spt_jax.comparator(classifier, decoy, STANDARDS, similarity, -0.155),
    "random": spt_jax.buffer(classifier, None, length=2, patience=1, response="random"),
}


def key_for(system, seed=0):
    return jax.random.key(seed) if system.response == "random" else None


def streams(seed, clients, length, *, shape=SHAPE, levels=4, stay=0.75, noise=1e-3):
    """(clients, length, *shape): images that stay alike (60 dB) for a while and then are others
    (below 25 dB), so that no threshold between is ever met by a hair."""
    rng = np.random.default_rng(seed)
    moves = rng.random((clients, length)) > stay
    chosen = rng.integers(levels, size=(clients, length))
    last = np.maximum.accumulate(np.where(moves, np.arange(length), 0), axis=1)
    level = np.take_along_axis(chosen, last, axis=1)
    grey = (0.1 + 0.8 * level / max(levels - 1, 1))[..., None, None, None]
    # One pattern for all levels: images of two levels differ by their grey.
    pattern = 0.09 * rng.uniform(-1, 1, size=shape)
    jitter = noise * rng.uniform(-1, 1, size=(clients, length, *shape))
    return np.clip(grey + pattern + jitter, 0, 1).astype(np.float32)


def assert_same(a, b, atol=0.0):
    """Trees alike, keys included; bit for bit unless `atol` is given."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(getattr(x, "dtype", np.float32), jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=0, atol=atol)


def assert_same_answers(a, b):
    np.testing.assert_array_equal(a.deceived, b.deceived)
    np.testing.assert_array_equal(a.label, b.label)
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)


@jax.jit
def flags_of(automaton, images):
    """(whom of a stream an automaton that consults nobody deceives, its memory at the end)."""
    memory, flags = jax.lax.scan(
        automaton.update, automaton.init(images.shape[1:]), automaton.observe(images, ())
    )
    return flags, memory
