"""Adversarial training (Madry et al., 2018, section 2.1; CMAG, eq. 11)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.tree_util import Partial

from experiments.runtime import checks


@dataclass(frozen=True)
class AdversarialConfig:
    """Training on PGD examples instead of clean images (Madry et al., 2018, section 5)."""

    eps: float = 8 / 255  # l-infinity radius
    step_size: float = 2 / 255
    num_steps: int = 7

    def __post_init__(self) -> None:
        checks.above_zero(self, "eps", "step_size", most=1)
        checks.counts(self, "num_steps")


def perturb(
    key: jax.Array, logits: Partial, images: jax.Array, labels: jax.Array, config: AdversarialConfig
) -> jax.Array:
    """Returns PGD examples in the l-infinity ball (Madry et al., 2018, section 2.1).

    This is not attacks_jax.pgd, which skips misclassified images and returns the best of its steps.
    Training needs the last step's images of the whole batch. On a CPU the loop is unrolled, because
    XLA's convolutions are slow in compiled loops there.
    """

    def loss(perturbed):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits(perturbed), labels)
        return losses.sum()

    low, high = jnp.maximum(images - config.eps, 0), jnp.minimum(images + config.eps, 1)
    perturbed = jax.random.uniform(key, images.shape, minval=low, maxval=high)

    def ascend(_, perturbed):
        step = config.step_size * jnp.sign(jax.grad(loss)(perturbed))
        return jnp.clip(perturbed + step, low, high)

    if jax.default_backend() != "cpu":
        return lax.fori_loop(0, config.num_steps, ascend, perturbed)
    for i in range(config.num_steps):
        perturbed = ascend(i, perturbed)
    return perturbed
