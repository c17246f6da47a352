"""Attacks that learn from all their images together: a patch, a network."""

from typing import Any

import jax
import jax.numpy as jnp

from attacks_jax._base import OneStage


class Learning(OneStage):
    """Once it has learnt (`attacks_jax.fit`) it has something `trained`, and makes no steps."""

    independent = False  # its state has more than a row an example
    trained: Any  # None before
    training_steps: Any  # int
    bounds: Any  # (lowest, highest) pixel

    @property
    def num_steps(self) -> int:
        return self.training_steps if self.trained is None else 0

    def learnt(self, state: Any) -> Any:
        """The attack with what the state has learnt."""
        raise NotImplementedError


def draw_rows(key: jax.Array, batch: int, count: int) -> jax.Array:
    """Rows of a batch to learn from, without replacement: all, in order, where there are no more.

    In order, because an oracle that remembers may know its clients by their rows.
    """
    if count >= batch:
        return jnp.arange(batch)
    return jax.random.permutation(key, batch)[:count]
