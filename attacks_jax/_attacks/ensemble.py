"""Several attacks combined into one: the worst case for each example."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._attacks.apgd import apgd
from attacks_jax._attacks.square import square
from attacks_jax._base import Attack, Images, Labels, Oracle, OracleState, Result
from attacks_jax._batch_ops import Norm, norm, select
from attacks_jax._checks import check_bounds, check_choice, in_pixels
from attacks_jax._success import finish

# `p_init` of Square in AutoAttack. It is larger than Square's own default.
SQUARES = 0.8


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EnsembleState:
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    keys: jax.Array  # (B,): copies of one key, the source of the members' keys
    images: Images  # (B, H, W, C): the nearest success, or the first member's best effort
    found: jax.Array  # (B,) bool
    distance: jax.Array  # (B,) of `images` where found
    spent: jax.Array  # (B,) int32: queries of the finished members
    member: Any  # the state of the current member
    at_work: int = field(metadata={"static": True})  # index of the current member
    stage: int = field(metadata={"static": True})  # index of its current stage

    @property
    def done(self) -> jax.Array:
        return self.member.done

    @property
    def oracle_state(self) -> OracleState:
        return self.member.oracle_state


class _Through(NamedTuple):
    """The part of the state that `finish` reads after the last member."""

    clean: Images
    labels: Labels
    queries: jax.Array
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ensemble:
    members: tuple[Attack, ...]
    norm: Norm = field(metadata={"static": True})
    cascade: bool = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})

    @property
    def bounds(self) -> tuple[float, float]:
        return self.members[0].bounds

    @property
    def eps(self) -> Any:
        """The members' largest radius; None unless all have one in the ensemble's norm."""
        within = [getattr(m, "eps", None) for m in self.members if m.norm == self.norm]
        if len(within) < len(self.members) or None in within:
            return None
        return jnp.max(jnp.stack([jnp.asarray(eps, jnp.float32) for eps in within]))

    @property
    def stages(self) -> tuple[int, ...]:
        return tuple(steps for member in self.members for steps in member.stages)

    @property
    def independent(self) -> bool:
        return all(member.independent for member in self.members)

    def init(self, oracle, oracle_state, key, images, labels) -> EnsembleState:
        batch = images.shape[0]
        zeros = jnp.zeros(batch, jnp.int32)
        return EnsembleState(
            clean=images,
            labels=labels,
            keys=jnp.broadcast_to(key, (batch,)),
            images=images,
            found=zeros.astype(bool),
            distance=jnp.full(batch, jnp.inf, jnp.float32),
            spent=zeros,
            member=self.members[0].init(oracle, oracle_state, key, images, labels),
            at_work=0,
            stage=0,
        )

    def step(self, oracle: Oracle, state: EnsembleState) -> EnsembleState:
        return _but(state, member=self.members[state.at_work].step(oracle, state.member))

    def next_stage(self, oracle: Oracle, state: EnsembleState) -> EnsembleState:
        attack = self.members[state.at_work]
        if state.stage + 1 < len(attack.stages):
            member = attack.next_stage(oracle, state.member)
            return _but(state, member=member, stage=state.stage + 1)
        state, oracle_state = self._gather(oracle, state)
        following = state.at_work + 1
        # Every attack leaves an image that is already misclassified unchanged.
        images = select(state.found, state.images, state.clean) if self.cascade else state.clean
        key = jax.random.fold_in(state.keys[0], following)
        member = self.members[following].init(oracle, oracle_state, key, images, state.labels)
        return _but(state, member=member, at_work=following, stage=0)

    def result(self, oracle: Oracle, state: EnsembleState) -> Result:
        state, oracle_state = self._gather(oracle, state)
        through = _Through(state.clean, state.labels, state.spent, oracle_state)
        return finish(oracle, through, state.images, distance=self.norm, targeted=self.targeted)

    def _gather(self, oracle, state: EnsembleState) -> tuple[EnsembleState, OracleState]:
        """Returns the state with the current member's result, and the oracle's state."""
        result = self.members[state.at_work].result(oracle, state.member)
        distance = norm(result.images - state.clean, self.norm)
        better = result.success & (distance < state.distance)
        effort = jnp.full_like(better, state.at_work == 0)  # the fallback result
        state = _but(
            state,
            images=select(better | (effort & ~state.found), result.images, state.images),
            found=state.found | result.success,
            distance=jnp.where(better, distance, state.distance),
            spent=state.spent + result.queries,
        )
        return state, result.oracle_state


def _but(state: EnsembleState, **changes) -> EnsembleState:
    return EnsembleState(**(vars(state) | changes))


def ensemble(
    attacks: Sequence[Attack],
    *,
    norm: Norm = "linf",
    cascade: bool = False,
) -> Attack:
    """Runs several attacks and returns the nearest success for each example.

    Distances are in `norm`, even if a member uses another norm. If no attack succeeds, the best
    effort of the first is returned. `queries` is the sum over the members.

    Args:
      attacks: attacks of this library with the same bounds, all targeted or all untargeted.
      norm: the norm for "nearest" and for the distances.
      cascade: give each attack only the examples on which the attacks before it failed. Use it for
        attacks with one budget, where every success is equally good.

    Raises:
      ValueError: no attacks, attacks that differ in their bounds or in `targeted`, an unknown norm.
    """
    members = tuple(attacks)
    bounds = sorted({member.bounds for member in members})
    if len(bounds) != 1:
        raise ValueError(f"expected at least one attack, and the same bounds, got {bounds}")
    check_choice(norm=(norm, ("linf", "l2", "l1", "l0")))
    targeted = {getattr(member, "targeted", False) for member in members}
    if len(targeted) != 1:
        raise ValueError("expected attacks that are all targeted, or none of them, got both")
    return Ensemble(members, norm, cascade, targeted.pop())


def auto_attack(
    *,
    eps: float | jax.Array | None = None,
    norm: Literal["linf", "l2"] = "linf",
    num_steps: int = 100,
    num_queries: int = 5000,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """AutoAttack (Croce and Hein, 2020) without FAB-T, untargeted.

    The members are APGD-CE, APGD-T with the DLR loss on nine targets, and Square. Each attacks only
    the examples on which the members before it failed. The paper's standard version has FAB-T as
    its third member, which this library does not have. Distances are in `norm`.

    Args:
      eps: radius of the ball, in pixel units; default 0.3, for pixels in [0, 1]. Traced.
      norm: "linf" or "l2".
      num_steps: steps in each round of APGD.
      num_queries: query budget of Square.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: options out of range; bounds other than (0, 1) without eps.
    """
    (eps,) = in_pixels(check_bounds(bounds), eps=(eps, 0.3))
    apgd_ce = apgd(eps=eps, norm=norm, num_steps=num_steps, bounds=bounds)
    apgd_t = apgd(eps=eps, norm=norm, num_steps=num_steps, num_targets=9, bounds=bounds)
    random_search = square(eps=eps, norm=norm, num_steps=num_queries, p_init=SQUARES, bounds=bounds)
    members = (apgd_ce, apgd_t, random_search)
    return ensemble(members, norm=norm, cascade=True)
