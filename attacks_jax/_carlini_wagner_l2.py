"""The l2 attack of Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks"
(2017), section VI.A."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from attacks_jax._attack import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._checks import check_bounds, check_positive
from attacks_jax._examples import freeze, select
from attacks_jax._gradients import finite
from attacks_jax._losses import goal_margin
from attacks_jax._outcome import finish, wins

# Pixels are drawn this far into the open interval before arctanh, as in the authors' code.
INSIDE = 0.999999
# A round of the search is given up when a tenth of it lowered the loss by less than this share.
WORTHWHILE = 0.9999
# The c that rules a search without an upper bound multiplies by, as in the authors' code.
GROWTH = 10.0


class CarliniWagnerState(NamedTuple):
    """Every example has its own place in its own search: nothing is shared in the batch."""

    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    w: jax.Array  # (B, H, W, C): the image in tanh space
    adam: Any  # optax state, each leaf (B, ...)
    const: jax.Array  # (B,) c, the weight of the classification term
    lower: jax.Array  # (B,) the largest c that failed
    upper: jax.Array  # (B,) the smallest c that succeeded, or inf
    round: jax.Array  # (B,) int32: rounds of the search over c that are behind it
    iteration: jax.Array  # (B,) int32: steps of Adam within the round
    round_won: jax.Array  # (B,) bool: whether this c has succeeded
    last_loss: jax.Array  # (B,) the loss at the last look whether to go on
    best_images: Images  # (B, H, W, C)
    best_distance: jax.Array  # (B,) squared l2 of the nearest success, inf before the first
    best_margin: jax.Array  # (B,) the attacker's margin of `best_images`
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

    @property
    def num_steps(self) -> int:
        return self.binary_search_steps * self.steps_per_round

    def init(self, oracle, oracle_state, key, images, labels) -> CarliniWagnerState:
        del key
        batch = images.shape[0]
        zeros, infinite = (jnp.full(batch, v, jnp.float32) for v in (0.0, jnp.inf))
        oracle_state, logits = oracle(oracle_state, images)
        margin = goal_margin(logits, labels, targeted=self.targeted)
        already = wins(margin, self.confidence)
        w = self._to_tanh_space(images)
        return CarliniWagnerState(
            clean=images,
            labels=labels,
            w=w,
            adam=jax.vmap(self._adam().init)(w),
            const=jnp.full(batch, self.initial_const, jnp.float32),
            lower=zeros,
            upper=infinite,
            round=jnp.zeros(batch, jnp.int32),
            iteration=jnp.zeros(batch, jnp.int32),
            round_won=jnp.zeros(batch, bool),
            last_loss=infinite,
            best_images=images,
            best_distance=jnp.where(already, 0.0, jnp.inf),
            best_margin=margin,
            done=already,
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: CarliniWagnerState) -> CarliniWagnerState:
        """One step of Adam for every example, and, where a round ends, the next c."""

        def total_loss(w):
            images = self._to_images(w)
            oracle_state, logits = oracle(state.oracle_state, images)
            margin = goal_margin(logits, state.labels, targeted=self.targeted)
            distance = jnp.sum((images - state.clean) ** 2, axis=(1, 2, 3))
            loss = distance + state.const * jnp.maximum(self.confidence - margin, 0.0)
            return loss.sum(), (oracle_state, images, margin, distance, loss)

        gradient, aux = jax.grad(total_loss, has_aux=True)(state.w)
        oracle_state, images, margin, distance, loss = aux

        # Keep the nearest success; before the first success, whatever came closest to one.
        won = wins(margin, self.confidence)
        found = jnp.isfinite(state.best_distance)
        better = jnp.where(
            won, distance < state.best_distance, ~found & (margin > state.best_margin)
        )
        round_won = state.round_won | won

        updates, adam = jax.vmap(self._adam().update)(finite(gradient), state.adam)
        iteration = state.iteration + 1
        ends, last_loss = self._round_ends(iteration, loss, state.last_loss)
        const, lower, upper = _next_const(state.const, state.lower, state.upper, round_won)
        round_ = state.round + ends

        fresh_w = self._to_tanh_space(state.clean)
        moved = state._replace(
            w=select(ends, fresh_w, state.w + updates),
            adam=select(ends, jax.vmap(self._adam().init)(fresh_w), adam),
            const=select(ends, const, state.const),
            lower=select(ends, lower, state.lower),
            upper=select(ends, upper, state.upper),
            round=round_,
            iteration=select(ends, jnp.zeros_like(iteration), iteration),
            round_won=round_won & ~ends,
            last_loss=select(ends, jnp.full_like(loss, jnp.inf), last_loss),
            best_images=select(better, images, state.best_images),
            best_distance=select(better & won, distance, state.best_distance),
            best_margin=select(better, margin, state.best_margin),
            done=round_ >= self.binary_search_steps,
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: CarliniWagnerState) -> Result:
        return finish(
            oracle,
            state,
            state.best_images,
            distance="l2",
            targeted=self.targeted,
            confidence=self.confidence,
        )

    def _adam(self) -> optax.GradientTransformation:
        return optax.adam(self.step_size)

    def _round_ends(self, iteration, loss, last_loss):
        """Whether the round is over for each example (B,), and the loss to compare with next."""
        ends = iteration >= self.steps_per_round
        if not self.abort_early:
            return ends, last_loss
        looks = iteration % max(self.steps_per_round // 10, 1) == 0
        stalled = looks & (loss > WORTHWHILE * last_loss)
        return ends | stalled, jnp.where(looks, loss, last_loss)

    def _to_tanh_space(self, images):
        low, high = self.bounds
        return jnp.arctanh(INSIDE * (2.0 * (images - low) / (high - low) - 1.0))

    def _to_images(self, w):
        low, high = self.bounds
        return jnp.clip(low + (high - low) * (jnp.tanh(w) + 1.0) / 2.0, low, high)


def _next_const(const, lower, upper, won):
    """The binary search over c: halve the bracket, or grow c while it has no upper end."""
    upper = jnp.where(won, jnp.minimum(upper, const), upper)
    lower = jnp.where(won, lower, jnp.maximum(lower, const))
    bracketed = jnp.isfinite(upper)
    return jnp.where(bracketed, (lower + upper) / 2.0, const * GROWTH), lower, upper


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
    """The nearest image (l2) that is misclassified by `confidence` logits: Carlini and Wagner.

    Minimises ||x' - x||^2 + c max(confidence - margin(f(x')), 0) with Adam over tanh space and
    searches for the smallest c, separately for each example. Distances are l2 norms. An image
    that already meets the confidence is returned as it is. Where no round succeeds, the image
    that came closest in logits is returned, with `success` false.

    Unlike the authors' code, a round that has stalled is ended for each example by its own
    loss, not by the sum over the batch: no result depends on a batch-mate.

    Args:
      confidence: kappa, in logits; CMAG attacks with 9, 19 and 29. Traced.
      num_steps: steps of Adam in each round of the search over c.
      step_size: Adam's learning rate. Traced.
      binary_search_steps: rounds of the search over c.
      initial_const: the first c. Traced.
      abort_early: end a round of an example that no longer makes progress.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a negative confidence, another option that is not above zero, bounds that are
        no interval.
    """
    check_positive(confidence=confidence, or_zero=True)
    check_positive(step_size=step_size, initial_const=initial_const)
    check_positive(num_steps=num_steps, binary_search_steps=binary_search_steps)
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
