"""The linf attack of Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks"
(2017), section VI.C."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

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
from attacks_jax._gradients import finite
from attacks_jax._losses import goal_margin
from attacks_jax._success import finish, wins

# A round is solved when the loss is below this share of c, as in the authors' code.
SOLVED = 1e-4


class CarliniWagnerLinfState(NamedTuple):
    """Each example has its own tau and its own progress."""

    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    w: jax.Array  # (B, H, W, C): the image in tanh space
    adam: Any  # optax state, each leaf (B, ...)
    tau: jax.Array  # (B,) the largest change of a pixel without a penalty
    const: jax.Array  # (B,) c, the weight of the classification term
    rounds: Rounds  # one tau and one c per round
    best: Best  # by linf
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CarliniWagnerLinf(OneStage):
    confidence: float | jax.Array
    step_size: float | jax.Array
    initial_const: float | jax.Array
    largest_const: float | jax.Array
    const_factor: float | jax.Array
    decrease_factor: float | jax.Array
    smallest_tau: float | jax.Array
    steps_per_round: int = field(metadata={"static": True})
    max_rounds: int = field(metadata={"static": True})
    abort_early: bool = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "linf"

    @property
    def num_steps(self) -> int:
        return self.max_rounds * self.steps_per_round

    def init(self, oracle, oracle_state, key, images, labels) -> CarliniWagnerLinfState:
        del key
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        margin = goal_margin(logits, labels, targeted=self.targeted)
        already = wins(margin, self.confidence)
        w = to_tanh_space(images, self.bounds)
        return CarliniWagnerLinfState(
            clean=images,
            labels=labels,
            w=w,
            adam=jax.vmap(self._adam().init)(w),
            tau=jnp.ones(batch, jnp.float32),
            const=jnp.full(batch, self.initial_const, jnp.float32),
            rounds=first_round(batch),
            best=only_clean(images, margin, already),
            done=already,
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: CarliniWagnerLinfState) -> CarliniWagnerLinfState:
        """Makes one Adam step for every example. A round ends with a smaller tau or a larger c."""

        def total_loss(w):
            images = to_images(w, self.bounds)
            oracle_state, logits = oracle(state.oracle_state, images)
            margin = goal_margin(logits, state.labels, targeted=self.targeted)
            moved = jnp.abs(images - state.clean) / width(self.bounds)
            excess = jnp.sum(jnp.maximum(moved - expand(state.tau, moved), 0.0), axis=PIXELS)
            loss = excess + state.const * jnp.maximum(self.confidence - margin, 0.0)
            return loss.sum(), (oracle_state, images, margin, loss)

        gradient, aux = jax.grad(total_loss, has_aux=True)(state.w)
        oracle_state, images, margin, loss = aux
        distance = norm(images - state.clean, "linf") / width(self.bounds)
        won = wins(margin, self.confidence)
        solved = won & (loss < SOLVED * state.const)
        rounds, ends = advance(
            state.rounds,
            loss,
            steps=self.steps_per_round,
            abort_early=self.abort_early,
            solved=solved,
        )

        # A round starts at the last image of the round before. Adam restarts with a new tau.
        updates, adam = jax.vmap(self._adam().update)(finite(gradient), state.adam)
        w = state.w + updates
        smaller = self.decrease_factor * jnp.minimum(state.tau, distance)
        tau = jnp.where(solved, smaller, state.tau)
        const = jnp.where(ends & ~solved, state.const * self.const_factor, state.const)
        moved = state._replace(
            w=select(solved, state.w, w),
            adam=select(solved, jax.vmap(self._adam().init)(w), adam),
            tau=tau,
            const=const,
            rounds=rounds,
            best=nearest(state.best, images, distance, margin, won),
            done=(tau <= self.smallest_tau)
            | (const >= self.largest_const)
            | (rounds.behind >= self.max_rounds),
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: CarliniWagnerLinfState) -> Result:
        return finish(
            oracle,
            state,
            state.best.images,
            distance=self.norm,
            targeted=self.targeted,
            confidence=self.confidence,
        )

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.step_size)


def carlini_wagner_linf(
    *,
    confidence: float | jax.Array = 0.0,
    num_steps: int = 1000,
    step_size: float | jax.Array = 5e-3,
    initial_const: float | jax.Array = 1e-5,
    largest_const: float | jax.Array = 20.0,
    const_factor: float | jax.Array = 2.0,
    decrease_factor: float | jax.Array = 0.9,
    smallest_tau: float | jax.Array = 1 / 256,
    max_rounds: int = 100,
    abort_early: bool = True,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Minimises the linf distance at `confidence` logits: Carlini and Wagner, VI.C.

    Minimises sum_i max(|x'_i - x_i| - tau, 0) + c max(confidence - margin(f(x')), 0) with Adam
    in tanh space. So the loss pulls back every pixel beyond tau, not only the farthest. A round is
    solved as soon as the image is misclassified and no pixel is beyond tau. Then the next tau is
    `decrease_factor` times the smaller of tau and the largest change. After a failed round, c is
    multiplied by `const_factor`. Every round starts where the last one ended. An example is done
    when c reaches `largest_const` or tau reaches `smallest_tau`. Distances are linf norms. An
    image that already has the confidence is returned unchanged. If nothing succeeds, the image
    with the largest margin is returned with `success` false.

    Differences from the authors' code:
    - The result is the nearest success of all steps, not that of the last solved round.
    - With `abort_early`, a round also ends when its loss stalls.
    - The authors' code has `confidence` for l2 only.

    Args:
      confidence: kappa, in logits. Traced.
      num_steps: the largest number of Adam steps per round.
      step_size: Adam's learning rate, in tanh space. Traced.
      initial_const: the first c. Traced.
      largest_const: the c at which the attack on an example stops. Traced.
      const_factor: the factor for c after a failed round, above 1. Traced.
      decrease_factor: the factor for tau after a solved round, below 1. Traced.
      smallest_tau: the tau at which an example is done, as a share of the pixel range. Traced.
      max_rounds: the largest number of rounds. The defaults of c and tau need at most 74.
      abort_early: end an example's round when its loss stalls.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative confidence, another option that is not above zero, a `const_factor`
        of 1 or below, a `decrease_factor` of 1 or above, invalid bounds.
    """
    check_positive(confidence=confidence, or_zero=True)
    check_positive(step_size=step_size, initial_const=initial_const, largest_const=largest_const)
    check_positive(smallest_tau=smallest_tau)
    check_counts(num_steps=num_steps, max_rounds=max_rounds)
    check_positive(const_factor=const_factor, decrease_factor=decrease_factor)
    if isinstance(const_factor, int | float) and const_factor <= 1:
        raise ValueError(f"expected const_factor to be above 1, got {const_factor}")
    if isinstance(decrease_factor, int | float) and decrease_factor >= 1:
        raise ValueError(f"expected decrease_factor to be below 1, got {decrease_factor}")
    return CarliniWagnerLinf(
        confidence,
        step_size,
        initial_const,
        largest_const,
        const_factor,
        decrease_factor,
        smallest_tau,
        num_steps,
        max_rounds,
        abort_early,
        targeted,
        check_bounds(bounds),
    )
