"""Blacklight: flags a query whose fingerprint is similar to a stored one, as in an iterative
attack."""

from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spt_jax._automaton import Images, Labels, unless, write
from spt_jax._checks import is_traced

EMPTY = 0  # never the hash of a window


class BlacklightMemory(NamedTuple):
    fingerprints: jax.Array  # (capacity, k) uint32: a ring, EMPTY where nothing was stored
    oldest: jax.Array  # () int32: index of the oldest one, which the next one overwrites


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blacklight:
    """Li, Shan, Wenger, Zhang, Zheng and Zhao, "Blacklight: Scalable Defense for Neural Networks
    against Query-Based Black-Box Attacks" (USENIX Security 2022), section 4.

    Pixels are quantised, which removes small perturbations. A window slides over the flattened
    image, one value at a time, and each window is hashed. The k largest distinct hashes are the
    image's fingerprint. A query is flagged if it shares more than `threshold` hashes with any
    stored fingerprint. Every query is stored, flagged or not; it overwrites the oldest one.

    An image with at most `threshold` distinct hashes is never flagged. So a black image can be sent
    any number of times. `init` refuses images that have at most `threshold` windows.

    Deviations: the hash is a salted 32-bit one (`_hashes`), not SHA-256. It does not resist an
    attacker who knows the salt, and about one pair of different windows in 2^30 collides. The
    memory has a fixed size; the paper's is emptied once a day.

    Attributes:
      threshold: the largest number of shared hashes, of k, that is not flagged. The paper's is 25.
      window: length in values of the flattened image (C values per pixel). The paper's w is 20 for
        CIFAR-10 and GTSRB, and 50 for large images and for MNIST with its uniform background.
      quantisation: the step, of 255 gray levels. The paper's q is 50.
      fingerprint_size: hashes in a fingerprint. The paper's S is 50.
      capacity: stored fingerprints, of 4 * fingerprint_size bytes each.
      salt: a secret of the defender, 0 or above. An attacker can't predict fingerprints without it.
    """

    threshold: int | jax.Array = 25
    window: int = field(default=20, metadata={"static": True})
    quantisation: int = field(default=50, metadata={"static": True})
    fingerprint_size: int = field(default=50, metadata={"static": True})
    capacity: int = field(default=10_000, metadata={"static": True})
    salt: int = field(default=0, metadata={"static": True})

    consults = 0
    keeps_out = True

    def init(self, image_shape: tuple[int, int, int]) -> BlacklightMemory:
        if np.prod(image_shape) < self.window:
            raise ValueError(
                f"expected window of at most the image's values, got {self.window}"
                f" for {image_shape}"
            )
        windows = int(np.prod(image_shape)) - self.window + 1
        if not is_traced(self.threshold) and windows <= self.threshold:
            raise ValueError(
                f"expected a threshold below the {windows} windows of an image {image_shape}, or no"
                f" two images have more hashes in common, got {self.threshold}"
            )
        fingerprints = jnp.full((self.capacity, self.fingerprint_size), EMPTY, jnp.uint32)
        return BlacklightMemory(fingerprints, jnp.zeros((), jnp.int32))

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> jax.Array:
        hashes = _hashes(images, self.window, self.quantisation, self.salt)
        return jax.vmap(lambda h: _largest_distinct(h, self.fingerprint_size))(hashes)

    def update(
        self, memory: BlacklightMemory, fingerprint: jax.Array, hostile: Any = False
    ) -> tuple[BlacklightMemory, jax.Array]:
        flagged = most_in_common(memory.fingerprints, fingerprint) > self.threshold
        stored = write(memory.fingerprints, memory.oldest, fingerprint, hostile)
        oldest = unless(hostile, memory.oldest, (memory.oldest + 1) % self.capacity)
        return BlacklightMemory(stored, oldest), flagged


def most_in_common(fingerprints: jax.Array, fingerprint: jax.Array) -> jax.Array:
    """() int32: the largest number of hashes that a fingerprint (k,) shares with any stored one
    (capacity, k). Hashes in a fingerprint are distinct, except for EMPTY, which is not counted."""
    # Compares one hash at a time with the whole memory. On a CPU this is four times faster than one
    # comparison (capacity, k, k), and twice as fast as a binary search.
    shared = reduce(or_, [fingerprints == h for h in fingerprint]) & (fingerprints != EMPTY)
    return jnp.max(jnp.sum(shared, axis=-1))


def _hashes(images: Images, window: int, quantisation: int, salt: int) -> jax.Array:
    """(B, H * W * C - window + 1) uint32, none EMPTY: a hash of each window.

    The hash is the sum of the window's values times random odd numbers, modulo 2^32. The salt seeds
    each factor, because the low bits of a polynomial with a fixed base collide. MurmurHash3's last
    step then scrambles the sum. Otherwise the largest hashes would be those of the brightest
    windows.
    """
    grays = jnp.round(images.reshape(len(images), -1) * 255).astype(jnp.uint32)
    values = grays // jnp.uint32(quantisation)
    count = values.shape[1] - window + 1
    odd = np.random.default_rng(salt).integers(2**31, size=window, dtype=np.uint32) * 2 + 1
    products = (values[:, i : i + count] * factor for i, factor in enumerate(odd))
    x = sum(products, start=jnp.uint32(salt % 2**32))
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.maximum(x ^ (x >> 16), EMPTY + 1)


def _largest_distinct(hashes: jax.Array, count: int) -> jax.Array:
    """(count,) uint32: the largest distinct values in falling order, filled up with EMPTY."""
    falling = jnp.flip(jnp.sort(hashes))
    first = jnp.concatenate([jnp.ones(1, bool), falling[1:] != falling[:-1]])
    places = jnp.searchsorted(jnp.cumsum(first), jnp.arange(1, count + 1))
    return falling.at[places].get(mode="fill", fill_value=EMPTY)
