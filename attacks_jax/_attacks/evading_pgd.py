"""Adaptive PGD against a classifier and a detector: selective and orthogonal PGD of Bryniarski,
Hingun, Pachuca, Wang and Carlini, "Evading Adversarial Example Detection Defenses with Orthogonal
Projected Gradient Descent" (ICLR 2022)."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._base import Attack, Images, Labels, Logits, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import (
    PIXELS,
    accumulate,
    example_keys,
    expand,
    freeze,
    norm,
    project,
    random_start,
    select,
    steepest,
)
from attacks_jax._checks import check_bounds, check_choice, check_counts, check_positive, in_pixels
from attacks_jax._detector_oracle import Detector, ask
from attacks_jax._gradients import finite, input_gradient
from attacks_jax._losses import Loss, goal_margin, margin
from attacks_jax._pinned import as_partial
from attacks_jax._success import finish, wins

# Smaller residuals of a unit vector are rounding noise.
PARALLEL = 1e-4


class EvadingPGDState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    images: Images  # (B, H, W, C): the iterate
    momentum: jax.Array  # (B, H, W, C): the decaying sum of directions, each of l1 norm 1
    best: Images  # (B, H, W, C): the misclassified image with the lowest detector answer
    lowest: jax.Array  # (B,) that answer; infinite before the first misclassified image
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EvadingPGD(OneStage):
    detector: Detector
    eps: float | jax.Array
    step_size: float | jax.Array
    final_step: float | jax.Array
    decay: float | jax.Array
    num_steps: int = field(metadata={"static": True})
    mode: Literal["selective", "orthogonal"] = field(metadata={"static": True})
    norm: Literal["linf", "l2"] = field(metadata={"static": True})
    random_start: bool = field(metadata={"static": True})
    early_stop: bool = field(metadata={"static": True})
    loss: Loss
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    def init(self, oracle, oracle_state, key, images, labels) -> EvadingPGDState:
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        flagged = ask(self.detector, images)
        state = EvadingPGDState(
            clean=images,
            labels=labels,
            images=images,
            momentum=jnp.zeros_like(images),
            best=images,
            lowest=jnp.full(batch, jnp.inf, jnp.float32),
            done=jnp.zeros(batch, bool),
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )
        fooled, state = self._look(state, logits, flagged)
        already = fooled & (flagged <= 0)
        if self.random_start:
            keys = example_keys(key, images)
            start = random_start(keys, images, self.eps, self.norm, self.bounds)
            state = state._replace(images=select(already, images, start))
        return state._replace(done=already)

    def step(self, oracle: Oracle, state: EvadingPGDState) -> EvadingPGDState:
        def loss(logits, images):
            return self.loss(logits, state.labels, images)

        def total_flagged(images):
            flagged = ask(self.detector, images)
            return flagged.sum(), flagged

        classifier, _, logits, oracle_state = input_gradient(
            oracle, state.oracle_state, state.images, loss
        )
        detector, flagged = jax.grad(total_flagged, has_aux=True)(state.images)
        detector = finite(detector)
        fooled, looked = self._look(state, logits, flagged)
        done = fooled & (flagged <= 0) & self.early_stop

        to_fool, to_hide = -classifier if self.targeted else classifier, -detector
        if self.mode == "orthogonal":
            to_fool, to_hide = across(to_fool, detector), across(to_hide, classifier)
        aim = select(fooled, to_hide, to_fool)
        momentum = accumulate(state.momentum, aim, self.decay)
        step_size = expand(self._step_size(state.queries - 1), aim)
        moved = state.images + step_size * steepest(momentum, self.norm)
        images = project(moved, state.clean, self.eps, self.norm, self.bounds)
        moved_state = looked._replace(
            images=select(done, state.images, images),
            momentum=momentum,
            done=done,
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )
        return freeze(state, moved_state)

    def _step_size(self, steps: jax.Array) -> jax.Array:
        """Returns the step size (B,) after `steps` (B,). It falls along half a cosine."""
        left = (1 + jnp.cos(jnp.pi * steps / self.num_steps)) / 2
        return self.step_size * (self.final_step + (1 - self.final_step) * left)

    def result(self, oracle: Oracle, state: EvadingPGDState) -> Result:
        """Returns the misclassified image with the lowest detector answer, or the last image."""
        oracle_state, logits = oracle(state.oracle_state, state.images)
        _, state = self._look(state, logits, ask(self.detector, state.images))
        images = select(jnp.isfinite(state.lowest), state.best, state.images)
        state = state._replace(queries=state.queries + 1, oracle_state=oracle_state)
        result = finish(oracle, state, images, distance=self.norm, targeted=self.targeted)
        return result._replace(success=result.success & self.unseen(images))

    def unseen(self, images: Images) -> jax.Array:
        """Returns (B,) bool: true where the detector does not flag the image."""
        return ask(self.detector, images) <= 0

    def _look(
        self, state: EvadingPGDState, logits: Logits, flagged: jax.Array
    ) -> tuple[jax.Array, EvadingPGDState]:
        """Returns whether each image fools the classifier (B,), and the state with the best one."""
        fooled = wins(goal_margin(logits, state.labels, targeted=self.targeted))
        better = fooled & (flagged < state.lowest)
        best = select(better, state.images, state.best)
        return fooled, state._replace(best=best, lowest=jnp.where(better, flagged, state.lowest))


def across(direction: jax.Array, other: jax.Array) -> jax.Array:
    """Returns the component of each unit direction (B, H, W, C) orthogonal to `other`.

    For parallel directions it returns the direction itself. They have no orthogonal step, and the
    rounding noise would become a step of full length.
    """
    direction, other = steepest(direction, "l2"), steepest(other, "l2")
    along = jnp.sum(direction * other, axis=PIXELS)
    rest = direction - expand(along, other) * other
    return select(norm(rest, "l2") > PARALLEL, rest, direction)


def evading_pgd(
    *,
    detector: Detector,
    eps: float | jax.Array | None = None,
    step_size: float | jax.Array | None = None,
    num_steps: int = 100,
    final_step: float | jax.Array = 1.0,
    decay: float | jax.Array = 0.0,
    mode: Literal["selective", "orthogonal"] = "orthogonal",
    norm: Literal["linf", "l2"] = "linf",
    random_start: bool = False,
    early_stop: bool = True,
    loss: Loss = margin,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """White-box PGD against a classifier and a detector: selective (Bryniarski et al., 2022, eq. 5)
    or orthogonal (eq. 8 and 9).

    Each step of an example has one goal. If the image is not misclassified, the goal is to fool the
    classifier. Otherwise the goal is to lower the detector's answer. The selective attack follows
    the gradient of that goal. The orthogonal attack follows the component of that gradient that is
    orthogonal to the other gradient. So, to first order, one goal does not undo the other (exactly
    in l2, roughly in l-infinity). If the two gradients are parallel, the orthogonal attack steps
    like the selective one; the authors' code follows rounding noise there. A step is steepest
    ascent in the norm (the direction of l2 norm 1, or the sign, taken after the orthogonal
    projection), then a projection onto the ball around the clean image and the bounds.

    `success` means that the returned image is misclassified and the detector's answer is not above
    zero, by a last query. As in the authors' code, the result is the misclassified image with the
    lowest detector answer, or the last image if none is misclassified. An image that already
    evades both is returned unchanged. Distances are in `norm`. `queries` counts the oracle's
    queries; the detector gets as many.

    Args:
      detector: images (B, H, W, C) -> (B,) float, differentiable, above zero where it flags. Each
        answer depends on its own image only. Bind weights with `jax.tree_util.Partial`.
      eps: radius of the ball, in pixel units; default 8 / 255, as the authors', for pixels in
        [0, 1]. Traced.
      step_size: length of a step in the norm, in pixel units; default 1 / 255. Traced.
      num_steps: the largest number of steps.
      final_step: size of the last step, as a share of `step_size`. The size falls along half a
        cosine. The default is constant, as the authors'. With a constant size an image oscillates
        around the threshold. Traced.
      decay: the share of earlier directions (each of l1 norm 1, as in MI-FGSM) that momentum keeps;
        default none, as the authors'. Traced.
      mode: "selective" or "orthogonal".
      norm: "linf" or "l2".
      random_start: start at a point drawn uniformly from the ball; the authors do not.
      early_stop: stop an example at its first image that evades both, instead of lowering the
        detector's answer further.
      loss: untargeted attacks raise it, and targeted attacks lower it, to fool the classifier.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: options out of range; bounds other than (0, 1) without eps and step_size;
        when run: a detector whose answer is not (B,) float.
    """
    bounds = check_bounds(bounds)
    eps, step_size = in_pixels(bounds, eps=(eps, 8 / 255), step_size=(step_size, 1 / 255))
    check_positive(eps=eps, or_zero=True)
    check_positive(step_size=step_size, final_step=final_step)
    check_positive(decay=decay, or_zero=True)
    check_counts(num_steps=num_steps)
    check_choice(mode=(mode, ("selective", "orthogonal")), norm=(norm, ("linf", "l2")))
    return EvadingPGD(
        as_partial(detector, "detector"), eps, step_size, final_step, decay, num_steps, mode, norm,
        random_start, early_stop, as_partial(loss, "loss"), targeted, bounds,
    )  # fmt: skip
