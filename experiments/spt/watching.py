"""What an attack does to a system, query by query: an oracle that keeps a record."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import spt_jax


class Record(NamedTuple):
    """An oracle's state: the system's own, and what was asked of it."""

    system: Any  # the state of what is watched
    asked: jax.Array  # () int32: queries of each image so far
    told: jax.Array  # (Q, B) int32: the labels that the attacker was told, by query
    deceived: jax.Array  # (Q, B) bool: who answered


class Watch(NamedTuple):
    """An oracle of `attacks_jax` over a system; equal to its like, so that attacks on systems of
    one kind compile once."""

    turns: int  # consecutive images of the batch that are one client's

    def __call__(self, system: spt_jax.System, record: Record, images: jax.Array):
        if self.turns == 1:
            state, answers = system.query_clients(record.system, images)
        else:
            batch, *shape = images.shape
            streams = images.reshape(batch // self.turns, self.turns, *shape)
            state, answers = system.query_streams(record.system, streams)
            answers = jax.tree.map(lambda leaf: leaf.reshape(batch, *leaf.shape[2:]), answers)
        row = record.asked  # what is beyond the last row is not written
        seen = Record(
            system=state,
            asked=record.asked + 1,
            told=record.told.at[row].set(answers.label, mode="drop"),
            deceived=record.deceived.at[row].set(answers.deceived, mode="drop"),
        )
        return seen, answers.logits


def start(
    system: spt_jax.System, batch: int, image_shape: tuple, *, queries: int, turns: int = 1
) -> Record:
    """A record of nothing, with room for so many queries of each of `batch` images."""
    key = jax.random.key(0) if system.response == "random" else None
    return Record(
        system=system.init_clients(batch // turns, image_shape, key),
        asked=jnp.zeros((), jnp.int32),
        told=jnp.zeros((queries, batch), jnp.int32),
        deceived=jnp.zeros((queries, batch), bool),
    )
