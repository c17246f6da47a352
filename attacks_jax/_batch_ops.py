"""Operations on each example of a batch: selection, norms, projections, random draws."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

Norm = Literal["linf", "l2", "l1", "l0"]
PIXELS = (1, 2, 3)  # the axes of one image in a batch
TINY = 1e-12  # smallest denominator: zero divided by its norm stays zero


def expand(values: jax.Array, like: jax.Array) -> jax.Array:
    """Returns one value per example (B,), reshaped to broadcast over `like` (B, ...)."""
    return values.reshape(values.shape + (1,) * (jnp.ndim(like) - 1))


def select(condition: jax.Array, if_true: Any, if_false: Any) -> Any:
    """`where` over two pytrees whose leaves are (B, ...); condition is (B,) bool."""

    def leaf(a, b):
        return jnp.where(expand(condition, a), a, b)

    return jax.tree.map(leaf, if_true, if_false)


def freeze(state: Any, moved: Any) -> Any:
    """Returns the state after a step: rows of `state` for examples already done, else of `moved`.

    The oracle's state is always that of `moved`: a stateful oracle has seen the whole batch.
    """
    kept = select(state.done, state._replace(oracle_state=()), moved._replace(oracle_state=()))
    return kept._replace(oracle_state=moved.oracle_state)


def width(bounds: tuple[float, float]) -> float:
    """Returns the pixel range, the unit of distances that are weighed against logits and of
    learning rates that are steps. In this unit results do not depend on the bounds."""
    low, high = bounds
    return high - low


def norm(perturbation: jax.Array, kind: Norm) -> jax.Array:
    """Returns the norm (B,) of each perturbation (B, H, W, C). l0 counts pixels, not channels."""
    if kind == "linf":
        return jnp.max(jnp.abs(perturbation), axis=PIXELS, initial=0.0)
    if kind == "l2":
        return jnp.sqrt(jnp.sum(perturbation**2, axis=PIXELS))
    if kind == "l1":
        return jnp.sum(jnp.abs(perturbation), axis=PIXELS)
    changed = jnp.any(perturbation != 0, axis=-1)
    return jnp.sum(changed, axis=(1, 2)).astype(jnp.float32)


def steepest(gradient: jax.Array, kind: Norm) -> jax.Array:
    """Returns the steepest-ascent direction (B, H, W, C) of norm 1 for each gradient."""
    if kind == "linf":
        return jnp.sign(gradient)
    return gradient / jnp.maximum(expand(norm(gradient, "l2"), gradient), TINY)


def accumulate(momentum: jax.Array, gradient: jax.Array, decay: Any) -> jax.Array:
    """Returns MI-FGSM's momentum (B, H, W, C): decay * momentum + each gradient at l1 norm 1."""
    length = expand(norm(gradient, "l1"), gradient)
    return decay * momentum + gradient / jnp.maximum(length, TINY)


def project(
    images: jax.Array, clean: jax.Array, eps: Any, kind: Norm, bounds: tuple[float, float]
) -> jax.Array:
    """Projects each image onto the ball of radius `eps` around its clean image, and the bounds."""
    if kind == "linf":
        return jnp.clip(jnp.clip(images, clean - eps, clean + eps), *bounds)
    delta = images - clean
    length = expand(norm(delta, "l2"), delta)
    return jnp.clip(clean + delta * jnp.minimum(1.0, eps / jnp.maximum(length, TINY)), *bounds)


def random_start(
    keys: jax.Array, clean: jax.Array, eps: Any, kind: Norm, bounds: tuple[float, float]
) -> jax.Array:
    """Draws uniformly from the ball of radius `eps` around each clean image, then clips."""

    def draw(key, image):
        if kind == "linf":
            return eps * jax.random.uniform(key, image.shape, image.dtype, -1.0, 1.0)
        # The first n coordinates of a point on the sphere in n + 2 dimensions fill the n-ball.
        normal = jax.random.normal(key, (image.size + 2,), image.dtype)
        return eps * (normal / jnp.linalg.norm(normal))[: image.size].reshape(image.shape)

    return jnp.clip(clean + jax.vmap(draw)(keys, clean), *bounds)


def example_keys(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns one key per example (B,), made from `key` and the image's pixels.

    The position in the batch has no influence, so that an image gets the same random draws alone,
    in any batch, and in any chunk.
    """
    bits = lax.bitcast_convert_type(images.reshape(images.shape[0], -1), jnp.uint32)
    with jax.ensure_compile_time_eval():  # odd multipliers; sums modulo 2^32 are exact in any order
        odd = jax.random.bits(jax.random.key(0), bits.shape[1:], jnp.uint32) | 1
    digests = jnp.sum((bits ^ (bits >> 15)) * odd, axis=1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, digests)


def fold(keys: jax.Array, number: Any) -> jax.Array:
    """Folds a number into each example's key (B,): one for all, or one per example (B,)."""
    return jax.vmap(jax.random.fold_in)(keys, jnp.broadcast_to(number, keys.shape))
