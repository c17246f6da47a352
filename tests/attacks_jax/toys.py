"""Classifiers small enough to work out by hand."""

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS = np.array([[1.0, -1.0], [2.0, -2.0], [-1.0, 1.0], [0.5, -0.5]], np.float32)  # (4, 2)


def linear(images):
    """(B, 2, 2, 1) -> logits (B, 2), linear in the pixels, centred on 0.5."""
    return (images.reshape(images.shape[0], -1) - 0.5) @ WEIGHTS


def random_network(key, shape, classes, width=32):
    """A smooth two-layer network: images (B, *shape) -> logits (B, classes)."""
    keys = jax.random.split(key, 2)
    first = jax.random.normal(keys[0], (int(np.prod(shape)), width)) / np.sqrt(np.prod(shape))
    second = jax.random.normal(keys[1], (width, classes)) * 2

    def logits(images):
        x = images.reshape(images.shape[0], -1) - 0.5
        return jnp.tanh(3 * x @ first) @ second

    return logits


def some_images(seed, count, shape):
    return np.random.default_rng(seed).uniform(size=(count, *shape)).astype(np.float32)
