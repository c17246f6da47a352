"""Attacks that train one object on all images together: a patch or a network."""

from typing import Any

import jax
import jax.numpy as jnp

from attacks_jax._base import OneStage


class Learning(OneStage):
    """An attack that needs training. After `attacks_jax.fit` it has `trained`, and no steps."""

    independent = False  # the state has leaves that all examples share
    trained: Any  # None before training
    training_steps: Any  # int
    bounds: Any  # (lowest, highest) pixel

    @property
    def num_steps(self) -> int:
        return self.training_steps if self.trained is None else 0

    def learnt(self, state: Any) -> Any:
        """Returns the attack with the training result of `state`."""
        raise NotImplementedError


def draw_rows(key: jax.Array, batch: int, count: int) -> jax.Array:
    """Draws `count` rows of a batch without replacement; all rows in order if `count` >= batch.

    In order, because a stateful oracle may identify clients by their rows.
    """
    if count >= batch:
        return jnp.arange(batch)
    return jax.random.permutation(key, batch)[:count]
