"""EAD of Chen, Sharma, Zhang, Yi and Hsieh, "EAD: Elastic-Net Attacks to Deep Neural Networks via
Adversarial Examples" (2018), algorithm 1."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

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
)
from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import PIXELS, Norm, expand, freeze, norm, select, width
from attacks_jax._checks import check_bounds, check_choice, check_counts, check_positive
from attacks_jax._gradients import input_gradient
from attacks_jax._losses import goal_margin
from attacks_jax._success import finish, wins


class EADState(NamedTuple):
    """Each example has its own progress in its own search."""

    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    images: Images  # (B, H, W, C): with a sparse change; candidates for the result
    ahead: Images  # (B, H, W, C): extrapolated, for the gradients
    search: Bisection  # over c, one value per round
    rounds: Rounds
    best: Best  # by the decision rule
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EAD(OneStage):
    confidence: float | jax.Array
    step_size: float | jax.Array
    initial_const: float | jax.Array
    beta: float | jax.Array
    decision_rule: Literal["EN", "L1"] = field(metadata={"static": True})
    steps_per_round: int = field(metadata={"static": True})
    binary_search_steps: int = field(metadata={"static": True})
    abort_early: bool = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "l1"

    @property
    def num_steps(self) -> int:
        return self.binary_search_steps * self.steps_per_round

    def init(self, oracle, oracle_state, key, images, labels) -> EADState:
        del key
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        margin = goal_margin(logits, labels, targeted=self.targeted)
        already = wins(margin, self.confidence)
        return EADState(
            clean=images,
            labels=labels,
            images=images,
            ahead=images,
            search=start_bisection(self.initial_const, batch),
            rounds=first_round(batch),
            best=only_clean(images, margin, already),
            done=already,
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: EADState) -> EADState:
        """Makes one FISTA step for every example. Where a round ends, sets the next c."""

        def margin_and_hinge(logits):
            margin = goal_margin(logits, state.labels, targeted=self.targeted)
            return margin, state.search.const * jnp.maximum(self.confidence - margin, 0.0)

        def smooth_loss(logits, images):
            change = (images - state.clean) / width(self.bounds)
            return margin_and_hinge(logits)[1] + jnp.sum(change**2, axis=PIXELS)

        asked = input_gradient(oracle, state.oracle_state, state.ahead, smooth_loss)
        k = expand(state.rounds.iteration.astype(jnp.float32), state.clean)
        step_size = self.step_size * jnp.sqrt(1.0 - k / self.steps_per_round)
        stride = (
            step_size * width(self.bounds) ** 2
        )  # one factor for the gradient, one for the step
        images = self._shrink(state.ahead - stride * asked.gradient, state.clean)
        ahead = jnp.clip(images + k / (k + 3.0) * (images - state.images), *self.bounds)

        # The gradient was taken at another image: query the sparse one too.
        oracle_state, logits = oracle(asked.oracle_state, images)
        margin, hinge = margin_and_hinge(logits)
        won = wins(margin, self.confidence)
        change = (images - state.clean) / width(self.bounds)
        l1 = norm(change, "l1")
        elastic = jnp.sum(change**2, axis=PIXELS) + self.beta * l1
        rounds, ends = advance(
            state.rounds,
            hinge + elastic,
            steps=self.steps_per_round,
            abort_early=self.abort_early,
            solved=False,
        )

        moved = state._replace(
            images=select(ends, state.clean, images),
            ahead=select(ends, state.clean, ahead),
            search=bisect(state.search, won, ends),
            rounds=rounds,
            best=nearest(
                state.best, images, elastic if self.decision_rule == "EN" else l1, margin, won
            ),
            done=rounds.behind >= self.binary_search_steps,
            queries=state.queries + 2,
            oracle_state=oracle_state,
        )
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: EADState) -> Result:
        return finish(
            oracle,
            state,
            state.best.images,
            distance=self.norm,
            targeted=self.targeted,
            confidence=self.confidence,
        )

    def _shrink(self, images, clean):
        """Shrinks every change by beta, and sets smaller changes to zero."""
        change, beta = images - clean, self.beta * width(self.bounds)
        shrunk = jnp.sign(change) * (jnp.abs(change) - beta)
        return jnp.where(jnp.abs(change) > beta, jnp.clip(clean + shrunk, *self.bounds), clean)


def ead(
    *,
    confidence: float | jax.Array = 0.0,
    num_steps: int = 10_000,
    step_size: float | jax.Array = 0.01,
    binary_search_steps: int = 9,
    initial_const: float | jax.Array = 1e-3,
    beta: float | jax.Array = 1e-3,
    decision_rule: Literal["EN", "L1"] = "EN",
    abort_early: bool = True,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """The elastic-net attack: minimises l1 and l2 distance at `confidence` logits.

    Minimises c max(confidence - margin(f(x')), 0) + ||x' - x||_2^2 + beta ||x' - x||_1 with
    iterative shrinkage and thresholding (FISTA; algorithm 1 of the paper). The step size decays to
    zero like a square root. The attack searches for the smallest c, separately for each example.
    It returns the misclassified image that is nearest by the decision rule. Distances are l1 norms.
    A step takes two queries: one for the gradient at the extrapolated image, and one for the sparse
    image. An image that already has the confidence is returned unchanged. If no round succeeds,
    the image with the largest margin is returned with `success` false.

    As in the paper, the shrinkage threshold is beta for every step size. Differences from the
    authors' code:
    - The extrapolated image is clipped to the bounds, because an oracle gets no other images.
    - A stalled round ends by each example's own loss, not by the sum over the batch.
    - The last of ten or more rounds does not repeat the smallest c that succeeded.

    Args:
      confidence: kappa, in logits. Traced.
      num_steps: steps of FISTA in each round of the search over c.
      step_size: the first step size of a round, for pixels in [0, 1]. Traced.
      binary_search_steps: rounds of the search over c.
      initial_const: the first c. Traced.
      beta: the weight of the l1 norm, for pixels in [0, 1]; zero for l2 only. Traced.
      decision_rule: "EN" for the smallest elastic-net distance, "L1" for the smallest l1 norm.
      abort_early: end an example's round when its loss stalls.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative confidence or beta, another option that is not above zero, a
        unknown decision rule, invalid bounds.
    """
    check_positive(confidence=confidence, beta=beta, or_zero=True)
    check_positive(step_size=step_size, initial_const=initial_const)
    check_counts(num_steps=num_steps, binary_search_steps=binary_search_steps)
    check_choice(decision_rule=(decision_rule, ("EN", "L1")))
    return EAD(
        confidence,
        step_size,
        initial_const,
        beta,
        decision_rule,
        num_steps,
        binary_search_steps,
        abort_early,
        targeted,
        check_bounds(bounds),
    )
