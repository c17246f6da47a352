"""FGSM, the fast gradient sign method (Goodfellow, Shlens and Szegedy, 2015)."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import Norm, select
from attacks_jax._checks import check_bounds, check_positive, in_pixels
from attacks_jax._gradients import input_gradient
from attacks_jax._losses import Loss, cross_entropy, goal_margin
from attacks_jax._pinned import as_partial
from attacks_jax._success import finish


class FGSMState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    images: Images  # (B, H, W, C): after the step, the adversarial images
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FGSM(OneStage):
    eps: float | jax.Array
    loss: Loss
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "linf"

    @property
    def num_steps(self) -> int:
        return 1

    def init(self, oracle, oracle_state, key, images, labels) -> FGSMState:
        del oracle, key  # nothing is random, and the step takes the only gradient
        batch = images.shape[0]
        done, queries = jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32)
        return FGSMState(images, labels, images, done, queries, oracle_state)

    def step(self, oracle: Oracle, state: FGSMState) -> FGSMState:
        def loss(logits, images):
            return self.loss(logits, state.labels, images)

        gradient, _, logits, oracle_state = input_gradient(
            oracle, state.oracle_state, state.clean, loss
        )
        direction = -jnp.sign(gradient) if self.targeted else jnp.sign(gradient)
        moved = jnp.clip(state.clean + self.eps * direction, *self.bounds)
        # An image that is already misclassified needs no perturbation.
        already = goal_margin(logits, state.labels, targeted=self.targeted) > 0
        return state._replace(
            images=select(already, state.clean, moved),
            done=jnp.ones_like(state.done),
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )

    def result(self, oracle: Oracle, state: FGSMState) -> Result:
        return finish(oracle, state, state.images, distance=self.norm, targeted=self.targeted)


def fgsm(
    *,
    eps: float | jax.Array | None = None,
    loss: Loss = cross_entropy,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """x + eps * sign(grad_x loss(f(x), y)), clipped to the bounds: CMAG's eq. 1 with G = sign.

    Distances are in the l-infinity norm. Images that the oracle already misclassifies are
    returned unchanged.

    Args:
      eps: size of the step, in pixel units; default 0.1, for pixels in [0, 1]. CMAG uses 0.1, 0.2
        and 0.3. Traced.
      loss: a function of (logits (B, K), labels (B,), images (B, H, W, C)) to (B,). Untargeted
        attacks raise it; targeted attacks lower it.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative eps, invalid bounds, bounds other than (0, 1) without eps.
    """
    bounds = check_bounds(bounds)
    (eps,) = in_pixels(bounds, eps=(eps, 0.1))
    check_positive(eps=eps, or_zero=True)
    return FGSM(eps, as_partial(loss, "loss"), targeted, bounds)


def least_likely(
    *, eps: float | jax.Array | None = None, bounds: tuple[float, float] = (0.0, 1.0)
) -> Attack:
    """x - eps * sign(grad_x CE(f(x), y_LL)), clipped: one step towards the least likely class y_LL.

    Kurakin, Goodfellow and Bengio, "Adversarial Machine Learning at Scale" (2017), section 2.2;
    CMAG's eq. 1 with the label of the smallest probability. y_LL is the oracle's least likely class
    for the clean image. `labels` are the true classes, and any other class is a success.

    Args:
      eps: size of the step, in pixel units; default 0.1, for pixels in [0, 1]. Traced.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative eps, invalid bounds, bounds other than (0, 1) without eps.
    """
    return fgsm(eps=eps, loss=_away_from_the_least_likely, bounds=bounds)


def _away_from_the_least_likely(logits, labels, images):
    del labels
    return -cross_entropy(logits, jnp.argmin(logits, axis=-1), images)
