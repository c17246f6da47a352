"""The interface of a memory: the part of a packaged classifier that decides which network
answers."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp

Images = jax.Array  # (B, H, W, C) float32 in [0, 1]
Labels = jax.Array  # (B,) int32
Memory = Any  # a pytree of arrays of fixed size, whatever a client sends
Evidence = Any  # the input of a memory; leaves are (B, ...), and (...) in `update`


class Automaton(Protocol):
    """A stateful detector as pure functions: `observe` maps images to evidence, for a batch and
    without memory; `update` takes one client's evidence and updates that client's memory. All that
    an automaton gets from the networks are the labels that it consults.

    Automata are frozen dataclasses and pytrees: thresholds are leaves, sizes are static.

    For a hostile image (NaN, infinite or out of range) the decoy answers and the memory does not
    change. The system ensures this by a copy of the memory. An automaton with `keeps_out = True`
    avoids the copy: its `update` takes a third argument, () bool, and stores nothing if that is
    true.
    """

    @property
    def consults(self) -> int:
        """How many of (classifier, decoy) must label an image before `update`: 0, 1 or 2. These
        run at every query; another network runs only if it answers."""
        ...

    def init(self, image_shape: tuple[int, int, int]) -> Memory:
        """The memory of a new client."""
        ...

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> Evidence:
        """The evidence of each image by itself; `labels` are those of the consulted networks."""
        ...

    def update(self, memory: Memory, evidence: Evidence) -> tuple[Memory, jax.Array]:
        """Takes the evidence of one client's next image. Returns the new memory, and () bool:
        whether the decoy answers."""
        ...


def unless(hostile: jax.Array | bool, before: Memory, after: Memory) -> Memory:
    """The memory after an image, or the one before it if the image is hostile."""
    if hostile is False:
        return after
    return jax.tree.map(lambda old, new: jnp.where(hostile, old, new), before, after)


def write(ring: jax.Array, place: jax.Array, row: jax.Array, hostile: Any) -> jax.Array:
    """The ring (N, ...) with the row at that place, unless the row is hostile. Selecting only the
    row lets XLA update the ring in place."""
    return ring.at[place].set(row if hostile is False else jnp.where(hostile, ring[place], row))
