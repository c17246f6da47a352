"""Iterated gradient steps in a ball: BIM (Kurakin, Goodfellow and Bengio, 2017), PGD (Madry et al.,
2018) and MI-FGSM (Dong et al., 2018). They are one loop with or without random start and momentum.
"""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import (
    accumulate,
    example_keys,
    fold,
    freeze,
    project,
    random_start,
    select,
    steepest,
)
from attacks_jax._checks import check_bounds, check_choice, check_counts, check_positive, in_pixels
from attacks_jax._gradients import input_gradient
from attacks_jax._losses import Loss, cross_entropy, goal_margin
from attacks_jax._pinned import as_partial
from attacks_jax._success import finish, wins


class PGDState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    images: Images  # (B, H, W, C): the iterate
    momentum: jax.Array  # (B, H, W, C): the decaying sum of gradients, each of l1 norm 1
    found: jax.Array  # (B,) bool: whether an adversarial image was found
    best: Images  # (B, H, W, C): the last adversarial image found
    iteration: jax.Array  # (B,) int32: queries in this round
    round: jax.Array  # (B,) int32: finished rounds
    keys: jax.Array  # (B,)
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PGD(OneStage):
    eps: float | jax.Array
    step_size: float | jax.Array
    decay: float | jax.Array
    norm: Literal["linf", "l2"] = field(metadata={"static": True})
    steps: int = field(metadata={"static": True})
    random_start: bool = field(metadata={"static": True})
    restarts: int = field(metadata={"static": True})
    early_stop: bool = field(metadata={"static": True})
    loss: Loss
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    @property
    def num_steps(self) -> int:
        return self.restarts * self._looks

    @property
    def _looks(self) -> int:
        """Queries per round. With restarts, a round ends with a query about its last image; without
        them, `result` makes that query."""
        return self.steps + (self.restarts > 1)

    def init(self, oracle, oracle_state, key, images, labels) -> PGDState:
        batch = images.shape[0]
        keys = example_keys(key, images)
        nothing, zeros = jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32)
        state = PGDState(
            clean=images,
            labels=labels,
            images=images,
            momentum=jnp.zeros_like(images),
            found=nothing,
            best=images,
            iteration=zeros,
            round=zeros,
            keys=keys,
            done=nothing,
            queries=zeros,
            oracle_state=oracle_state,
        )
        if not self.random_start:
            return state  # the first step queries the clean image
        oracle_state, logits = oracle(oracle_state, images)
        already = wins(goal_margin(logits, labels, targeted=self.targeted))
        start = self._random_start(keys, 0, images)
        return state._replace(
            images=select(already, images, start),
            found=already,
            done=already,
            queries=zeros + 1,
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: PGDState) -> PGDState:
        def loss(logits, images):
            return self.loss(logits, state.labels, images)

        gradient, _, logits, oracle_state = input_gradient(
            oracle, state.oracle_state, state.images, loss
        )
        won = wins(goal_margin(logits, state.labels, targeted=self.targeted))
        found = state.found | won
        if self.early_stop:
            done = won
        else:  # an image that is already misclassified stays unchanged
            untouched = (state.iteration == 0) & (state.round == 0)
            done = won & untouched & (not self.random_start)

        momentum = accumulate(state.momentum, gradient, self.decay)
        direction = steepest(-momentum if self.targeted else momentum, self.norm)
        moved = state.images + self.step_size * direction
        images = project(moved, state.clean, self.eps, self.norm, self.bounds)

        iteration, round_ = state.iteration + 1, state.round
        if self.restarts > 1:
            ends = iteration == self._looks
            round_ = round_ + ends
            done |= ends & (found | (round_ == self.restarts))
            fresh = ends & ~done
            images = select(ends & done, state.images, images)  # no step after the last query
            images = select(fresh, self._random_start(state.keys, round_, state.clean), images)
            momentum = select(fresh, jnp.zeros_like(momentum), momentum)
            iteration = jnp.where(fresh, 0, iteration)
        moved_state = state._replace(
            images=select(done & won, state.images, images),
            momentum=momentum,
            found=found,
            best=select(won, state.images, state.best),
            iteration=iteration,
            round=round_,
            done=done,
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )
        return freeze(state, moved_state)

    def result(self, oracle: Oracle, state: PGDState) -> Result:
        """Returns the last image, or an earlier success if the last image fails."""
        oracle_state, logits = oracle(state.oracle_state, state.images)
        won = wins(goal_margin(logits, state.labels, targeted=self.targeted))
        images = select(won | ~state.found, state.images, state.best)
        state = state._replace(queries=state.queries + 1, oracle_state=oracle_state)
        return finish(oracle, state, images, distance=self.norm, targeted=self.targeted)

    def _random_start(self, keys, round_, clean):
        return random_start(fold(keys, round_), clean, self.eps, self.norm, self.bounds)


