"""Attackers who know the defence: what they do to queries on their way to the system.

Each is an oracle around `watching.Watch`, so that any attack can use it.
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
    """What an attacker does against a memory; nothing by default."""

    dummy_every: int = 0  # queries after which an image of noise is sent, whose answer is ignored
    noise: float = 0.0  # standard deviation of what is added to each query
    samples: int = 1  # queries whose mean answer a step goes by: EOT over the noise
    clients: int = 1  # identities between which queries alternate

    @property
    def title(self) -> str:
        parts = []
        if self.dummy_every:
            parts.append(f"dummy every {self.dummy_every}")
        if self.noise:
            parts.append(f"noise {self.noise:g}")
        if self.samples > 1:
            parts.append(f"EOT {self.samples}")
        if self.clients > 1:
            parts.append(f"{self.clients} clients")
        return ", ".join(parts)


NO_EVASION = Evasion()


class Evading(NamedTuple):
    """The oracle's state: the record, all clients' system states in it, and randomness."""

    record: Record
    key: jax.Array


class Evade(NamedTuple):
    """An oracle over a system; equal to its like, so that attacks compile once."""

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
        key, noise_key, dummy_key = jax.random.split(state.key, 3)
        if how.noise:
            noise = how.noise * jax.random.normal(noise_key, images.shape)
            images = jnp.clip(images + noise, 0.0, 1.0)
        if how.dummy_every:
            turn = record.asked % how.dummy_every == how.dummy_every - 1
            record = lax.cond(
                turn, lambda r: self._distract(system, r, dummy_key, images), lambda r: r, record
            )
        watch = Watch(self.turns)
        if how.clients == 1:
            record, logits = watch(system, record, images)
            return Evading(record, key), logits
        of_all, mine = record.system, record.asked % how.clients
        record = record._replace(system=jax.tree.map(lambda leaf: leaf[mine], of_all))
        record, logits = watch(system, record, images)
        of_all = jax.tree.map(lambda leaf, new: leaf.at[mine].set(new), of_all, record.system)
        return Evading(record._replace(system=of_all), key), logits

    def _distract(self, system, record, key, images):
        """A query that only the memory notices: an image of noise, like no other."""
        dummies = jax.random.uniform(key, images.shape)
        _, evidence = system.look(dummies)
        states, _ = jax.vmap(system.decide)(record.system, evidence)
        return record._replace(system=states)


def evading(evasion: Evasion, system: spt_jax.System, *, turns: int = 1) -> attacks_jax.Oracle:
    """The system as the attacker asks it; its state begins as `begin` makes it.

    Raises:
      ValueError: dummies from clients that attack several images in turns.
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
) -> Evading:
    """The state before the first query, with room in the record for so many of them."""
    record = start(system, batch, image_shape, queries=queries, turns=turns)
    if evasion.clients > 1:
        of_all = jax.tree.map(
            lambda leaf: jnp.repeat(leaf[None], evasion.clients, axis=0), record.system
        )
        record = record._replace(system=of_all)
    return Evading(record, jax.random.key(0))
