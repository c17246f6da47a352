"""What attackers maximise. A loss maps (logits, labels, images) to one value an example.

A loss grows as an example moves away from the label: untargeted attacks raise it with the true
classes, targeted ones lower it with the targets. A function of one's own takes the place of any,
the score of a detector included: that is what makes an attack adaptive.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, images: jax.Array) -> jax.Array:
    """Cross-entropy of `logits` (B, K) against `labels` (B,): (B,), in nats. Ignores `images`."""
    del images
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def margin(logits: jax.Array, labels: jax.Array, images: jax.Array) -> jax.Array:
    """The best other class's logit minus the label's: (B,), above zero where the label lost."""
    del images
    return -lead(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array, images: jax.Array) -> jax.Array:
    """The difference-of-logits ratio: (B,). Croce and Hein, "Reliable evaluation of adversarial
    robustness" (2020), eq. 6: the margin over the gap between the first and the third logit, so
    that scaling the logits changes nothing. With fewer than three classes it is the margin."""
    if logits.shape[1] < 3:
        return margin(logits, labels, images)
    best = jnp.sort(logits, axis=-1)[:, ::-1]
    return -lead(logits, labels) / (best[:, 0] - best[:, 2] + 1e-12)


def targeted_dlr(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """DLR towards `targets` (B,) for true classes `labels` (B,): (B,). Eq. 7 of the same paper:
    -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2). With three classes z_4 is z_3, with fewer the
    denominator 1."""
    own, goal = (jnp.take_along_axis(logits, c[:, None], axis=1)[:, 0] for c in (labels, targets))
    if logits.shape[1] < 3:
        return goal - own
    best = jnp.sort(logits, axis=-1)[:, ::-1]
    third, fourth = best[:, 2], best[:, min(3, best.shape[1] - 1)]
    return (goal - own) / (best[:, 0] - (third + fourth) / 2 + 1e-12)


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
