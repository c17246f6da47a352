"""One classifier under other bounds of the pixels, and on images of other shapes."""

import jax
import numpy as np

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
CLASSES = 4


def attacked(attack, network, images, labels, bounds=(0.0, 1.0)):
    """The attack on the classifier and images, both scaled to the bounds.

    Returns:
      (successes (B,), distances (B,) in widths of the bounds; counts of pixels as they are).
    """
    low, high = bounds
    oracle = attacks_jax.stateless(lambda x: network((x - low) / (high - low)))
    scaled = np.clip(images * np.float32(high - low) + np.float32(low), low, high)
    result = attacks_jax.run(attack, oracle, KEY, scaled, labels)
    assert result.images.min() >= low and result.images.max() <= high
    changed = np.abs(np.asarray(result.images) - scaled).reshape(len(images), -1)
    counts = attack_norm(attack) == "l0"
    distance = np.asarray(result.distance) / (1 if counts else high - low)
    return np.asarray(result.success), distance, changed.max(axis=1) / (high - low)


def attack_norm(attack) -> str:
    """What its distances are measured in."""
    name = type(attack).__name__
    return "l0" if name in ("CarliniWagnerL0", "JSMA", "Patch", "OnePixel") else "other"


def some(shape, count, seed=0):
    """(a random network, images that it is not too sure of, their labels)."""
    network = toys.random_network(jax.random.key(1), shape, CLASSES)
    images = toys.some_images(seed, count, shape)
    return network, images, np.argmax(network(images), -1)


def turned(images):
    """Turned by a right angle."""
    return np.ascontiguousarray(np.rot90(images, axes=(1, 2)))
