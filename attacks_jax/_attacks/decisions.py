"""What the attacks that see only decisions share: a first adversarial image, and the way from
there to the decision boundary."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from attacks_jax._attacks.queries import QueryAttack, QueryState, step_key
from attacks_jax._base import Images
from attacks_jax._batch_ops import TINY, Norm, select
from attacks_jax._checks import describe

# A random starting image consists of blocks of so many pixels a side, to some power.
GRAIN, GRAINS = 2, 4


# The phase in which a first adversarial image is searched for.
SEARCH = 0


class DecisionAttack(QueryAttack):
    """Its memory has `phase`, and `given`: the starting point that the caller knows, or None."""

    starting_points: Any  # Images or None

    def init(self, oracle, oracle_state, key, images, labels) -> QueryState:
        state = super().init(oracle, oracle_state, key, images, labels)
        if self.starting_points is None:
            return state
        given = check_starting_points(self.starting_points, images)
        # In the state, from which the driver drops the rows of examples that are done.
        memory = state.memory._replace(given=jnp.clip(given, *self.bounds))
        return state._replace(memory=memory)

    def proposals(self, examples: QueryState) -> tuple[jax.Array, Any]:
        """Starting images are made only as long as somebody searches: they cost as much as all
        the rest of a step."""
        images, notes = super().proposals(examples)
        searching = examples.memory.phase == SEARCH
        starts = lax.cond(
            searching.any(), jax.vmap(self.starting_image), lambda others: others.clean, examples
        )
        return select(searching, starts, images), notes

    def starting_image(self, example: QueryState) -> jax.Array:
        """What to ask about in the search for a first adversarial image.

        Uniform noise, in blocks of one to eight pixels a side, that covers the clean image or
        is blended with at most half of it: classifiers tend to see one class in all the noise of
        one grain.
        """
        height, width, _ = example.clean.shape
        low, high = self.bounds
        noise = uniform_noise(step_key(example), example.clean.shape)
        # Folded once more: the noise has the step's own key.
        grain, share, cover = jax.random.uniform(
            jax.random.fold_in(step_key(example), 1), (3,), jnp.float32
        )
        block = GRAIN ** jnp.floor(GRAINS * grain).astype(jnp.int32)
        rows, cols = (jnp.arange(n) // block * block for n in (height, width))
        blocks = low + (high - low) * (noise[rows[:, None], cols] + 1) / 2
        weight = jnp.where(cover < 0.5, 1.0, (1 + share) / 2)
        image = example.clean + weight * (blocks - example.clean)
        if example.memory.given is None:
            return image
        return jnp.where(example.queries == 1, example.memory.given, image)


def check_starting_points(points: Any, images: Images) -> Images:
    """Raises ValueError unless there is a starting point for each image."""
    if jnp.shape(points) != images.shape or points.dtype != images.dtype:
        expected = f"expected starting_points {images.shape} {images.dtype}"
        raise ValueError(f"{expected}, got {describe(points)}")
    return jnp.nan_to_num(points)


def uniform_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform in the open interval (-1, 1)."""
    lowest = jnp.nextafter(jnp.float32(-1), jnp.float32(0))
    return jax.random.uniform(key, shape, jnp.float32, lowest, 1.0)


def gaussian(noise: jax.Array) -> jax.Array:
    """The same noise as a standard normal one: drawing it again costs more than all the rest."""
    return 2.0**0.5 * lax.erf_inv(noise)


def pulled(image: jax.Array, clean: jax.Array, share: Any, kind: Norm) -> jax.Array:
    """The image (H, W, C) moved towards the clean one: `share` of the distance is left."""
    delta = image - clean
    if kind == "linf":
        reach = share * jnp.max(jnp.abs(delta))
        return clean + jnp.clip(delta, -reach, reach)
    return clean + share * delta


def length(delta: jax.Array, kind: Norm = "l2") -> jax.Array:
    """The norm of one perturbation (H, W, C): ()."""
    return jnp.max(jnp.abs(delta)) if kind == "linf" else jnp.sqrt(jnp.sum(delta**2))


def unit(delta: jax.Array) -> jax.Array:
    """The perturbation of l2 norm 1 in the same direction; nothing stays nothing."""
    return delta / jnp.maximum(length(delta), TINY)


def halved(low: jax.Array, won: jax.Array) -> jax.Array:
    """A binary search between an adversarial image and the clean one, after another halving.

    `low` is the share of the distance to the adversarial image that is known to be too little;
    the image in the middle was asked about, and takes the adversarial one's place if it `won`.
    """
    middle = (low + 1) / 2
    return jnp.where(won, low / middle, middle)
