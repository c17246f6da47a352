"""DeepFool (Moosavi-Dezfooli, Fawzi and Frossard, "DeepFool: a simple and accurate method to fool
deep neural networks", 2016)."""

from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attacks_jax._base import Attack, Images, Labels, OneStage, Oracle, OracleState, Result
from attacks_jax._batch_ops import PIXELS, TINY, Norm, expand, freeze, select, width
from attacks_jax._checks import check_bounds, check_counts, check_positive
from attacks_jax._gradients import pull_back
from attacks_jax._losses import goal_margin
from attacks_jax._success import finish, wins

# Each step goes beyond the linearised boundary by this share of the pixel range, so that an image
# on the boundary still leaves it. Foolbox does the same.
BEYOND = 1e-4


class DeepFoolState(NamedTuple):
    clean: Images  # (B, H, W, C)
    labels: Labels  # (B,)
    images: Images  # (B, H, W, C)
    total: jax.Array  # (B, H, W, C): the sum of the steps, without overshoot
    others: jax.Array  # (B, M) int32: the other classes considered
    done: jax.Array  # (B,) bool
    queries: jax.Array  # (B,) int32
    oracle_state: OracleState


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DeepFool(OneStage):
    overshoot: float | jax.Array
    num_steps: int = field(metadata={"static": True})
    candidates: int = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    norm: ClassVar[Norm] = "l2"
    targeted: ClassVar[bool] = False

    def init(self, oracle, oracle_state, key, images, labels) -> DeepFoolState:
        del key
        batch = images.shape[0]
        oracle_state, logits = oracle(oracle_state, images)
        is_label = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
        count = min(self.candidates, logits.shape[1]) - 1
        _, others = lax.top_k(jnp.where(is_label, -jnp.inf, logits), count)
        already = wins(goal_margin(logits, labels, targeted=False))
        return DeepFoolState(
            clean=images,
            labels=labels,
            images=images,
            total=jnp.zeros_like(images),
            others=others,
            done=already | (count == 0),  # one class has no boundary
            queries=jnp.ones(batch, jnp.int32),
            oracle_state=oracle_state,
        )

    def step(self, oracle: Oracle, state: DeepFoolState) -> DeepFoolState:
        """Steps to the nearest linearised boundary of every example: algorithm 2."""

        def gains_on_the_label(logits):  # (M, B, K): each candidate's logit minus the label's
            own = jax.nn.one_hot(state.labels, logits.shape[1])
            return jnp.moveaxis(jax.nn.one_hot(state.others, logits.shape[1]), 1, 0) - own

        w, logits, oracle_state = pull_back(
            oracle, state.oracle_state, state.images, gains_on_the_label
        )
        own = jnp.take_along_axis(logits, state.labels[:, None], axis=1)
        gaps = jnp.abs(jnp.take_along_axis(logits, state.others, axis=1) - own).T  # (M, B)
        lengths = jnp.sqrt(jnp.sum(w**2, axis=tuple(axis + 1 for axis in PIXELS)))
        # With a gradient of zero, no direction leads to the boundary: infinitely far.
        far = jnp.where((lengths > TINY) & jnp.isfinite(gaps), gaps / (lengths + TINY), jnp.inf)
        nearest = jnp.argmin(far, axis=0)  # (B,)

        def pick(values):
            return jnp.take_along_axis(values, nearest[None], axis=0)[0]

        beyond = BEYOND * width(self.bounds)
        direction = jnp.take_along_axis(w, expand(nearest, w[0])[None], axis=0)[0]
        distance = jnp.where(jnp.isfinite(pick(far)), pick(far) + beyond, 0.0)
        unit = direction / jnp.maximum(expand(pick(lengths), direction), TINY)
        total = state.total + expand(distance, unit) * unit
        images = jnp.clip(state.clean + (1.0 + self.overshoot) * total, *self.bounds)
        won = wins(goal_margin(logits, state.labels, targeted=False))
        moved = state._replace(
            images=select(won, state.images, images),
            total=select(won, state.total, total),
            done=won,
            queries=state.queries + 1,
            oracle_state=oracle_state,
        )
        return freeze(state, moved)

    def result(self, oracle: Oracle, state: DeepFoolState) -> Result:
        return finish(oracle, state, state.images, distance=self.norm, targeted=False)


def deepfool(
    *,
    num_steps: int = 50,
    overshoot: float | jax.Array = 0.02,
    candidates: int = 10,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Steps to the nearest linearised decision boundary until the image crosses it.

    DeepFool's algorithm 2 in the l2 norm, untargeted. The gradients of all candidates come from one
    forward pass. Distances are l2 norms.

    Args:
      num_steps: the largest number of steps; few examples need more than five.
      overshoot: the extra length beyond the boundary, as a share of the total step. Traced.
      candidates: number of classes considered, with the true one: those with the highest logits on
        the clean image. The paper uses ten for ImageNet; 1,000 classes cost 1,000 gradients.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: fewer than two candidates, other options out of range.
    """
    check_counts(num_steps=num_steps, candidates=candidates)
    check_positive(overshoot=overshoot, or_zero=True)
    if candidates < 2:
        raise ValueError(f"expected candidates of at least 2, got {candidates}")
    return DeepFool(overshoot, num_steps, candidates, check_bounds(bounds))
