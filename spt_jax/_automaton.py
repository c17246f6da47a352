"""What a memory is: the part of a packaged classifier that decides who answers."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

Images = jax.Array  # (B, H, W, C) float32 in [0, 1]
Labels = jax.Array  # (B,) int32
Memory = Any  # a pytree of fixed-size arrays: nothing that is sent makes it grow
Evidence = Any  # what a memory looks at; each leaf (B, ...), and in `update` without the batch


class Automaton(Protocol):
    """Two pure functions: one looks at images, for many at once and without memory, the other
    remembers. It knows nothing of networks but the labels that it asked to hear.

    Automata are frozen dataclasses and pytrees: thresholds are leaves, sizes are static.

    A hostile image (NaN, infinite or out of range) is answered by the decoy and changes no memory:
    the system sees to it, at the price of a copy of the memory. An automaton that has
    `keeps_out = True` is spared the copy: its `update` takes a third argument, () bool, and where
    that is true stores nothing itself.
    """

    @property
    def consults(self) -> int:
        """How many of (classifier, decoy) have to label an image before it can be judged. Those
        are run at every query; of the others only the one that answers is."""
        ...

    def init(self, image_shape: tuple[int, int, int]) -> Memory:
        """The memory of one client who has sent nothing yet."""
        ...

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> Evidence:
        """What there is to know of each image by itself; `labels` are those consulted."""
        ...

    def update(self, memory: Memory, evidence: Evidence) -> tuple[Memory, jax.Array]:
        """One client's next image, as evidence: (the memory after it, () bool: does the decoy
        answer)."""
        ...


def unless(hostile: jax.Array | bool, before: Memory, after: Memory) -> Memory:
    """The memory after an image, or, where the image is hostile, the one before."""
    if hostile is False:
        return after
    return jax.tree.map(lambda old, new: jnp.where(hostile, old, new), before, after)


def write(ring: jax.Array, place: jax.Array, row: jax.Array, hostile: Any) -> jax.Array:
    """The ring (N, ...) with a row in its place, unless it is hostile. Only the row is selected, so
    that XLA writes the ring where it is."""
    return ring.at[place].set(row if hostile is False else jnp.where(hostile, ring[place], row))
