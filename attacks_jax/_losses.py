"""What attackers maximise. A loss maps (logits, labels, images) to one value an example."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, images: jax.Array) -> jax.Array:
    """Cross-entropy of `logits` (B, K) against `labels` (B,): (B,), in nats. Ignores `images`."""
    del images
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def lead(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """How far class `labels` (B,) lies above the best other class in `logits` (B, K): (B,).

    Negative when another class wins, infinite when there is only one class.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    own = jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
    other = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return own - other


def goal_margin(logits: jax.Array, labels: jax.Array, *, targeted: bool) -> jax.Array:
    """The attacker's margin (B,): positive exactly where the example is adversarial.

    Untargeted: best other class minus the true one. Targeted: the target minus the best other.
    """
    return lead(logits, labels) if targeted else -lead(logits, labels)
