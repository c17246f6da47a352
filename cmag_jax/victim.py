"""What every detector guards: a classifier whose feature maps can be seen."""

from collections.abc import Callable

import jax
import numpy as np
from jax.tree_util import Partial

# images (B, H, W, C) -> (feature maps (B, h, w, c), logits (B, K))
Victim = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Images = jax.Array | np.ndarray  # (B, H, W, C) float32 in [0, 1]


def as_partial(function: Callable) -> Partial:
    """The function as a pytree: `jit` traces the weights bound to it, and knows it again."""
    return function if isinstance(function, Partial) else Partial(function)
