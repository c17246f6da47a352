"""When an example counts as adversarial, and what is given back in the end."""

from typing import Any

import jax
import jax.numpy as jnp

from attacks_jax._attack import Images, Oracle, Result
from attacks_jax._examples import Norm, norm
from attacks_jax._losses import goal_margin

# Two compilations of one network differ in the last bits: what the re-check forgives.
RECHECK_TOLERANCE = 1e-4


def wins(margin: jax.Array, confidence: Any = 0.0) -> jax.Array:
    """Whether the attacker's margin (B,) is adversarial, by at least `confidence` logits."""
    return (margin > 0) & (margin >= confidence)


def finish(
    oracle: Oracle,
    state: Any,
    images: Images,
    *,
    distance: Norm,
    targeted: bool,
    confidence: Any = 0.0,
) -> Result:
    """The result: the oracle is asked once more, about `images` as they are returned.

    Args:
      state: any attack's; its clean, labels, queries and oracle_state are read.
    """
    oracle_state, logits = oracle(state.oracle_state, images)
    slack = RECHECK_TOLERANCE * (1.0 + jnp.abs(confidence)) * (jnp.asarray(confidence) > 0)
    return Result(
        images=images,
        success=wins(goal_margin(logits, state.labels, targeted=targeted), confidence - slack),
        distance=norm(images - state.clean, distance),
        queries=state.queries + 1,
        oracle_state=oracle_state,
    )
