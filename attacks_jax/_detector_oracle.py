"""An oracle that combines a classifier and a detector: an attack on it has to evade both.

Carlini and Wagner, "Adversarial Examples Are Not Easily Detected" (2017), section 2.3, combine the
two into one classifier with an extra class for flagged images. Here a flagged image gets the true
class instead.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from attacks_jax._base import Images, Labels, Logits, Oracle, OracleState
from attacks_jax._checks import check_labels, check_positive, describe
from attacks_jax._pinned import as_partial

Detector = Callable[[Images], jax.Array]  # (B, H, W, C) -> (B,), above zero where it flags

# Clip infinite answers of the detector: they have no usable gradient.
LARGE = 1e6


class Guard(NamedTuple):
    """The state of a guarded oracle."""

    labels: Labels  # (B,) the true classes
    oracle_state: OracleState  # of the oracle behind the guard


def guarded_state(labels: Labels, oracle_state: OracleState = ()) -> Guard:
    """Returns the state of a guarded oracle before its first query.

    Args:
      labels: (B,) int, the true classes of the attacked images, as given to `run`.
      oracle_state: the state of the oracle behind the guard.
    """
    return Guard(check_labels(labels), oracle_state)


def guarded(oracle: Oracle, detector: Detector, *, scale: float | jax.Array = 1.0) -> Oracle:
    """Returns an oracle for adaptive attacks on `oracle` and `detector` together.

        behind = attacks_jax.guarded(oracle, flagged)
        state = attacks_jax.guarded_state(labels)
        attacks_jax.run(attack, behind, key, images, labels, oracle_state=state)

    The new oracle returns the logits z of `oracle`, except for the true class y, whose logit is
    max(z_y, max_{j != y} z_j + scale * flagged(x)). So the attacker's margin, the best other logit
    minus the true one, is

        min(max_{j != y} z_j - z_y, -scale * flagged(x)).

    It is positive exactly where the image is misclassified and not flagged. Its gradient is that of
    the smaller term. This makes every untargeted attack adaptive without a change: `success` means
    misclassified and not flagged, and `confidence`, in logits, applies to both. An answer counts
    as flagged here if it is exactly zero, too small for float32 beside the logits, or NaN, which
    has no gradient.

    Give PGD and similar attacks a loss whose gradient does not vanish, such as `margin`. The
    gradient of cross-entropy is zero in float32 if scale * flagged(x) is above about 17.

    For untargeted attacks only: with targets as labels, the target's logit would be raised. Labels
    and images correspond row by row. So the oracle rejects a query about some rows only, as
    `patch` and `atn` make on more images than their training batch.

    Args:
      oracle: the classifier, (state, images) -> (state, logits).
      detector: images (B, H, W, C) -> (B,) float, above zero where it flags; differentiable for
        attacks that use gradients. Combine several scores by the largest
        (score - threshold) / spread. Bind weights with `jax.tree_util.Partial`.
      scale: logits per unit of the detector's answer. Traced.

    Raises:
      ValueError: a scale that is not above zero; when queried: a state that `guarded_state` did
        not make or whose labels are not (B,), a detector whose answer is not (B,) float.
    """
    check_positive(scale=scale)
    return Partial(_guarded, as_partial(oracle, "oracle"), as_partial(detector, "detector"), scale)


def _guarded(
    oracle: Oracle, detector: Detector, scale: jax.Array, guard: Guard, images: Images
) -> tuple[Guard, Logits]:
    if not isinstance(guard, Guard):
        raise ValueError(f"expected oracle_state=guarded_state(labels), got {guard!r}")
    if jnp.shape(guard.labels) != images.shape[:1]:
        raise ValueError(
            f"expected a guard with labels ({len(images)},), one an image,"
            f" got {jnp.shape(guard.labels)}"
        )
    oracle_state, logits = oracle(guard.oracle_state, images)
    logits = logits.astype(jnp.float32)
    flagged = jnp.nan_to_num(ask(detector, images), nan=1.0, posinf=LARGE, neginf=-LARGE)
    is_label = jax.nn.one_hot(guard.labels, logits.shape[-1], dtype=bool)
    other = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    raised = jnp.maximum(logits, (other + scale * flagged)[:, None])
    return guard._replace(oracle_state=oracle_state), jnp.where(is_label, raised, logits)


def ask(detector: Detector, images: Images) -> jax.Array:
    """Returns the detector's answer (B,) float32. Raises ValueError if it is not (B,) float."""
    flagged = detector(images)
    is_array = hasattr(flagged, "dtype") and flagged.shape == images.shape[:1]
    if not is_array or not jnp.issubdtype(flagged.dtype, jnp.floating):
        raise ValueError(
            f"expected a detector that answers ({len(images)},) float, above zero where it flags,"
            f" got {describe(flagged)}"
        )
    return flagged.astype(jnp.float32)


def remembers(oracle_state: OracleState) -> bool:
    """Whether an oracle with this state is stateful. A `Guard` alone does not make it so."""
    while isinstance(oracle_state, Guard):
        oracle_state = oracle_state.oracle_state
    return bool(jax.tree.leaves(oracle_state))
