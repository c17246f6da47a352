"""Gradients of an oracle with respect to the images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._base import Images, Logits, Oracle, OracleState

Objective = Callable[[Logits, Images], jax.Array]  # (B, K), (B, H, W, C) -> (B,)


class Gradient(NamedTuple):
    gradient: jax.Array  # (B, H, W, C), zero where it is not finite
    values: jax.Array  # (B,) of the objective
    logits: Logits  # (B, K)
    oracle_state: OracleState


def input_gradient(
    oracle: Oracle, oracle_state: OracleState, images: Images, objective: Objective
) -> Gradient:
    """Returns each example's objective and its gradient by the pixels, from one query."""

    def total(x):
        after, logits = oracle(oracle_state, x)
        values = objective(logits, x)
        return values.sum(), (values, logits, after)

    gradient, (values, logits, after) = jax.grad(total, has_aux=True)(images)
    return Gradient(finite(gradient), values, logits, after)


def finite(gradient: jax.Array) -> jax.Array:
    """Returns the gradient with zeros for NaN and infinity, which give no direction."""
    return jnp.where(jnp.isfinite(gradient), gradient, 0.0)


def pull_back(
    oracle: Oracle, oracle_state: OracleState, images: Images, cotangents: Callable
) -> tuple[jax.Array, Logits, OracleState]:
    """Returns the gradients of several linear combinations of the logits, from one forward pass.

    Args:
      cotangents: logits (B, K) -> the combinations' weights (M, B, K).

    Returns:
      Gradients (M, B, H, W, C), the logits (B, K) and the oracle's state.
    """

    def forward(x):
        after, logits = oracle(oracle_state, x)
        return logits, after

    logits, backward, after = jax.vjp(forward, images, has_aux=True)
    (gradients,) = jax.vmap(backward)(cotangents(logits).astype(logits.dtype))
    return finite(gradients), logits, after
