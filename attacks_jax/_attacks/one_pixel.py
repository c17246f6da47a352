"""The one-pixel attack (Su, Vargas and Sakurai, 2019): changes few pixels by differential
evolution."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._attacks.queries import Answer, QueryAttack, QueryState, step_key
from attacks_jax._base import Attack
from attacks_jax._checks import check_bounds, check_counts, check_positive
from attacks_jax._losses import cross_entropy


class OnePixelMemory(NamedTuple):
    """P individuals. The genes of one are, for each pixel, (row, column, a value per channel)."""

    parents: jax.Array  # (P, pixels, 2 + C): the last generation, the source of children
    population: jax.Array  # (P, pixels, 2 + C): the current generation, which children enter
    scores: jax.Array  # (P,): of the current generation
    score: jax.Array  # () of `best`


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OnePixel(QueryAttack):
    mutation: float | jax.Array
    num_steps: int = field(metadata={"static": True})
    pixels: int = field(metadata={"static": True})
    population: int = field(metadata={"static": True})
    targeted: bool = field(metadata={"static": True})
    bounds: tuple[float, float] = field(metadata={"static": True})

    loss = staticmethod(cross_entropy)  # gives the same order as the class's probability

    @property
    def norm(self):
        return "l0"

    def start(self, example: QueryState, answer: Answer) -> OnePixelMemory:
        shape = (self.population, self.pixels, 2 + example.clean.shape[-1])
        none, worst = (
            jnp.zeros(shape, jnp.float32),
            jnp.full(self.population, -jnp.inf, jnp.float32),
        )
        return OnePixelMemory(none, none, worst, answer.score)

    def propose(self, example: QueryState) -> tuple[jax.Array, Any]:
        """Returns the next individual: of the first generation, or a child of the last one."""
        first, breed = jax.random.split(step_key(example))
        newborn = example.queries <= self.population
        genes = jnp.where(newborn, self._first(first, example), self._child(breed, example))
        genes = self._legal(genes, example.clean.shape)
        return self._painted(example.clean, genes), genes

    def learn(self, example: QueryState, image, notes, answer: Answer) -> QueryState:
        memory, place = example.memory, self._place(example)
        fitter = answer.score > memory.scores[place]
        population = jnp.where(fitter, memory.population.at[place].set(notes), memory.population)
        complete = place == self.population - 1
        better = answer.won | (answer.score > memory.score)
        return example._replace(
            best=jnp.where(better, image, example.best),
            memory=OnePixelMemory(
                parents=jnp.where(complete, population, memory.parents),
                population=population,
                scores=memory.scores.at[place].max(answer.score),
                score=jnp.where(better, answer.score, memory.score),
            ),
            done=answer.won,
        )

    def _place(self, example):
        return (example.queries - 1) % self.population

    def _first(self, key, example):
        """Draws uniform positions and colours normal around mid-grey: section 3.3 of the paper."""
        height, width, channels = example.clean.shape
        low, high = self.bounds
        where, what = jax.random.split(key)
        places = jax.random.uniform(where, (self.pixels, 2), jnp.float32) * jnp.array(
            [height, width], jnp.float32
        )
        colours = jax.random.normal(what, (self.pixels, channels), jnp.float32)
        return jnp.concatenate([places, (low + high) / 2 + (high - low) / 2 * colours], axis=1)

    def _child(self, key, example):
        """Returns eq. 3, r1 + F (r2 - r3), for three different individuals."""
        choices = self.population - jnp.arange(3)  # the number left for each
        one, second, third = jnp.floor(choices * jax.random.uniform(key, (3,))).astype(jnp.int32)
        # The others are offsets from the first. The third skips the second.
        other, another = 1 + second, 1 + third + (third >= second)
        r1, r2, r3 = (
            example.memory.parents[(one + n) % self.population] for n in (0, other, another)
        )
        return r1 + self.mutation * (r2 - r3)

    def _legal(self, genes, shape):
        """Wraps positions at the edges, so that they do not gather there, and clips colours."""
        places = genes[:, :2] % jnp.array(shape[:2], genes.dtype)
        return jnp.concatenate([places, jnp.clip(genes[:, 2:], *self.bounds)], axis=1)

    def _painted(self, image, genes):
        height, width, _ = image.shape
        for row, column, *colour in genes:
            here = jnp.arange(height)[:, None] == jnp.minimum(row.astype(jnp.int32), height - 1)
            here &= jnp.arange(width) == jnp.minimum(column.astype(jnp.int32), width - 1)
            image = jnp.where(here[..., None], jnp.stack(colour), image)
        return image


def one_pixel(
    *,
    pixels: int = 1,
    num_steps: int | None = None,
    population: int = 400,
    generations: int = 100,
    mutation: float | jax.Array = 0.5,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Attack:
    """Changes the class with a few pixels and colours, found by differential evolution.

    Su, Vargas and Sakurai, "One Pixel Attack for Fooling Deep Neural Networks" (2019), section 3.
    The attack uses probabilities. The fitness of an individual rises as the true class's
    probability falls, or as the target's rises. DE/rand/1 without crossover; a child replaces its
    parent if it is fitter. Unlike in the paper, an example ends as soon as it is adversarial.

    Distances count the changed pixels (l0). An image that the oracle already misclassifies is
    returned unchanged. If nothing succeeds, the fittest image is returned with `success` false.

    Args:
      pixels: the largest number of pixels to change; the paper uses 1, 3 and 5.
      num_steps: the query budget, without the first and the last query. None:
        population * (generations + 1).
      population: individuals in a generation, one query each.
      generations: generations of children after the first one. Used if `num_steps` is None.
      mutation: F, the weight of the difference of two individuals. Traced.
      targeted: whether the labels given to `run` are targets.
      bounds: the lowest and the highest value of a pixel.

    Raises:
      ValueError: a population of less than three, another option that is not above zero, bounds
        that are no interval.
    """
    check_counts(population=population)
    if num_steps is None:
        check_counts(generations=generations, or_zero=True)
        num_steps = population * (generations + 1)
    check_positive(mutation=mutation)
    check_counts(pixels=pixels, num_steps=num_steps)
    if population < 3:
        raise ValueError(f"expected population to be 3 or above, got {population}")
    return OnePixel(mutation, num_steps, pixels, population, targeted, check_bounds(bounds))
