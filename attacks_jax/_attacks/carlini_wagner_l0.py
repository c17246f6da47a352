"""The l0 attack of Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks"
(2017), section VI.B."""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from attacks_jax._attacks.carlini_wagner import (
    Best,
    Rounds,
    advance,
    first_round,
    nearest,
    only_clean,
    to_images,
    to_tanh_space,
)
from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import PIXELS, Norm, expand, freeze, norm, select, width
from attacks_jax._checks import check_bounds, check_counts, check_positive
from attacks_jax._gradients import input_gradient
from attacks_jax._losses import goal_margin
from attacks_jax._success import finish, wins

# Of n changed pixels, at most this times sqrt(n) are fixed at once, as in the authors' code.
AT_ONCE = 0.3
# Pixels with at most this share of the total contribution, and one more, may be fixed at once.
MATTERS = 0.01
# A pixel with a smaller change, as a share of the pixel range, counts as unchanged.
SAME = 1e-6


class CarliniWagnerL0State(NamedTuple):
    """Each example has its own progress in eliminating pixels."""

    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    w: jax.Array  # (B, H, W, C): the image in tanh space
    adam: Any  # optax state, each leaf (B, ...)
    allowed: jax.Array  # (B, H, W, 1) bool: the pixels that may still change
    const: jax.Array  # (B,) c, the weight of the classification term
    rounds: Rounds  # each of one c and one set of allowed pixels
    best: Best  # by l0
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CarliniWagnerL0(OneStage):
    confidence: float | jax.Array
    step_size: float | jax.Array
    initial_const: float | jax.Array
    largest_const: float | jax.Array
    const_factor: float | jax.Array
    steps_per_round: int = field(metadata={"static": True})
    max_rounds: int = field(metadata={"static": True})
    abort_early: bool = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "l0"

    @property
    def num_steps(self) -> int:
        return self.max_rounds * self.steps_per_round

    def init(self, oracle, oracle_state, key, images, labels) -> CarliniWagnerL0State:
        del key
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        margin = goal_margin(logits, labels, targeted=self.targeted)
        already = wins(margin, self.confidence)
        w = to_tanh_space(images, self.bounds)
        return CarliniWagnerL0State(
            clean=images,
            labels=labels,
            w=w,
            adam=jax.vmap(self._adam().init)(w),
            allowed=jnp.ones((*images.shape[:3], 1), bool),
            const=jnp.full(batch, self.initial_const, jnp.float32),
            rounds=first_round(batch),
            best=only_clean(images, margin, already),
            done=already,
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: CarliniWagnerL0State) -> CarliniWagnerL0State:
        """Makes one Adam step for every example. A round ends with fewer pixels or a larger c."""
        images, to_w = jax.vjp(partial(_changed, state, self.bounds), state.w)
        delta = images - state.clean
        unit = delta / width(self.bounds)
        asked = input_gradient(
            oracle,
            state.oracle_state,
            images,
            lambda logits, _: goal_margin(logits, state.labels, targeted=self.targeted),
        )
        margin = asked.values
        won = wins(margin, self.confidence)
        loss = jnp.sum(unit**2, axis=PIXELS)
        loss = loss + state.const * jnp.maximum(self.confidence - margin, 0.0)
        rounds, ends = advance(
            state.rounds,
            loss,
            steps=self.steps_per_round,
            abort_early=self.abort_early,
            solved=won,
        )

        # A step on the l2 problem. When it is solved, Adam restarts with fewer pixels.
        (gradient,) = to_w(
            2.0 * unit / width(self.bounds) - expand(state.const, delta) * asked.gradient
        )
        updates, adam = jax.vmap(self._adam().update)(gradient, state.adam)
        allowed = select(won, _without_least(state.allowed, delta, asked.gradient), state.allowed)
        const = jnp.where(ends & ~won, state.const * self.const_factor, state.const)
        moved = state._replace(
            w=select(won, state.w, state.w + updates),
            adam=select(won, jax.vmap(self._adam().init)(state.w), adam),
            allowed=allowed,
            const=const,
            rounds=rounds,
            best=nearest(state.best, images, norm(delta, "l0"), margin, won),
            done=~allowed.any(axis=PIXELS)
            | (const >= self.largest_const)
            | (rounds.behind >= self.max_rounds),
            queries=state.queries + 1,
            oracle_state=asked.oracle_state,
        )
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: CarliniWagnerL0State) -> Result:
        # The tanh mapping returns a pixel at a bound as a value slightly inside.
        clean, best = state.clean, state.best.images
        same = jnp.all(jnp.abs(best - clean) <= SAME * width(self.bounds), axis=-1, keepdims=True)
        return finish(
            oracle,
            state,
            jnp.where(same, clean, best),
            distance=self.norm,
            targeted=self.targeted,
            confidence=self.confidence,
        )

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.step_size)


