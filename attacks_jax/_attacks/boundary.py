"""The Boundary Attack (Brendel, Rauber and Bethge, 2018): a random walk along the boundary."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
from attacks_jax._batch_ops import TINY
from attacks_jax._checks import check_bounds, check_counts, check_positive

# The phases: each says what a query is for.
APPROACH, WALK, LOOK = SEARCH + 1, SEARCH + 2, SEARCH + 3
# Bisection steps between the first adversarial image and the clean one, before the walk.
HALVINGS = 10
# Steps of the walk between two updates of the step sizes, as in Foolbox.
STEPS_PER_LOOK = 10
# The number of recent answers that give the success rates, as in Foolbox.
SPHERICAL_ANSWERS, SOURCE_ANSWERS = 100, 30
# The walk has converged when `source_step` is below this.
CONVERGED = 1e-7


class Answers(NamedTuple):
    """The last answers to one kind of query."""

    won: jax.Array  # (N,) bool, a ring buffer
    number: jax.Array  # () int32: answers since the buffer was cleared


class BoundaryMemory(NamedTuple):
    given: jax.Array | None  # (H, W, C): the caller's starting point
    phase: jax.Array  # () int32
    left: jax.Array  # () int32: queries left in the phase
    low: jax.Array  # () share of the current distance that the approach found too short
    spherical_step: jax.Array  # () as a share of the distance
    source_step: jax.Array  # () as a share of the distance
    spherical_answers: Answers
    source_answers: Answers


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Boundary(DecisionAttack):
    spherical_step: float | jax.Array
    source_step: float | jax.Array
    step_adaptation: float | jax.Array
    starting_points: Images | None
    num_steps: int = field(metadata={"static": True})
    init_attempts: int = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    @property
    def norm(self):
        return "l2"

    def start(self, example: QueryState, answer: Answer) -> BoundaryMemory:
        del example, answer
        return BoundaryMemory(
            given=None,
            phase=jnp.int32(SEARCH),
            left=jnp.int32(self.init_attempts),
            low=jnp.float32(0.0),
            spherical_step=jnp.asarray(self.spherical_step, jnp.float32),
            source_step=jnp.asarray(self.source_step, jnp.float32),
            spherical_answers=Answers(jnp.zeros(SPHERICAL_ANSWERS, bool), jnp.int32(0)),
            source_answers=Answers(jnp.zeros(SOURCE_ANSWERS, bool), jnp.int32(0)),
        )

    def propose(self, example: QueryState) -> tuple[jax.Array, Any]:
        memory = example.memory
        noise = uniform_noise(step_key(example), example.clean.shape)
        sideways, onwards = self._steps(example, gaussian(noise))
        images = {
            SEARCH: example.clean,  # `proposals` replaces it
            APPROACH: pulled(example.best, example.clean, (memory.low + 1) / 2, "l2"),
            WALK: onwards,
            LOOK: sideways,
        }
        image = lax.select_n(memory.phase, *(images[phase] for phase in sorted(images)))
        return jnp.clip(image, *self.bounds), ()

    def learn(self, example: QueryState, image, notes, answer: Answer) -> QueryState:
        del notes
        memory, won = example.memory, answer.won
        phase, left = memory.phase, memory.left - 1
        searching = phase == SEARCH
        over = (left == 0) | (searching & won)
        nearer = length(image - example.clean) < length(example.best - example.clean)

        # The success rates count the last step of WALK before LOOK, and the LOOK step.
        memory = memory._replace(
            source_answers=_noted(memory.source_answers, (phase == WALK) & over, won),
            spherical_answers=_noted(memory.spherical_answers, phase == LOOK, won),
            low=jnp.where(phase == APPROACH, halved(memory.low, won), memory.low),
        )
        adapted = self._adapted(memory)
        memory = jax.tree.map(lambda a, b: jnp.where(phase == LOOK, a, b), adapted, memory)

        following = jnp.where(phase == LOOK, WALK, phase + 1)
        turns = jnp.array([self.init_attempts, HALVINGS, STEPS_PER_LOOK, 1])
        return example._replace(
            best=jnp.where(won & (searching | nearer), image, example.best),
            memory=memory._replace(
                phase=jnp.where(over, following, phase).astype(jnp.int32),
                left=jnp.where(over, turns[following], left).astype(jnp.int32),
            ),
            done=(searching & over & ~won) | (memory.source_step < CONVERGED),
        )

    def _steps(self, example: QueryState, normal):
        """Returns two images (section 2.3 and figure 2): a step along the sphere around the clean
        image, and the same step followed by one towards the clean image."""
        memory, clean = example.memory, example.clean
        back = clean - example.best
        distance, inwards = length(back), unit(back)
        sideways = unit(normal - jnp.sum(normal * inwards) * inwards)
        tangent = memory.spherical_step * distance * sideways - back
        on_sphere = clean + tangent / jnp.sqrt(1 + memory.spherical_step**2)
        on_sphere = jnp.clip(on_sphere, *self.bounds)

        # Clipping moves the image off the sphere: correct the step by the change of distance.
        back = clean - on_sphere
        gap = length(back)
        step = jnp.maximum(gap - (1 - memory.source_step) * distance, 0.0)
        return on_sphere, on_sphere + step * back / jnp.maximum(gap, TINY)

    def _adapted(self, memory: BoundaryMemory) -> BoundaryMemory:
        """Lengthens steps if most succeed, shortens them if few do. Thresholds as in Foolbox."""
        along = self._factor(memory.spherical_answers, 0.2, 0.5)
        towards = self._factor(memory.source_answers, 0.1, 0.25)
        return memory._replace(
            spherical_step=memory.spherical_step * along,
            source_step=memory.source_step * along * towards,
            spherical_answers=_cleared(memory.spherical_answers, along != 1),
            source_answers=_cleared(memory.source_answers, towards != 1),
        )

    def _factor(self, answers: Answers, lowest: float, highest: float):
        rate = jnp.mean(answers.won)
        factor = jnp.where(rate > highest, self.step_adaptation, 1.0)
        factor = jnp.where(rate < lowest, 1 / self.step_adaptation, factor)
        return jnp.where(answers.number >= answers.won.shape[0], factor, 1.0)


def _noted(answers: Answers, asked, won) -> Answers:
    place = answers.number % answers.won.shape[0]
    ring = jnp.where(asked, answers.won.at[place].set(won), answers.won)
    return Answers(ring, answers.number + asked)


def _cleared(answers: Answers, condition) -> Answers:
    return answers._replace(number=jnp.where(condition, 0, answers.number))


def boundary(
    *,
    num_steps: int = 25_000,
    spherical_step: float | jax.Array = 0.01,
    source_step: float | jax.Array = 0.01,
    step_adaptation: float | jax.Array = 1.5,
    init_attempts: int = 100,
    starting_points: Images | None = None,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Minimises the l2 distance from decisions only, by a random walk along the boundary.

    Brendel, Rauber and Bethge, "Decision-Based Adversarial Attacks: Reliable Attacks Against
    Black-Box Machine Learning Models" (2018), algorithm 1, as the authors re-implemented it in
    Foolbox. A step goes along the sphere around the clean image and then towards the clean image.
    It is accepted if the new image is adversarial and nearer. After every tenth step, one query
    tests a step along the sphere only, and both step sizes are adapted to their success rates.
    Before the walk, ten queries bisect the line from the first adversarial image to the clean one.

    Distances are l2 norms. An image that the oracle already misclassifies is returned unchanged. If
    no adversarial image to start from is found, the clean image is returned with `success` false.

    Args:
      num_steps: the query budget, without the first and the last query. The walk ends earlier when
        source_step falls below 1e-7.
      spherical_step: the first step along the sphere, as a share of the distance. Traced.
      source_step: the first step towards the clean image, as a share of the distance. Traced.
      step_adaptation: the factor that lengthens or shortens steps. Traced.
      init_attempts: the largest number of queries, out of `num_steps`, to find a starting image.
      starting_points: (B, H, W, C), tried first. Targeted attacks rarely find their own; images of
        the target class work. Traced.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: an option that is not above zero, a step_adaptation below one, invalid bounds;
        from `run`, starting points with a shape other than the images'.
    """
    check_counts(num_steps=num_steps, init_attempts=init_attempts)
    check_positive(
        spherical_step=spherical_step, source_step=source_step, step_adaptation=step_adaptation
    )
    if isinstance(step_adaptation, int | float) and step_adaptation < 1:
        raise ValueError(f"expected step_adaptation to be 1 or above, got {step_adaptation}")
    return Boundary(
        spherical_step,
        source_step,
        step_adaptation,
        starting_points,
        num_steps,
        init_attempts,
        targeted,
        check_bounds(bounds),
    )
