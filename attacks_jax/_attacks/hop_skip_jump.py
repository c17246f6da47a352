"""HopSkipJumpAttack (Chen, Jordan and Wainwright, 2020): a decision-based attack that moves along
the decision boundary."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from attacks_jax._attacks.decisions import (
    SEARCH,
    DecisionAttack,
    gaussian,
    halved,
    length,
    pulled,
    uniform_noise,
    unit,
)
from attacks_jax._attacks.queries import Answer, QueryState, step_key
from attacks_jax._base import Attack, Images
from attacks_jax._checks import check_bounds, check_choice, check_counts, check_positive

# The phases: each says what a query is for. A round estimates, hops, and returns to the boundary.
RETURN, ESTIMATE, HOP = SEARCH + 1, SEARCH + 2, SEARCH + 3
# float32 does not resolve a smaller share of a distance, or a smaller change of a pixel as a share
# of the pixel range.
SMALLEST_SHARE = 1e-6
SMALLEST_CHANGE = 1e-6
# A hop stops after this many halvings: the oracle's decision has changed.
MOST_HOPS = 25


class HopSkipJumpMemory(NamedTuple):
    given: jax.Array | None  # (H, W, C): the caller's starting point
    phase: jax.Array  # () int32
    left: jax.Array  # () int32: queries left in the phase
    round: jax.Array  # () int32: t, from 1
    current: jax.Array  # (H, W, C): the adversarial iterate; on the boundary in an estimate
    low: jax.Array  # () share of current's distance that the return found too short
    estimate: jax.Array  # (H, W, C): sum of sampled directions, negated where not adversarial;
    # after the last sample, the direction of the hop
    directions: jax.Array  # (H, W, C): sum of sampled directions
    wins: jax.Array  # () number of adversarial samples
    stride: jax.Array  # () length of the next hop


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HopSkipJump(DecisionAttack):
    gamma: float | jax.Array
    starting_points: Images | None
    num_steps: int = field(metadata={"static": True})
    initial_gradient_queries: int = field(metadata={"static": True})
    max_gradient_queries: int = field(metadata={"static": True})
    norm: Literal["l2", "linf"] = field(metadata={"static": True})
    init_attempts: int = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    def start(self, example: QueryState, answer: Answer) -> HopSkipJumpMemory:
        del answer
        zero, zeros = jnp.float32(0), jnp.zeros_like(example.clean)
        phase, left, first = (jnp.int32(n) for n in (SEARCH, self.init_attempts, 1))
        return HopSkipJumpMemory(
            None, phase, left, first, example.clean, zero, zeros, zeros, zero, zero
        )

    def propose(self, example: QueryState) -> tuple[jax.Array, Any]:
        memory = example.memory
        noise = uniform_noise(step_key(example), example.clean.shape)
        direction = unit(noise if self.norm == "linf" else gaussian(noise))
        images = {
            SEARCH: example.clean,  # `proposals` replaces it
            RETURN: pulled(memory.current, example.clean, (memory.low + 1) / 2, self.norm),
            ESTIMATE: memory.current + self._radius(example) * direction,
            HOP: memory.current + memory.stride * memory.estimate,
        }
        image = lax.select_n(memory.phase, *(images[phase] for phase in sorted(images)))
        return jnp.clip(image, *self.bounds), ()

    def learn(self, example: QueryState, image, notes, answer: Answer) -> QueryState:
        del notes
        memory, won = example.memory, answer.won
        phase = memory.phase
        none_yet = phase == SEARCH
        distance = length(image - example.clean, self.norm)
        nearer = distance < length(example.best - example.clean, self.norm)

        # Update the memory for the phase of the query.
        sampled = phase == ESTIMATE
        step = jnp.where(sampled, image - memory.current, 0.0)
        memory = memory._replace(
            left=memory.left - 1,
            current=jnp.where(won & ~sampled, image, memory.current),
            low=jnp.where(phase == RETURN, halved(memory.low, won), memory.low),
            estimate=memory.estimate + jnp.where(won, step, -step),
            directions=memory.directions + step,
            wins=memory.wins + (sampled & won),
            stride=jnp.where(phase == HOP, memory.stride / 2, memory.stride),
        )
        over = (memory.left == 0) | (won & ((phase == SEARCH) | (phase == HOP)))
        entered = self._entered(jnp.where(phase == HOP, RETURN, phase + 1), example, memory)
        failed = none_yet & over & ~won
        return example._replace(
            best=jnp.where(won & (none_yet | nearer), image, example.best),
            memory=jax.tree.map(lambda new, old: jnp.where(over, new, old), entered, memory),
            done=failed,
        )

    def _entered(self, phase, example: QueryState, memory: HopSkipJumpMemory):
        """Returns the memory at the start of the next phase."""
        estimating, hopping = phase == ESTIMATE, phase == HOP
        round_ = jnp.where(memory.phase == HOP, memory.round + 1, memory.round)
        root = jnp.sqrt(round_.astype(jnp.float32))
        samples = jnp.minimum(self.initial_gradient_queries * root, self.max_gradient_queries)
        left = jnp.where(estimating, jnp.floor(samples).astype(jnp.int32), self._halvings(example))
        distance = length(memory.current - example.clean, self.norm)
        return memory._replace(
            phase=phase.astype(jnp.int32),
            left=jnp.where(hopping, MOST_HOPS, left),
            round=round_,
            low=jnp.zeros_like(memory.low),
            estimate=jnp.where(hopping, self._direction(memory, samples), 0.0),
            directions=jnp.zeros_like(memory.directions),
            wins=jnp.zeros_like(memory.wins),
            stride=distance / root,
        )

    def _direction(self, memory: HopSkipJumpMemory, samples) -> jax.Array:
        """Eq. 16: subtracts the mean from each answer, unless all answers are equal."""
        samples = jnp.floor(samples)
        mean = 2 * memory.wins / samples - 1
        baseline = jnp.where(jnp.abs(mean) == 1, 0.0, mean)
        gradient = memory.estimate - baseline * memory.directions
        return jnp.sign(gradient) if self.norm == "linf" else unit(gradient)

    def _halvings(self, example: QueryState) -> jax.Array:
        """Returns the number of halvings that locate the boundary to theta of section IV.C."""
        d = example.clean.size
        theta = self.gamma / (d * d if self.norm == "linf" else d * d**0.5)
        theta = jnp.clip(theta, SMALLEST_SHARE, 0.5)
        return jnp.ceil(-jnp.log2(theta)).astype(jnp.int32)

    def _radius(self, example: QueryState) -> jax.Array:
        """Returns the radius of the samples: a tenth of the pixel range in the first round, then
        gamma / d of the distance."""
        low, high = self.bounds
        d = example.clean.size
        distance = length(example.memory.current - example.clean, self.norm)
        smallest = SMALLEST_CHANGE * (high - low) * d**0.5
        later = jnp.maximum(self.gamma * distance / d, smallest)
        return jnp.where(example.memory.round == 1, 0.1 * (high - low), later)


def hop_skip_jump(
    *,
    num_steps: int = 1000,
    initial_gradient_queries: int = 100,
    max_gradient_queries: int = 10_000,
    gamma: float | jax.Array = 1.0,
    norm: Literal["l2", "linf"] = "l2",
    init_attempts: int = 100,
    starting_points: Images | None = None,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Minimises the distance of an adversarial image from decisions only: HopSkipJumpAttack.

    Chen, Jordan and Wainwright, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack"
    (2020), algorithm 2. A binary search moves an adversarial image to the decision boundary. Each
    round estimates the boundary's normal from samples around the image (eq. 16). Then it hops along
    the normal, halving the stride until the image is adversarial, and returns to the boundary. The
    result is the nearest adversarial image of all queries.

    Distances are in `norm`. An image that the oracle already misclassifies is returned unchanged.
    If no adversarial image to start from is found, the clean image is returned with `success`
    false.

    Args:
      num_steps: the query budget, without the first and the last query; the paper uses 1,000 to
        25,000.
      initial_gradient_queries: samples in the first round. Round t has sqrt(t) times as many.
      max_gradient_queries: the largest number of samples in a round.
      gamma: scales two shares of the distance, with d pixel values: the precision of the binary
        search, gamma / d^1.5 (l2) or gamma / d^2 (linf), and the radius of the samples, gamma / d.
        Traced.
      norm: the norm to minimise.
      init_attempts: the largest number of queries, out of `num_steps`, to find a starting image.
      starting_points: (B, H, W, C), tried first. Targeted attacks rarely find their own; images of
        the target class work. Traced.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: an option that is not above zero, an unknown norm, bounds that are no
        interval; from `run`, starting points of another shape than the images.
    """
    check_positive(gamma=gamma)
    check_counts(num_steps=num_steps, init_attempts=init_attempts)
    check_counts(
        initial_gradient_queries=initial_gradient_queries,
        max_gradient_queries=max_gradient_queries,
    )
    check_choice(norm=(norm, ("l2", "linf")))
    return HopSkipJump(
        gamma,
        starting_points,
        num_steps,
        initial_gradient_queries,
        max_gradient_queries,
        norm,
        init_attempts,
        targeted,
        check_bounds(bounds),
    )
