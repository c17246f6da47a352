"""Shared parts of the Carlini and Wagner attacks: tanh space, rounds of gradient steps that end
when they stall, the binary search over c, and the nearest success so far."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from attacks_jax._base import Images
from attacks_jax._batch_ops import select

# Scale pixels into the open interval before arctanh, as in the authors' code.
INSIDE = 0.999999
# A round stalls when a tenth of its steps leaves the loss above this share of the loss before.
WORTHWHILE = 0.9999
# Without an upper bound, the search multiplies c by this, as in the authors' code.
GROWTH = 10.0


def to_tanh_space(images: Images, bounds: tuple[float, float]) -> jax.Array:
    """Maps images to tanh space, where every step stays within the bounds."""
    low, high = bounds
    return jnp.arctanh(INSIDE * (2.0 * (images - low) / (high - low) - 1.0))


def to_images(w: jax.Array, bounds: tuple[float, float]) -> Images:
    """Maps back from tanh space. The images are exactly within the bounds."""
    low, high = bounds
    return jnp.clip(low + (high - low) * (jnp.tanh(w) + 1.0) / 2.0, low, high)


class Best(NamedTuple):
    """The nearest success; before the first success, the image with the largest margin."""

    images: Images  # (B, H, W, C)
    distance: jax.Array  # (B,) the attack's objective; inf before the first success
    margin: jax.Array  # (B,) the attacker's margin of `images`


def only_clean(images: Images, margin: jax.Array, already: jax.Array) -> Best:
    """Returns `Best` before the first step. `already` (B,) marks adversarial clean images."""
    distance = jnp.where(already, jnp.float32(0.0), jnp.inf)
    return Best(images, distance, margin)


def nearest(
    best: Best, images: Images, distance: jax.Array, margin: jax.Array, won: jax.Array
) -> Best:
    """Returns the better of `best` and `images`. `won` (B,) marks adversarial images."""
    found = jnp.isfinite(best.distance)
    better = jnp.where(won, distance < best.distance, ~found & (margin > best.margin))
    return select(better, Best(images, jnp.where(won, distance, jnp.inf), margin), best)


class Rounds(NamedTuple):
    """Each example's progress in its rounds of gradient steps."""

    behind: jax.Array  # (B,) int32: finished rounds
    iteration: jax.Array  # (B,) int32: steps within the round
    last_loss: jax.Array  # (B,) the loss at the last test for a stall


def first_round(batch: int) -> Rounds:
    """Returns `Rounds` before the first step."""
    zeros = jnp.zeros(batch, jnp.int32)
    return Rounds(zeros, zeros, jnp.full(batch, jnp.inf, jnp.float32))


def advance(
    rounds: Rounds, loss: jax.Array, *, steps: int, abort_early: bool, solved: jax.Array | bool
) -> tuple[Rounds, jax.Array]:
    """Counts one step. Returns the rounds, and whether the step ends its round (B,).

    A round ends after `steps`, or when it is `solved`, or when it stalls with `abort_early`.
    """
    iteration = rounds.iteration + 1
    looks = iteration % max(steps // 10, 1) == 0
    stalled = looks & ~(loss <= WORTHWHILE * rounds.last_loss)  # true for NaN too
    ends = solved | (iteration >= steps) | (stalled & abort_early)
    going_on = Rounds(rounds.behind, iteration, jnp.where(looks, loss, rounds.last_loss))
    anew = first_round(len(loss))._replace(behind=rounds.behind + 1)
    return select(ends, anew, going_on), ends


class Bisection(NamedTuple):
    """Each example's binary search for the smallest c, the weight of the classification term."""

    const: jax.Array  # (B,) c
    lower: jax.Array  # (B,) the largest c that failed
    upper: jax.Array  # (B,) the smallest c that succeeded, or inf
    won: jax.Array  # (B,) bool: whether this c has succeeded


def start_bisection(const: float | jax.Array, batch: int) -> Bisection:
    """Returns the search at its first c, without bounds."""
    first, zeros, infinite = (jnp.full(batch, v, jnp.float32) for v in (const, 0.0, jnp.inf))
    return Bisection(first, zeros, infinite, jnp.zeros(batch, bool))


def bisect(search: Bisection, won: jax.Array, ends: jax.Array) -> Bisection:
    """Records `won`. Where a round `ends`, halves the interval, or grows c without a bound."""
    won = search.won | won
    upper = jnp.where(won, jnp.minimum(search.upper, search.const), search.upper)
    lower = jnp.where(won, search.lower, jnp.maximum(search.lower, search.const))
    const = jnp.where(jnp.isfinite(upper), (lower + upper) / 2.0, search.const * GROWTH)
    anew = Bisection(const, lower, upper, jnp.zeros_like(won))
    return select(ends, anew, search._replace(won=won))
