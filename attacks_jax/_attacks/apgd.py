"""APGD, projected gradient descent with an automatic step size, and its targeted form APGD-T
(Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", 2020)."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import (
    example_keys,
    expand,
    fold,
    freeze,
    project,
    random_start,
    select,
    steepest,
)
from attacks_jax._checks import check_bounds, check_choice, check_counts, check_positive, in_pixels
from attacks_jax._gradients import input_gradient
from attacks_jax._losses import Loss, cross_entropy, goal_margin, targeted_dlr
from attacks_jax._pinned import as_partial
from attacks_jax._success import finish, wins

INERTIA = 0.75  # alpha of algorithm 1: the gradient's share of a step; the rest is momentum
ENOUGH = 0.75  # rho: the share of a window's steps that must raise the loss


class APGDState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    ranked: jax.Array  # (B, K) int32: other classes, the likeliest first
    images: Images  # (B, H, W, C): the next query
    previous: Images  # (B, H, W, C): the iterate before
    step_size: jax.Array  # (B,)
    last_loss: jax.Array  # (B,)
    best_loss: jax.Array  # (B,) in this round
    best_images: Images  # (B, H, W, C): a halved step restarts from them and their gradient
    best_gradient: jax.Array  # (B, H, W, C)
    rises: jax.Array  # (B,) int32: steps in this window that raised the loss
    loss_at_check: jax.Array  # (B,) the best loss at the last checkpoint
    halved_at_check: jax.Array  # (B,) bool
    iteration: jax.Array  # (B,) int32: queries in this round
    round: jax.Array  # (B,) int32: finished rounds; one per restart and target
    keys: jax.Array  # (B,)
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class APGD(OneStage):
    eps: float | jax.Array
    norm: Literal["linf", "l2"] = field(metadata={"static": True})
    steps: int = field(metadata={"static": True})
    restarts: int = field(metadata={"static": True})
    num_targets: int = field(metadata={"static": True})
    loss: Loss
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    @property
    def num_steps(self) -> int:
        return self.restarts * max(self.num_targets, 1) * (self.steps + 1)

    def _rounds_among(self, classes: int) -> int:
        return self.restarts * min(max(self.num_targets, 1), max(classes - 1, 1))

    def init(self, oracle, oracle_state, key, images, labels) -> APGDState:
        batch = images.shape[0]
        keys = example_keys(key, images)
        oracle_state, logits = oracle(oracle_state, images)
        already = wins(goal_margin(logits, labels, targeted=self.targeted))
        is_label = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
        ranked = jnp.argsort(jnp.where(is_label, -jnp.inf, logits), axis=1, descending=True)
        zeros, nothing = jnp.zeros(batch, jnp.int32), jnp.zeros(batch, bool)
        worst = jnp.full(batch, -jnp.inf, jnp.float32)
        start = select(already, images, self._start(keys, 0, images))
        return APGDState(
            clean=images,
            labels=labels,
            ranked=ranked.astype(jnp.int32),
            images=start,
            previous=start,
            step_size=self._first_step_size(batch),
            last_loss=worst,
            best_loss=worst,
            best_images=start,
            best_gradient=jnp.zeros_like(images),
            rises=zeros,
            loss_at_check=worst,
            halved_at_check=nothing,
            iteration=zeros,
            round=zeros,
            keys=keys,
            done=already,
            queries=zeros + 1,
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: APGDState) -> APGDState:
        """Queries the images, and steps from them unless the round ends: algorithm 1."""
        rank = state.round // self.restarts
        target = jnp.take_along_axis(state.ranked, rank[:, None], axis=1)[:, 0]

        def rising(logits, images):  # the value that the attack raises
            if self.num_targets:
                return targeted_dlr(logits, state.labels, target)
            loss = self.loss(logits, state.labels, images)
            return -loss if self.targeted else loss

        gradient, loss, logits, oracle_state = input_gradient(
            oracle, state.oracle_state, state.images, rising
        )
        won = wins(goal_margin(logits, state.labels, targeted=self.targeted))
        first = state.iteration == 0
        better = loss > state.best_loss
        best_loss = jnp.where(better, loss, state.best_loss)
        best_images = select(better, state.images, state.best_images)
        best_gradient = select(better | first, gradient, state.best_gradient)
        rises = state.rises + ((loss > state.last_loss) & ~first)

        windows = jnp.asarray(checkpoints(self.steps))[state.iteration]
        checks = windows > 0
        stuck = ~state.halved_at_check & (state.loss_at_check >= best_loss)
        halves = checks & ((rises <= windows * ENOUGH) | stuck)
        step_size = jnp.where(halves, state.step_size / 2.0, state.step_size)
        here = select(halves, best_images, state.images)
        uphill = select(halves, best_gradient, gradient)
        there = self._move(here, state.previous, uphill, step_size, state)

        iteration, round_ = state.iteration + 1, state.round
        moved = state._replace(
            images=select(won, state.images, there),
            previous=here,
            step_size=step_size,
            last_loss=loss,
            best_loss=best_loss,
            best_images=best_images,
            best_gradient=best_gradient,
            rises=jnp.where(checks, 0, rises),
            loss_at_check=jnp.where(checks | first, best_loss, state.loss_at_check),
            halved_at_check=jnp.where(checks, halves, state.halved_at_check),
            iteration=iteration,
            done=won,
            queries=state.queries + 1,
            oracle_state=(),  # `select` below needs leaves (B, ...)
        )
        ends = (iteration > self.steps) & ~won
        round_ = round_ + ends
        over = round_ >= self._rounds_among(state.ranked.shape[1])
        moved = select(ends, self._next_round(moved, round_, over), moved)
        return freeze(state, moved._replace(oracle_state=oracle_state))

    def result(self, oracle: Oracle, state: APGDState) -> Result:
        return finish(oracle, state, state.images, distance=self.norm, targeted=self.targeted)

    def _move(self, here, previous, gradient, step_size, state):
        def into_the_ball(images):
            return project(images, state.clean, self.eps, self.norm, self.bounds)

        stride = expand(step_size, here) * steepest(gradient, self.norm)
        ahead = into_the_ball(here + stride)
        inertia = expand(jnp.where(state.iteration == 0, 1.0, INERTIA), here)
        return into_the_ball(here + inertia * (ahead - here) + (1 - inertia) * (here - previous))

    def _next_round(self, state: APGDState, round_, over) -> APGDState:
        """Starts a new round at a new random point; after the last round, sets the best image."""
        fresh = select(over, state.best_images, self._start(state.keys, round_, state.clean))
        worst = jnp.full_like(state.last_loss, -jnp.inf)
        return state._replace(
            images=fresh,
            previous=fresh,
            step_size=self._first_step_size(len(worst)),
            last_loss=worst,
            best_loss=worst,
            rises=jnp.zeros_like(state.rises),
            loss_at_check=worst,
            halved_at_check=jnp.zeros_like(state.halved_at_check),
            iteration=jnp.zeros_like(state.iteration),
            round=round_,
            done=over,
        )

    def _first_step_size(self, batch):
        return jnp.full(batch, 2.0 * self.eps, jnp.float32)

    def _start(self, keys, round_, clean):
        return random_start(fold(keys, round_), clean, self.eps, self.norm, self.bounds)


def checkpoints(steps: int) -> np.ndarray:
    """Returns (steps + 1,): the length of the window that ends at each iteration, or 0.

    Section 3.1: the first window has 22% of the steps. Each next one is shorter by 3% of the
    steps, down to 6%.
    """
    window, least, less = (max(int(share * steps), 1) for share in (0.22, 0.06, 0.03))
    closes = np.zeros(steps + 1, np.int32)
    at = window
    while at <= steps:
        closes[at] = window
        window = max(window - less, least)
        at += window
    return closes


def apgd(
    *,
    eps: float | jax.Array | None = None,
    norm: Literal["linf", "l2"] = "linf",
    num_steps: int = 100,
    restarts: int = 1,
    num_targets: int = 0,
    loss: Loss = cross_entropy,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Auto-PGD: PGD with momentum and an automatic step size (algorithm 1 of the paper, section 3).

    The step size starts at 2 eps. When an example's loss stalls, the step size is halved and the
    attack continues from the best image. Random starts are uniform in the ball; the authors' code
    scales them to its surface.

    `loss=cross_entropy` gives APGD-CE, `loss=dlr` APGD-DLR, and `num_targets=9` APGD-T. APGD-T
    makes one round towards each of the nine likeliest other classes, with the targeted DLR loss
    (eq. 7), until one succeeds. Distances are in `norm`. An example stops at its first success.

    Args:
      eps: radius of the ball, in pixel units; default 0.3, for pixels in [0, 1]. Traced.
      norm: "linf" or "l2".
      num_steps: steps per round.
      restarts: rounds, each from a new random start. APGD-T makes this many for each target.
      num_targets: 0 to attack `loss`, or the number of target classes to try in turn.
      loss: untargeted attacks raise it; targeted attacks lower it. Ignored by APGD-T.
      targeted: whether the labels given to `run` are targets. APGD-T takes true classes.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: options out of range; `targeted` together with `num_targets`; other bounds
        than (0, 1) without eps.
    """
    bounds = check_bounds(bounds)
    (eps,) = in_pixels(bounds, eps=(eps, 0.3))
    check_positive(eps=eps, or_zero=True)
    check_counts(num_targets=num_targets, or_zero=True)
    check_counts(num_steps=num_steps, restarts=restarts)
    check_choice(norm=(norm, ("linf", "l2")))
    if targeted and num_targets:
        raise ValueError("expected true labels with num_targets: it chooses its targets itself")
    return APGD(
        eps, norm, num_steps, restarts, num_targets, as_partial(loss, "loss"), targeted, bounds,
    )  # fmt: skip
