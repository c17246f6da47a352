"""The definition of success, and the final result of an attack."""

from typing import Any

import jax
import jax.numpy as jnp

from attacks_jax._base import Attack, Images, Labels, Oracle, Result
from attacks_jax._batch_ops import Norm, norm
from attacks_jax._losses import goal_margin

# Tolerance of the last query: two compilations of one network differ in the last bits.
RECHECK_TOLERANCE = 1e-4
# In levels: a pixel this near to a level differs from it only by rounding errors.
ON_A_LEVEL = 1e-3


def wins(margin: jax.Array, confidence: Any = 0.0) -> jax.Array:
    """Whether examples are adversarial: a margin (B,) above 0, and at least `confidence` logits."""
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
    """Returns the result, after one more query about the returned `images`.

    Args:
      state: any attack's state; its clean, labels, queries and oracle_state are read.
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


def rounded(
    attack: Attack, oracle: Oracle, result: Result, clean: Images, labels: Labels, levels: int
) -> Result:
    """Returns the result with images rounded as an image file stores them, after one more query.

    `levels` is the highest level, 255 for 8 bits. Rounded images stay in an l-infinity ball. They
    may leave an l2 ball by a fraction of a level. A pixel that rounds to the same level as the
    clean pixel gets the clean value.
    """
    low, high = attack.bounds

    def level(images):
        return (images - low) / (high - low) * levels

    found = jnp.round(level(result.images))
    eps = getattr(attack, "eps", None)
    if eps is not None and attack.norm == "linf":  # the nearest level may be outside the ball
        least, most = level(clean - eps), level(clean + eps)
        found = jnp.clip(found, jnp.ceil(least - ON_A_LEVEL), jnp.floor(most + ON_A_LEVEL))
    stored = jnp.clip(low + found / levels * (high - low), low, high)
    images = jnp.where(found == jnp.round(level(clean)), clean, stored)
    oracle_state, logits = oracle(result.oracle_state, images)
    success = result.success & wins(goal_margin(logits, labels, targeted=attack.targeted))
    unseen = getattr(attack, "unseen", None)  # attacks that also evade a detector have it
    return Result(
        images=images,
        success=success if unseen is None else success & unseen(images),
        distance=norm(images - clean, attack.norm),
        queries=result.queries + 1,
        oracle_state=oracle_state,
    )
