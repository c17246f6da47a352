"""An oracle that records every query of an attack on a system, and who answered it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import spt_jax


class Record(NamedTuple):
    """The oracle's state: the system's own state, and the answers so far."""

    system: Any  # the state of the recorded system
    asked: jax.Array  # () int32: queries of each image so far
    told: jax.Array  # (Q, B) int32: the labels that the attacker received, by query
    deceived: jax.Array  # (Q, B) bool: whether the decoy answered


class Watch(NamedTuple):
    """An oracle of `attacks_jax` over a system. Instances with equal `turns` are equal, so that
    attacks on systems of one kind compile once."""

    turns: int  # consecutive images of the batch that belong to one client

    def __call__(self, system: spt_jax.System, record: Record, images: jax.Array):
        if self.turns == 1:
            state, answers = system.query_clients(record.system, images)
        else:
            batch, *shape = images.shape
            streams = images.reshape(batch // self.turns, self.turns, *shape)
            state, answers = system.query_streams(record.system, streams)
            answers = jax.tree.map(lambda leaf: leaf.reshape(batch, *leaf.shape[2:]), answers)
        row = record.asked  # rows beyond the last are dropped
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
    """Returns an empty record with room for `queries` queries of each of `batch` images."""
    key = jax.random.key(0) if system.response == "random" else None
    return Record(
        system=system.init_clients(batch // turns, image_shape, key),
        asked=jnp.zeros((), jnp.int32),
        told=jnp.zeros((queries, batch), jnp.int32),
        deceived=jnp.zeros((queries, batch), bool),
    )
