"""Evasions of stateful systems: how adaptive attacks change their queries.

An evasion is an oracle around `watching.Watch`, so that any attack can use it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

import attacks_jax
import spt_jax
from experiments.spt.watching import Record, Watch, start


@dataclass(frozen=True)
class Evasion:
    """How an attack evades a stateful system; by default it does nothing."""

    dummy_every: int = 0  # queries between groups of dummies: noise images with ignored answers
    dummies: int = 1  # dummies in a group
    noise: float = 0.0  # standard deviation of the noise added to each query
    samples: int = 1  # queries whose mean answer each step uses: EOT over the noise
    clients: int = 1  # client identities that send the queries in turn

    @property
    def title(self) -> str:
        parts = []
        if self.dummy_every:
            count = "a dummy" if self.dummies == 1 else f"{self.dummies} dummies"
            parts.append(f"{count} every {self.dummy_every}")
        if self.noise:
            parts.append(f"noise {self.noise:g}")
        if self.samples > 1:
            parts.append(f"EOT {self.samples}")
        if self.clients > 1:
            parts.append(f"{self.clients} clients")
        return ", ".join(parts)


NO_EVASION = Evasion()


class Evading(NamedTuple):
    """The oracle's state: the record, with all clients' system states, and random keys."""

    record: Record
    keys: jax.Array  # (B,), one per image: results do not depend on the rest of the batch


class Evade(NamedTuple):
    """An oracle over a system. Instances with equal fields are equal, so that attacks compile
    once."""

    evasion: Evasion
    turns: int

    def __call__(self, system: spt_jax.System, state: Evading, images: jax.Array):
        total: Any = 0.0
        for _ in range(self.evasion.samples):
            state, logits = self._ask(system, state, images)
            total = total + logits
        return state, total / self.evasion.samples

    def _ask(self, system, state, images):
        how, record = self.evasion, state.record
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(state.keys, record.asked)
        if how.noise:
            noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:]))(keys)
            images = jnp.clip(images + how.noise * noise, 0.0, 1.0)
        if how.dummy_every:
            turn = (record.asked > 0) & (record.asked % how.dummy_every == 0)
            record = lax.cond(
                turn, lambda r: self._distract(system, r, keys, images), lambda r: r, record
            )
        watch = Watch(self.turns)
        if how.clients == 1:
            record, logits = watch(system, record, images)
            return state._replace(record=record), logits
        of_all, mine = record.system, record.asked % how.clients
        record = record._replace(system=jax.tree.map(lambda leaf: leaf[mine], of_all))
        record, logits = watch(system, record, images)
        of_all = jax.tree.map(lambda leaf, new: leaf.at[mine].set(new), of_all, record.system)
        return state._replace(record=record._replace(system=of_all)), logits

    def _distract(self, system, record, keys, images):
        """Sends noise images, which resemble no other query. Only the memory is updated."""

        def send(states, number):
            own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
            dummies = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(own)
            return jax.vmap(system.decide)(states, system.look(dummies).evidence)[0], None

        states, _ = lax.scan(send, record.system, jnp.arange(self.evasion.dummies))
        return record._replace(system=states)


def evading(evasion: Evasion, system: spt_jax.System, *, turns: int = 1) -> attacks_jax.Oracle:
    """Returns the system as the attacker queries it. `begin` makes its initial state.

    Raises:
      ValueError: dummies together with several images per client or several clients.
    """
    if evasion.dummy_every and (turns > 1 or evasion.clients > 1):
        raise ValueError("expected dummies of clients with one image each, who are one each")
    return Partial(Evade(evasion, turns), system)


def begin(
    evasion: Evasion,
    system: spt_jax.System,
    batch: int,
    image_shape: tuple,
    *,
    queries: int,
    turns: int = 1,
    keys: jax.Array | None = None,
) -> Evading:
    """Returns the state before the first query, with room for `queries` queries in the record.
    `keys` (B,) determine the noise and the dummies."""
    record = start(system, batch, image_shape, queries=queries, turns=turns)
    if evasion.clients > 1:
        of_all = jax.tree.map(
            lambda leaf: jnp.repeat(leaf[None], evasion.clients, axis=0), record.system
        )
        record = record._replace(system=of_all)
    if keys is None:
        keys = jax.random.split(jax.random.key(0), batch)
    return Evading(record, keys)
