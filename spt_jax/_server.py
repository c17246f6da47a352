"""A server for many named clients: a table of their states on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spt_jax._automaton import Images
from spt_jax._checks import check_counts, check_images
from spt_jax._pinned import pinned
from spt_jax._system import Answer, State, System

NEVER = 2**31 - 1  # idle time of a free row
NOBODY = 2**32 - 1  # name of a free row, which sorts last; a client may have this name too


class Table(NamedTuple):
    """The states of at most `capacity` clients, and a directory whose rows are sorted by name and
    give the place of a client's state. Its size is fixed, whatever clients send."""

    states: State  # each leaf (capacity, ...)
    names: jax.Array  # (capacity,) uint32, sorted
    idle: jax.Array  # (capacity,) int32: batches since the client's last query, or NEVER
    slots: jax.Array  # (capacity,) int32: the client's index in `states`
    key: jax.Array | None  # for random responses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Server:
    """A packaged classifier that serves many clients: a pure function from (table, clients,
    images) to (table, answers), which works inside jit.

    The table is large, so donate it to update it in place: `jax.jit(server.query,
    donate_argnums=0)`, or `jax.jit(Server.query, donate_argnums=1)(server, table, ...)`, which
    takes weights as arguments.
    """

    system: System
    capacity: int = field(metadata={"static": True})

    def init(self, image_shape: Sequence[int], key: jax.Array | None = None) -> Table:
        """An empty table: `capacity * state_bytes(system, image_shape)` bytes, and 12 bytes per
        client for the directory.

        Args:
          image_shape: (H, W, C) of all images.
          key: a typed key, only for `response="random"`. A client's own key is `fold_in` of it and
            the client's name, so it is the same whenever the client starts again.

        Raises:
          ValueError: an invalid shape; a missing key, or a key that is not used.
        """
        return Table(
            states=self.system.init_clients(self.capacity, image_shape, key),
            names=jnp.full(self.capacity, NOBODY, jnp.uint32),
            idle=jnp.full(self.capacity, NEVER, jnp.int32),
            slots=jnp.arange(self.capacity, dtype=jnp.int32),
            key=None if key is None else jnp.copy(key),  # donating must not invalidate it
        )

    def query(self, table: Table, clients: jax.Array, images: Images) -> tuple[Table, Answer]:
        """Answers a batch of queries as if they came one after another, each from its own client's
        state. A client that is not in the table starts with `system.init`.

        Evictions happen once per batch, before its queries. Clients that are not in the table take
        the free places first, then those of the least recently seen clients; ties evict the smaller
        name (as uint32). A batch never evicts its own clients.

        Each network runs once on the whole batch, and not at all if it answers no image. Memories
        are mapped over. A client's second and later queries in a batch are decided one by one, so
        many queries by one client cost as much as a stream.

        Args:
          table: from `init`.
          clients: (B,) int32 or uint32, the sender of each image. Any number is allowed; -1 and
            2**32 - 1 are the same client.
          images: (B, H, W, C) float32 in [0, 1].

        Raises:
          ValueError: clients or images of the wrong shape, type or range; an empty batch, or more
            than `capacity` queries.
        """
        check_images(images, rank=4, bounds=self.system.bounds)
        _check_clients(clients, len(images), self.capacity)
        return _query(pinned(self), table, clients.astype(jnp.uint32), images)


def serve(system: System, capacity: int = 1024) -> Server:
    """A server for up to `capacity` clients at once; it evicts the least recently seen clients.

    A stateful defence must store `state_bytes` for each client (SPT, section IV-F). A client that
    can send under `capacity` other names is evicted, and starts again with an empty memory.

    Args:
      system: the packaged classifier.
      capacity: clients in the table, and the largest batch.

    Raises:
      ValueError: a capacity that is not a whole number above 0.
    """
    check_counts(capacity=capacity)
    return Server(system, int(capacity))


def state_bytes(system: System, image_shape: Sequence[int]) -> int:
    """The bytes of one client's state (SPT, section IV-F): 122,896 for a buffer of 10 images of
    32x32x3, whatever the client has sent.

    Raises:
      ValueError: an invalid shape.
    """
    key = jax.random.key(0) if system.response == "random" else None
    state = jax.eval_shape(lambda: system.init(image_shape, key))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@partial(jax.jit, inline=True)
