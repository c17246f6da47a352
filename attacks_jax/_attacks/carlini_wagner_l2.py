"""The l2 attack of Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks"
(2017), section VI.A."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from attacks_jax._attacks.carlini_wagner import (
    Best,
    Bisection,
    Rounds,
    advance,
    bisect,
    first_round,
    nearest,
    only_clean,
    start_bisection,
    to_images,
    to_tanh_space,
)
from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import PIXELS, Norm, freeze, select, width
from attacks_jax._checks import check_bounds, check_counts, check_positive
from attacks_jax._gradients import finite
from attacks_jax._losses import goal_margin
from attacks_jax._success import finish, wins


class CarliniWagnerState(NamedTuple):
    """Each example has its own progress in its own search. The batch shares nothing."""

    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    w: jax.Array  # (B, H, W, C): the image in tanh space
    adam: Any  # optax state, each leaf (B, ...)
    search: Bisection  # over c, one value per round
    rounds: Rounds
    best: Best  # by squared l2
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CarliniWagnerL2(OneStage):
    confidence: float | jax.Array
    step_size: float | jax.Array
    initial_const: float | jax.Array
    steps_per_round: int = field(metadata={"static": True})
    binary_search_steps: int = field(metadata={"static": True})
    abort_early: bool = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "l2"

    @property
    def num_steps(self) -> int:
        return self.binary_search_steps * self.steps_per_round

    def init(self, oracle, oracle_state, key, images, labels) -> CarliniWagnerState:
        del key
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        margin = goal_margin(logits, labels, targeted=self.targeted)
        already = wins(margin, self.confidence)
        w = to_tanh_space(images, self.bounds)
        return CarliniWagnerState(
            clean=images,
            labels=labels,
            w=w,
            adam=jax.vmap(self._adam().init)(w),
            search=start_bisection(self.initial_const, batch),
            rounds=first_round(batch),
            best=only_clean(images, margin, already),
            done=already,
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: CarliniWagnerState) -> CarliniWagnerState:
        """Makes one Adam step for every example. Where a round ends, sets the next c."""

        def total_loss(w):
            images = to_images(w, self.bounds)
            oracle_state, logits = oracle(state.oracle_state, images)
            margin = goal_margin(logits, state.labels, targeted=self.targeted)
            change = (images - state.clean) / width(self.bounds)
            distance = jnp.sum(change**2, axis=PIXELS)
            loss = distance + state.search.const * jnp.maximum(self.confidence - margin, 0.0)
            return loss.sum(), (oracle_state, images, margin, distance, loss)

        gradient, aux = jax.grad(total_loss, has_aux=True)(state.w)
        oracle_state, images, margin, distance, loss = aux
        won = wins(margin, self.confidence)
        updates, adam = jax.vmap(self._adam().update)(finite(gradient), state.adam)
        rounds, ends = advance(
            state.rounds,
            loss,
            steps=self.steps_per_round,
            abort_early=self.abort_early,
            solved=False,
        )

        # Every round starts at the clean image.
        fresh = to_tanh_space(state.clean, self.bounds)
        moved = state._replace(
            w=select(ends, fresh, state.w + updates),
            adam=select(ends, jax.vmap(self._adam().init)(fresh), adam),
            search=bisect(state.search, won, ends),
            rounds=rounds,
            best=nearest(state.best, images, distance, margin, won),
            done=rounds.behind >= self.binary_search_steps,
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: CarliniWagnerState) -> Result:
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


def carlini_wagner_l2(
    *,
    confidence: float | jax.Array = 0.0,
    num_steps: int = 10_000,
    step_size: float | jax.Array = 0.01,
    binary_search_steps: int = 9,
    initial_const: float | jax.Array = 1e-3,
    abort_early: bool = True,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Minimises the l2 distance of an image misclassified by `confidence` logits.

    Carlini and Wagner, VI.A. Minimises ||x' - x||^2 + c max(confidence - margin(f(x')), 0) with
    Adam in tanh space, and searches for the smallest c, separately for each example. Distances are
    l2 norms. An image that already has the confidence is returned unchanged. If no round succeeds,
    the image with the largest margin is returned with `success` false.

    Unlike in the authors' code, a stalled round ends by each example's own loss, not by the sum
    over the batch. So no result depends on the rest of the batch.

    Args:
      confidence: kappa, in logits; CMAG uses 9, 19 and 29. Traced.
      num_steps: steps of Adam in each round of the search over c.
      step_size: Adam's learning rate, in tanh space. Traced.
      binary_search_steps: rounds of the search over c.
      initial_const: the first c. Traced.
      abort_early: end an example's round when its loss stalls.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative confidence, another option that is not above zero, invalid bounds.
    """
    check_positive(confidence=confidence, or_zero=True)
    check_positive(step_size=step_size, initial_const=initial_const)
    check_counts(num_steps=num_steps, binary_search_steps=binary_search_steps)
    return CarliniWagnerL2(
        confidence,
        step_size,
        initial_const,
        num_steps,
        binary_search_steps,
        abort_early,
        targeted,
        check_bounds(bounds),
    )
