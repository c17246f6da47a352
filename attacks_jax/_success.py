"""When an example counts as adversarial, and what is given back in the end."""

from typing import Any

import jax
import jax.numpy as jnp

from attacks_jax._base import Attack, Images, Labels, Oracle, Result
from attacks_jax._batch_ops import Norm, norm
from attacks_jax._losses import goal_margin

# Two compilations of one network differ in the last bits: what the re-check forgives.
RECHECK_TOLERANCE = 1e-4
# In levels: a pixel so near to one stands on it, but for rounding.
ON_A_LEVEL = 1e-3


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


def rounded(
    attack: Attack, oracle: Oracle, result: Result, clean: Images, labels: Labels, levels: int
) -> Result:
    """The result with images of so many levels above the lowest, as a file of whole numbers keeps
    them (255: 8 bits), and about which the oracle is asked again. An l-infinity ball is kept to; an
    l2 ball may be left by a fraction of a level. Where both round to one level the pixel is the
    clean image's own."""
    low, high = attack.bounds

    def level(images):
        return (images - low) / (high - low) * levels

    found = jnp.round(level(result.images))
    eps = getattr(attack, "eps", None)
    if eps is not None and attack.norm == "linf":  # the nearest level may lie outside of the ball
        least, most = level(clean - eps), level(clean + eps)
        found = jnp.clip(found, jnp.ceil(least - ON_A_LEVEL), jnp.floor(most + ON_A_LEVEL))
    stored = jnp.clip(low + found / levels * (high - low), low, high)
    images = jnp.where(found == jnp.round(level(clean)), clean, stored)
    oracle_state, logits = oracle(result.oracle_state, images)
    success = result.success & wins(goal_margin(logits, labels, targeted=attack.targeted))
    unseen = getattr(attack, "unseen", None)  # of an attack on a detector too
    return Result(
        images=images,
        success=success if unseen is None else success & unseen(images),
        distance=norm(images - clean, attack.norm),
        queries=result.queries + 1,
        oracle_state=oracle_state,
    )
