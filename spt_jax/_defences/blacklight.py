"""Blacklight: fingerprints of the queries, which an iterative attack's have in common."""

from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spt_jax._automaton import Images, Labels, unless, write
from spt_jax._checks import is_traced

EMPTY = 0  # no window's hash


class BlacklightMemory(NamedTuple):
    fingerprints: jax.Array  # (capacity, k) uint32: a ring, EMPTY where nothing was stored
    oldest: jax.Array  # () int32: where the next one goes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Blacklight:
    """Li, Shan, Wenger, Zhang, Zheng and Zhao, "Blacklight: Scalable Defense for Neural Networks
    against Query-Based Black-Box Attacks" (USENIX Security 2022), section 4.

    Pixels are quantised, so that small perturbations vanish; a window slides over the flattened
    image, one pixel at a time; each window is hashed; the k largest of the distinct hashes are the
    image's fingerprint. A query is flagged when it has more than `threshold` hashes in common
    with any stored one. Every query is stored, flagged or not; the oldest is overwritten.

    An image whose windows are nearly all alike has few distinct hashes, and with no more than
    `threshold` of them is never flagged: a black image may be sent for ever. Images that have fewer
    windows altogether are refused by `init`.

    Deviations: the hash is a salted 32-bit one (`_hashes`), not SHA-256: what it loses
    is resistance to whoever knows the salt, and one pair of different windows in 2^30 or so; and
    the memory is of fixed size, where the paper's is emptied once a day.

    Attributes:
      threshold: the most common hashes of a query that is not flagged, of k. The paper's is 25.
      window: in values of the flattened image (C of them a pixel). The paper's w: 20 for CIFAR-10
        and GTSRB, 50 for MNIST, with its uniform background, and for large images.
      quantisation: the step, of 255 gray levels. The paper's q is 50.
      fingerprint_size: hashes in a fingerprint. The paper's S is 50.
      capacity: stored fingerprints, of 4 * fingerprint_size bytes each.
      salt: a secret of the defender, 0 or above. Without it the fingerprints can't be foreseen.
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
    """() int32: the largest number of hashes that a fingerprint (k,) shares with any of those
    stored (capacity, k). Each holds a hash once at most, EMPTY aside, which counts for nothing."""
    # One hash after the other against the whole memory: on a CPU four times faster than one
    # comparison (capacity, k, k), and two than a binary search.
    shared = reduce(or_, [fingerprints == h for h in fingerprint]) & (fingerprints != EMPTY)
    return jnp.max(jnp.sum(shared, axis=-1))


def _hashes(images: Images, window: int, quantisation: int, salt: int) -> jax.Array:
    """(B, H * W * C - window + 1) uint32, none EMPTY: a hash of each window.

    The sum of the window's values times random odd numbers, modulo 2^32: a polynomial whose
    powers the salt draws one by one, for a fixed base's low bits collide. The sum is then
    scrambled (MurmurHash3's last step), or the largest would be the brightest windows'.
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
    """(count,) uint32: the largest values, each once, in falling order; then EMPTY."""
    falling = jnp.flip(jnp.sort(hashes))
    first = jnp.concatenate([jnp.ones(1, bool), falling[1:] != falling[:-1]])
    places = jnp.searchsorted(jnp.cumsum(first), jnp.arange(1, count + 1))
    return falling.at[places].get(mode="fill", fill_value=EMPTY)
