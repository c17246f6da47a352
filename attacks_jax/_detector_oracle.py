"""A classifier behind a detector as an oracle: whoever attacks it has to evade both.

Carlini and Wagner, "Adversarial Examples Are Not Easily Detected" (2017), section 2.3, make one
classifier of the two, with a class for what is flagged. Here what is flagged is the true class.
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

# What an infinite answer of a detector is taken for: infinite logits are nobody's to attack.
LARGE = 1e6


class Guard(NamedTuple):
    """The state of a guarded oracle."""

    labels: Labels  # (B,) the true classes
    oracle_state: OracleState  # of the oracle behind the guard


def guarded_state(labels: Labels, oracle_state: OracleState = ()) -> Guard:
    """The state of a guarded oracle before its first query.

    Args:
      labels: (B,) int, the true classes of the images that are attacked: those given to `run`.
      oracle_state: the state of the oracle behind the guard.
    """
    return Guard(check_labels(labels), oracle_state)


def guarded(oracle: Oracle, detector: Detector, *, scale: float | jax.Array = 1.0) -> Oracle:
    """The oracle behind a detector, to be attacked by one who knows both.

        behind = attacks_jax.guarded(oracle, flagged)
        state = attacks_jax.guarded_state(labels)
        attacks_jax.run(attack, behind, key, images, labels, oracle_state=state)

    It answers with the oracle's logits z, but for the true class y, which has
    max(z_y, max_{j != y} z_j + scale * flagged(x)). So the attacker's margin, the best other logit
    minus the true one, is

        min(max_{j != y} z_j - z_y, -scale * flagged(x)),

    positive exactly where the image is misclassified and not flagged, and its gradient is that of
    whichever is the worse. Every untargeted attack is adaptive without a change: `success` means
    fooled and unseen, what is misclassified but flagged counts as not adversarial yet, and
    `confidence` is asked of both, in logits. An answer of exactly zero, or of less than float32
    resolves beside the logits, counts as flagged here; so does NaN, which has no gradient.

    Give PGD and its like a loss that does not fade where the detector is sure, `margin` say: the
    gradient of cross-entropy is zero in float32 from scale * flagged(x) of about 17 on.

    Untargeted attacks only: a targeted one would find its target's logit raised. The labels go
    with the images, row by row: an oracle that is asked about some rows only (`patch` and `atn`
    on more images than a batch of their training) refuses.

    Args:
      oracle: the classifier, (state, images) -> (state, logits).
      detector: images (B, H, W, C) -> (B,) float, above zero where it flags; differentiable, for
        attacks that use gradients. Of several scores: the largest (score - threshold) / spread.
        Bind weights with `jax.tree_util.Partial`.
      scale: what one unit of the detector's answer is in logits. Traced.

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
    """The detector's answer (B,) float32, or a ValueError that says what came instead."""
    flagged = detector(images)
    is_array = hasattr(flagged, "dtype") and flagged.shape == images.shape[:1]
    if not is_array or not jnp.issubdtype(flagged.dtype, jnp.floating):
        raise ValueError(
            f"expected a detector that answers ({len(images)},) float, above zero where it flags,"
            f" got {describe(flagged)}"
        )
    return flagged.astype(jnp.float32)


def remembers(oracle_state: OracleState) -> bool:
    """Whether an oracle of this state remembers what it was asked: a guard by itself does not."""
    while isinstance(oracle_state, Guard):
        oracle_state = oracle_state.oracle_state
    return bool(jax.tree.leaves(oracle_state))