def _query(server, table, names, images):
    system = server.system
    images, heard, evidence = system.look(images)

    order = jnp.argsort(names, stable=True)  # groups queries by client
    first = order[
        jnp.searchsorted(names[order], names, method="scan_unrolled")
    ]  # query of the client
    leads = first == jnp.arange(len(names))
    table, known, slots = _admit(table, names, leads)
    fresh = _beginnings(system, table, names, images.shape[1:])
    states = _select(known, _rows(table.states, slots), fresh)

    # Decide all first queries at once, then the others one by one, grouped by client. The loop
    # carries the current client's state and never reads the array that it writes: XLA would copy
    # it.
    states, verdicts = jax.vmap(system.decide)(states, evidence)
    others = order[jnp.argsort(leads[order], stable=True)]

    def decide_next(i, carry):
        state, after, verdicts = carry
        query = others[i]
        row = first[query]
        goes_on = (i > 0) & (row == first[others[i - 1]])
        state = jax.tree.map(partial(jnp.where, goes_on), state, _rows(states, row))
        state, verdict = system.decide(state, _rows(evidence, query))
        return state, _put(after, row, state), _put(verdicts, query, verdict)

    start = (_rows(states, 0), states, verdicts)
    _, after, (deceived, draws) = lax.fori_loop(0, jnp.sum(~leads), decide_next, start)
    table = table._replace(states=_put(table.states, jnp.where(leads, slots, NEVER), after))
    return table, system.respond(images, heard, deceived, draws)


def _find(table, names):
    """(rows of the directory, bool: whether the client is in that row)."""
    rows = jnp.searchsorted(table.names, names, method="scan_unrolled")
    rows = jnp.minimum(rows, len(table.names) - 1)
    return rows, (table.names[rows] == names) & (table.idle[rows] != NEVER)


def _admit(table, names, leads):
    """The table with all clients of the batch in its directory; (B,) bool: whether the client was
    in it before; (B,) slots."""
    rows, known = _find(table, names)
    idle = jnp.where(table.idle == NEVER, NEVER, jnp.minimum(table.idle, NEVER - 2) + 1)
    idle = idle.at[jnp.where(known, rows, NEVER)].set(0, mode="drop")
    new = leads & ~known

    def enter(directory):
        directory_names, idle, slots = directory
        longest = lax.top_k(idle, len(names))[1]  # the batch's own clients come last
        rows = jnp.where(new, longest[jnp.cumsum(new) - 1], NEVER)
        directory_names = directory_names.at[rows].set(names, mode="drop")
        idle = idle.at[rows].set(0, mode="drop")
        # Sort by name, then idle time: a free row comes after the client with the name NOBODY.
        return tuple(lax.sort((directory_names, idle, slots), num_keys=2))

    directory = (table.names, idle, table.slots)
    directory = lax.cond(jnp.any(new), enter, lambda same: same, directory)
    table = table._replace(names=directory[0], idle=directory[1], slots=directory[2])
    return table, known, table.slots[_find(table, names)[0]]


def _beginnings(system, table, names, image_shape):
    """The states of new clients: one memory for all, one key per client."""
    memory = system.automaton.init(image_shape)
    for stored, fresh in zip(*map(jax.tree.leaves, (table.states.memory, memory)), strict=True):
        if stored.shape[1:] != fresh.shape:
            raise ValueError(f"expected images of the shape given to init, got {image_shape}")
    key = table.key
    keys = None if key is None else jax.vmap(lambda name: jax.random.fold_in(key, name))(names)
    return State(memory, keys)


def _select(condition, yes, no):
    """`jnp.where` over pytrees, for a condition (B,) bool and leaves (B, ...). Leaves of `no` may
    lack the batch axis."""

    def leaf(a, b):
        return jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(leaf, yes, no)


def _rows(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _put(tree, index, rows):
    return jax.tree.map(lambda leaf, new: leaf.at[index].set(new, mode="drop"), tree, rows)


def _check_clients(clients, queries, capacity):
    dtype, shape = getattr(clients, "dtype", type(clients).__name__), np.shape(clients)
    if shape != (queries,) or dtype not in (jnp.int32, jnp.uint32):
        raise ValueError(
            f"expected clients ({queries},) int32 or uint32, one an image, got {dtype} {shape}"
        )
    if not 0 < queries <= capacity:
        raise ValueError(f"expected 1 to {capacity} queries, the capacity, got {queries}")
