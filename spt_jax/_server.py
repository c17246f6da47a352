"""A table of clients' states on the device, for who serves many clients and knows them by name."""

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

NEVER = 2**31 - 1  # idle for ever: a row that nobody has
NOBODY = 2**32 - 1  # sorts last; a client may have this name too


class Table(NamedTuple):
    """The states of at most `capacity` clients, and a directory of who they are: its rows, which
    are sorted by name, say where a client's state is. Of fixed size, whatever is sent."""

    states: State  # each leaf (capacity, ...)
    names: jax.Array  # (capacity,) uint32, sorted
    idle: jax.Array  # (capacity,) int32: batches since the client's last, or NEVER
    slots: jax.Array  # (capacity,) int32: where in `states` the client is
    key: jax.Array | None  # of random responses


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Server:
    """A packaged classifier and the size of its table: a pure function from (table, clients,
    images) to (table, answers), which works inside jit.

    The table is large and should be updated where it is: `jax.jit(server.query,
    donate_argnums=0)`, or `jax.jit(Server.query, donate_argnums=1)(server, table, ...)`, which
    takes weights as arguments.
    """

    system: System
    capacity: int = field(metadata={"static": True})

    def init(self, image_shape: Sequence[int], key: jax.Array | None = None) -> Table:
        """A table in which nobody is: `capacity * state_bytes(system, image_shape)` bytes, and 12
        a client for the directory.

        Args:
          image_shape: (H, W, C) of all images to come.
          key: a typed key, for `response="random"` and only for it. A client's own is `fold_in` of
            it and the client's name, and so the same whenever the client begins anew.

        Raises:
          ValueError: another shape, a key that is missing or in vain.
        """
        return Table(
            states=self.system.init_clients(self.capacity, image_shape, key),
            names=jnp.full(self.capacity, NOBODY, jnp.uint32),
            idle=jnp.full(self.capacity, NEVER, jnp.int32),
            slots=jnp.arange(self.capacity, dtype=jnp.int32),
            key=None if key is None else jnp.copy(key),  # who donates the table keeps the key
        )

    def query(self, table: Table, clients: jax.Array, images: Images) -> tuple[Table, Answer]:
        """A batch of queries, answered as if one after another in the batch's order, each from its
        own client's state; a client who is not in the table begins with `system.init`.

        Who is forgotten is decided once a batch, before its queries: where the batch has clients
        who are not in the table, they take what is free, and then the places of those whose last
        batch is the longest ago; of equals, of the smaller name (as uint32). So no client of
        the batch is forgotten by it.

        Each network runs once, on the whole batch, and not where it answers nobody. Memories are
        mapped over; the second and later queries that a client has in the batch are decided one
        by one, so a flood by one client costs as much as a stream.

        Args:
          table: of `init`.
          clients: (B,) int32 or uint32, who sent each image: any numbers; -1 and 2**32 - 1 are one.
          images: (B, H, W, C) float32 in [0, 1].

        Raises:
          ValueError: clients or images of another shape, type or range; none of them, or more than
            `capacity`.
        """
        check_images(images, rank=4, bounds=self.system.bounds)
        _check_clients(clients, len(images), self.capacity)
        return _query(pinned(self), table, clients.astype(jnp.uint32), images)


def serve(system: System, capacity: int = 1024) -> Server:
    """A server of as many clients at once, of whom the least recently seen are forgotten.

    What has to be remembered of a client is the cost of a defence that remembers (SPT, section
    IV-F): `state_bytes` each. Who can send under `capacity` other names is forgotten, and begins
    anew.

    Args:
      system: what answers.
      capacity: clients in the table, and the largest batch.

    Raises:
      ValueError: a capacity that is not a whole number above 0.
    """
    check_counts(capacity=capacity)
    return Server(system, int(capacity))


def state_bytes(system: System, image_shape: Sequence[int]) -> int:
    """The bytes of one client's state (SPT, section IV-F): 122,896 for a buffer of 10 images of
    32x32x3, whatever has been sent.

    Raises:
      ValueError: another shape.
    """
    key = jax.random.key(0) if system.response == "random" else None
    state = jax.eval_shape(lambda: system.init(image_shape, key))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@partial(jax.jit, inline=True)
def _query(server, table, names, images):
    system = server.system
    images, heard, evidence = system.look(images)

    order = jnp.argsort(names, stable=True)  # client by client
    first = order[jnp.searchsorted(names[order], names, method="scan_unrolled")]  # of each's client
    leads = first == jnp.arange(len(names))
    table, known, slots = _admit(table, names, leads)
    fresh = _beginnings(system, table, names, images.shape[1:])
    states = _select(known, _rows(table.states, slots), fresh)

    # All first queries at once, of which the others are no part; then these, client by client. The
    # state of the client in turn is carried, and what is written to is not read: XLA would copy it.
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
    """(rows of the directory, whether the client is in that row)."""
    rows = jnp.searchsorted(table.names, names, method="scan_unrolled")
    rows = jnp.minimum(rows, len(table.names) - 1)
    return rows, (table.names[rows] == names) & (table.idle[rows] != NEVER)


def _admit(table, names, leads):
    """The table with all of the batch in its directory; (B,) who was there before; (B,) slots."""
    rows, known = _find(table, names)
    idle = jnp.where(table.idle == NEVER, NEVER, jnp.minimum(table.idle, NEVER - 2) + 1)
    idle = idle.at[jnp.where(known, rows, NEVER)].set(0, mode="drop")
    new = leads & ~known

    def enter(directory):
        directory_names, idle, slots = directory
        longest = lax.top_k(idle, len(names))[1]  # those of the batch are the last of them
        rows = jnp.where(new, longest[jnp.cumsum(new) - 1], NEVER)
        directory_names = directory_names.at[rows].set(names, mode="drop")
        idle = idle.at[rows].set(0, mode="drop")
        # By name; a row that nobody has comes after the client who has its name.
        return tuple(lax.sort((directory_names, idle, slots), num_keys=2))

    directory = (table.names, idle, table.slots)
    directory = lax.cond(jnp.any(new), enter, lambda same: same, directory)
    table = table._replace(names=directory[0], idle=directory[1], slots=directory[2])
    return table, known, table.slots[_find(table, names)[0]]


def _beginnings(system, table, names, image_shape):
    """The states of clients who have sent nothing yet: the memory of one, the key of each."""
    memory = system.automaton.init(image_shape)
    for stored, fresh in zip(*map(jax.tree.leaves, (table.states.memory, memory)), strict=True):
        if stored.shape[1:] != fresh.shape:
            raise ValueError(f"expected images of the shape given to init, got {image_shape}")
    key = table.key
    keys = None if key is None else jax.vmap(lambda name: jax.random.fold_in(key, name))(names)
    return State(memory, keys)


def _select(condition, yes, no):
    """(B,) bool and leaves (B, ...); what holds for all of the batch has no such axis."""

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