def pgd(
    *,
    eps: float | jax.Array | None = None,
    step_size: float | jax.Array | None = None,
    num_steps: int = 40,
    norm: Literal["linf", "l2"] = "linf",
    random_start: bool = True,
    restarts: int = 1,
    early_stop: bool = False,
    loss: Loss = cross_entropy,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Projected gradient descent (Madry et al., 2018, section 2.1): x <- P(x + step_size * d).

    d is the direction of steepest ascent in the norm: the sign, or the gradient at l2 norm 1. P
    projects onto the ball of radius `eps` around the clean image, and onto the bounds. Distances
    are in `norm`. An image that is already misclassified is returned unchanged. The result is the
    last image, or, if it fails, the last adversarial one before it.

    Args:
      eps: radius of the ball, in pixel units; default 0.3, the paper's for MNIST. Traced.
      step_size: length of a step in the norm, in pixel units; default 0.01. Traced.
      num_steps: steps per round.
      norm: "linf" or "l2".
      random_start: start each round at a point drawn uniformly from the ball.
      restarts: the largest number of rounds. No round follows a round with an adversarial image.
      early_stop: stop an example at its first adversarial image.
      loss: untargeted attacks raise it; targeted attacks lower it.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: options out of range; restarts without a random start; other bounds than
        (0, 1) without eps and step_size.
    """
    bounds = check_bounds(bounds)
    eps, step_size = in_pixels(bounds, eps=(eps, 0.3), step_size=(step_size, 0.01))
    check_positive(eps=eps, or_zero=True)
    check_positive(step_size=step_size)
    check_counts(num_steps=num_steps, restarts=restarts)
    check_choice(norm=(norm, ("linf", "l2")))
    if restarts > 1 and not random_start:
        raise ValueError(f"expected a random start with several restarts, got {restarts} without")
    return PGD(
        eps, step_size, 0.0, norm, num_steps, random_start, restarts, early_stop,
        as_partial(loss, "loss"), targeted, bounds,
    )  # fmt: skip


def bim(
    *,
    eps: float | jax.Array | None = None,
    step_size: float | jax.Array | None = None,
    num_steps: int = 20,
    early_stop: bool = False,
    loss: Loss = cross_entropy,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """The basic iterative method: PGD in the l-infinity norm that starts at the clean image.

    Kurakin, Goodfellow and Bengio, "Adversarial examples in the physical world" (2017), section
    2.2. The defaults are theirs: eps is 16 grey levels, and the attack makes min(eps + 4, 1.25 eps)
    steps of one level. SPT, section III-B: Clip_{x, eps}{x + step_size * sign(grad_x J(x, y))}. SPT
    calls eps xi, and the step size epsilon.

    Args: as for `pgd`.

    Raises:
      ValueError: options out of range; bounds other than (0, 1) without eps and step_size.
    """
    eps, step_size = in_pixels(
        check_bounds(bounds), eps=(eps, 16 / 255), step_size=(step_size, 1 / 255)
    )
    return pgd(
        eps=eps, step_size=step_size, num_steps=num_steps, random_start=False,
        early_stop=early_stop, loss=loss, targeted=targeted, bounds=bounds,
    )  # fmt: skip


def mifgsm(
    *,
    eps: float | jax.Array | None = None,
    step_size: float | jax.Array | None = None,
    num_steps: int = 10,
    decay: float | jax.Array = 1.0,
    early_stop: bool = False,
    loss: Loss = cross_entropy,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """The momentum iterative FGSM (Dong et al., "Boosting Adversarial Attacks with Momentum",
    2018, algorithm 1; SPT, section III-B): g <- decay * g + grad J / ||grad J||_1, and
    x <- Clip_{x, eps}{x + step_size * sign(g)}. The norm is computed for each example.

    Args: as for `pgd`, and
      eps: default 16 / 255, for pixels in [0, 1]. Traced.
      step_size: None means eps / num_steps, as in the paper. Traced.
      decay: mu, the share of the accumulated gradient that is kept. Traced.

    Raises:
      ValueError: options out of range; bounds other than (0, 1) without eps.
    """
    bounds = check_bounds(bounds)
    (eps,) = in_pixels(bounds, eps=(eps, 16 / 255))
    check_positive(eps=eps, or_zero=True)
    check_counts(num_steps=num_steps)
    check_positive(decay=decay, or_zero=True)
    step_size = eps / num_steps if step_size is None else step_size
    check_positive(step_size=step_size, or_zero=True)
    return PGD(
        eps, step_size, decay, "linf", num_steps, False, 1, early_stop,
        as_partial(loss, "loss"), targeted, bounds,
    )  # fmt: skip
