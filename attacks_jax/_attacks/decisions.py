"""Shared parts of decision-based attacks: the search for a first adversarial image, and the
bisection from there to the decision boundary."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from attacks_jax._attacks.queries import QueryAttack, QueryState, step_key
from attacks_jax._base import Images
from attacks_jax._batch_ops import TINY, Norm, select
from attacks_jax._checks import describe

# A random starting image has blocks with a side of GRAIN^n pixels, n below GRAINS.
GRAIN, GRAINS = 2, 4


# The phase of the search for a first adversarial image.
SEARCH = 0


class DecisionAttack(QueryAttack):
    """A decision-based attack. Its memory has `phase` and `given`, the caller's start or None."""

    starting_points: Any  # Images or None

    def init(self, oracle, oracle_state, key, images, labels) -> QueryState:
        state = super().init(oracle, oracle_state, key, images, labels)
        if self.starting_points is None:
            return state
        given = check_starting_points(self.starting_points, images)
        # Kept in the state, so that the loop can drop the rows of examples that are done.
        memory = state.memory._replace(given=jnp.clip(given, *self.bounds))
        return state._replace(memory=memory)

    def proposals(self, examples: QueryState) -> tuple[jax.Array, Any]:
        """Makes starting images only while an example searches: they cost as much as the rest of
        a step."""
        images, notes = super().proposals(examples)
        searching = examples.memory.phase == SEARCH
        starts = lax.cond(
            searching.any(), jax.vmap(self.starting_image), lambda others: others.clean, examples
        )
        return select(searching, starts, images), notes

    def starting_image(self, example: QueryState) -> jax.Array:
        """Returns the next query in the search for a first adversarial image.

        The image is uniform noise in blocks of one to eight pixels a side. The noise covers the
        clean image or is blended with at most half of it. Block sizes vary because classifiers
        tend to see one class in all noise of one size.
        """
        height, width, _ = example.clean.shape
        low, high = self.bounds
        noise = uniform_noise(step_key(example), example.clean.shape)
        # Fold once more: the noise already uses the step's key.
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
    """Returns the points without NaN. Raises ValueError unless there is one for each image."""
    if jnp.shape(points) != images.shape or points.dtype != images.dtype:
        expected = f"expected starting_points {images.shape} {images.dtype}"
        raise ValueError(f"{expected}, got {describe(points)}")
    return jnp.nan_to_num(points)


def uniform_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws uniform noise from the open interval (-1, 1)."""
    lowest = jnp.nextafter(jnp.float32(-1), jnp.float32(0))
    return jax.random.uniform(key, shape, jnp.float32, lowest, 1.0)


def gaussian(noise: jax.Array) -> jax.Array:
    """Transforms uniform noise to standard normal noise. A second draw would cost much more."""
    return 2.0**0.5 * lax.erf_inv(noise)


def pulled(image: jax.Array, clean: jax.Array, share: Any, kind: Norm) -> jax.Array:
    """Moves the image (H, W, C) towards the clean one, to `share` of the distance."""
    delta = image - clean
    if kind == "linf":
        reach = share * jnp.max(jnp.abs(delta))
        return clean + jnp.clip(delta, -reach, reach)
    return clean + share * delta


def length(delta: jax.Array, kind: Norm = "l2") -> jax.Array:
    """Returns the norm () of one perturbation (H, W, C)."""
    return jnp.max(jnp.abs(delta)) if kind == "linf" else jnp.sqrt(jnp.sum(delta**2))


def unit(delta: jax.Array) -> jax.Array:
    """Returns the perturbation scaled to l2 norm 1. Zero stays zero."""
    return delta / jnp.maximum(length(delta), TINY)


def halved(low: jax.Array, won: jax.Array) -> jax.Array:
    """Updates `low` in a binary search between the clean image and an adversarial one.

    `low` is the share of the distance to the adversarial image that is known to be too short. The
    query was about the middle. If it `won`, the middle replaces the adversarial image.
    """
    middle = (low + 1) / 2
    return jnp.where(won, low / middle, middle)