def _changed(state, bounds, w):
    """Returns the images; pixels that may not change have exactly the clean value."""
    return jnp.where(state.allowed, to_images(w, bounds), state.clean)


def _without_least(allowed, delta, gradient):
    """Returns the pixels (B, H, W, 1) that may still change, without the least important ones.

    To first order, a pixel contributes gradient times change to the attacker's margin. At least
    one pixel is fixed, and more if their contributions are negligible.
    """
    matters = jnp.sum(jnp.abs(gradient), axis=-1) * jnp.sum(jnp.abs(delta), axis=-1)
    matters = matters.reshape(matters.shape[0], -1)  # (B, H W)
    candidates = allowed.reshape(matters.shape)
    share = matters / jnp.maximum(jnp.sum(matters, axis=1, keepdims=True), 1e-30)
    negligible = jnp.sum(candidates & (share <= MATTERS), axis=1)
    at_once = jnp.ceil(AT_ONCE * jnp.sqrt(norm(delta, "l0"))).astype(jnp.int32)
    count = jnp.maximum(jnp.minimum(negligible + 1, at_once), 1)

    most = math.ceil(AT_ONCE * math.sqrt(matters.shape[1]))
    _, least = lax.top_k(-jnp.where(candidates, matters, jnp.inf), most)
    forbidden = jnp.arange(most) < count[:, None]
    rows = jnp.arange(len(matters))[:, None]
    return candidates.at[rows, least].min(~forbidden).reshape(allowed.shape)


def carlini_wagner_l0(
    *,
    confidence: float | jax.Array = 0.0,
    num_steps: int = 1000,
    step_size: float | jax.Array = 0.01,
    initial_const: float | jax.Array = 1e-3,
    largest_const: float | jax.Array = 2e6,
    const_factor: float | jax.Array = 2.0,
    max_rounds: int = 1000,
    abort_early: bool = True,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Minimises the number of changed pixels at `confidence` logits: Carlini and Wagner, VI.B.

    Minimises ||x' - x||^2 + c max(confidence - margin(f(x')), 0) with Adam in tanh space until
    the image is misclassified. Then it fixes the least important pixels, by |gradient| times
    |change|, and continues with the remaining ones. After a failed round, c is multiplied by
    `const_factor`. An example is done when c reaches `largest_const`: the remaining pixels are too
    few for success. Distances are l0: the number of positions with a changed channel. All other
    pixels equal the clean image exactly. An image that already has the confidence is returned
    unchanged. If nothing succeeds, the image with the largest margin is returned with `success`
    false.

    As in the authors' code, at most 0.3 sqrt(n) of n changed pixels are fixed at once, and none
    after an important one. Differences from that code:
    - The importance uses the margin's gradient by the pixels, not the whole loss's in tanh space.
    - A pixel is important above 0.01 of the sum over all pixels. There the threshold is 0.01 at any
      scale of the logits.
    - The changes of a pixel's channels do not cancel.
    - With `abort_early`, a round also ends when its loss stalls.
    - The authors' code has `confidence` for l2 only.

    Args:
      confidence: kappa, in logits. Traced.
      num_steps: the largest number of Adam steps per round. A round has one c and one pixel set.
      step_size: Adam's learning rate, in tanh space. Traced.
      initial_const: the first c. Traced.
      largest_const: the c at which the elimination of pixels stops. Traced.
      const_factor: the factor for c after a failed round, above 1. Traced.
      max_rounds: the largest number of rounds. Eliminating N pixels takes at least 7 sqrt(N).
      abort_early: end an example's round when its loss stalls.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative confidence, another option that is not above zero, a `const_factor`
        of 1 or below, invalid bounds.
    """
    check_positive(confidence=confidence, or_zero=True)
    check_positive(step_size=step_size, initial_const=initial_const, largest_const=largest_const)
    check_positive(const_factor=const_factor)
    check_counts(num_steps=num_steps, max_rounds=max_rounds)
    if isinstance(const_factor, int | float) and const_factor <= 1:
        raise ValueError(f"expected const_factor to be above 1, got {const_factor}")
    return CarliniWagnerL0(
        confidence,
        step_size,
        initial_const,
        largest_const,
        const_factor,
        num_steps,
        max_rounds,
        abort_early,
        targeted,
        check_bounds(bounds),
    )
