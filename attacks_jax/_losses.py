"""Loss functions for attacks. A loss maps (logits, labels, images) to one value per example.

A loss grows as an example moves away from the label. Untargeted attacks raise it for the true
classes; targeted attacks lower it for the target classes. You can pass your own function instead.
A loss that includes a detector's score makes an attack adaptive.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the cross-entropy (B,), in nats, of logits (B, K) and labels. Ignores `images`."""
    del images
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def margin(logits: jax.Array, labels: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the best other logit minus the label's (B,). Positive means another class wins."""
    del images
    return -lead(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array, images: jax.Array) -> jax.Array:
    """Returns the difference-of-logits ratio (B,).

    Croce and Hein, "Reliable evaluation of adversarial robustness" (2020), eq. 6: the margin
    divided by the gap between the first and the third logit. Scaling the logits does not change
    it. With fewer than three classes it is the margin.
    """
    if logits.shape[1] < 3:
        return margin(logits, labels, images)
    best = jnp.sort(logits, axis=-1)[:, ::-1]
    return -lead(logits, labels) / (best[:, 0] - best[:, 2] + 1e-12)


def targeted_dlr(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the DLR loss (B,) towards `targets` (B,) for true classes `labels` (B,).

    Eq. 7 of the same paper: -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2). With three classes z_4 is z_3.
    With fewer classes the denominator is 1.
    """
    own, goal = (jnp.take_along_axis(logits, c[:, None], axis=1)[:, 0] for c in (labels, targets))
    if logits.shape[1] < 3:
        return goal - own
    best = jnp.sort(logits, axis=-1)[:, ::-1]
    third, fourth = best[:, 2], best[:, min(3, best.shape[1] - 1)]
    return (goal - own) / (best[:, 0] - (third + fourth) / 2 + 1e-12)


def lead(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the label's logit minus the best other logit (B,), from `logits` (B, K).

    Negative if another class wins, infinite if there is only one class.
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    own = jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
    other = jnp.max(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return own - other


def goal_margin(logits: jax.Array, labels: jax.Array, *, targeted: bool) -> jax.Array:
    """Returns the attacker's margin (B,): positive exactly where the example is adversarial.

    Untargeted: the best other logit minus the true one. Targeted: the target's logit minus the
    best other.
    """
    return lead(logits, labels) if targeted else -lead(logits, labels)
