"""The victim: the classifier that a detector protects, which also returns its feature maps."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from cmag_jax._checks import describe
from cmag_jax._pinned import as_partial, pinned

# images (B, H, W, C) -> (feature maps (B, h, w, c), logits (B, K))
Victim = Callable[[jax.Array], tuple[jax.Array, jax.Array]]
Images = jax.Array | np.ndarray  # (B, H, W, C) float32 in [0, 1]


def ready(victim: Victim) -> Partial:
    """Wraps the victim for the detectors: a pytree that works as an argument of `jit`. Its outputs
    are checked and cast to float32.

    Raises:
      ValueError: a victim that is not callable; at a call, an output that is not (feature maps,
        logits).
    """
    if isinstance(victim, Partial) and victim.func is _in_float32:
        return Partial(_in_float32, *pinned(victim.args))
    return Partial(_in_float32, pinned(as_partial(victim, "victim")))


def _in_float32(victim: Victim, images: jax.Array) -> tuple[Any, jax.Array]:
    with _impure_in_words():
        answer = victim(images)
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise ValueError(
            "expected a victim that gives (feature maps (B, h, w, c), logits (B, K)), got"
            f" {describe(answer)}"
        )
    feature_maps, logits = answer
    right = hasattr(logits, "dtype") and jnp.issubdtype(logits.dtype, jnp.floating)
    if not right or logits.ndim != 2 or logits.shape[0] != images.shape[0]:
        raise ValueError(
            f"expected a victim with logits ({images.shape[0]}, K) of a floating type,"
            f" got {describe(logits)}"
        )
    return jax.tree.map(_float32, feature_maps), logits.astype(jnp.float32)


def _float32(leaf: Any) -> jax.Array:
    return jnp.asarray(leaf).astype(jnp.float32)


@contextlib.contextmanager
def _impure_in_words() -> Iterator[None]:
    """Turns Flax's errors for a network that changes its variables into a ValueError with the
    fix."""
    try:
        yield
    except (flax.errors.TraceContextError, flax.errors.ModifyScopeVariableError) as error:
        raise ValueError(
            "expected a victim that is a pure function, got one that changes its own variables:"
            " put it in evaluation mode (nnx: module.eval(); Linen: train=False, or"
            f" use_running_average=True). Flax says: {error}"
        ) from error
