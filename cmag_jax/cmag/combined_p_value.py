"""Several scores as one: how rare they are, together, among legitimate images.

A threshold for each of several scores wastes most of what they know: to flag one legitimate image
in a hundred by any of six, each may flag one in some five hundred, and nothing is made of scores
that are all a little high. So each score becomes the share of legitimate images that score as
high, a p-value, and these are averaged: not by the arithmetic mean, which forgives one tiny share
for the sake of the others, nor by the smallest, which is the threshold for each, but by a mean
of order -0.3 (Vovk and Wang, "Combining p-values via averaging", 2020).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax.thresholds import Scores

# Chosen on attacked validation images: 0 is the geometric mean (Fisher's), -inf the smallest.
ORDER = -0.3
LEVELS = 33  # at which a score's distribution is known, from all legitimate images to the last
TAIL = 0.02  # beyond the last the share goes on falling, as fast as from this share to the last


class Tails(NamedTuple):
    """What each of S scores exceeds on legitimate images, and how seldom."""

    values: jax.Array  # (S, LEVELS), rising; the scores in their names' order
    log_shares: jax.Array  # (LEVELS,), falling from 0: of the images that score as high


def tails(scores: Scores) -> Tails:
    """Of the scores of legitimate images, each (N,), N at least 2. On images that a victim learnt
    from its doubts are rarer than on others, so that every other one would look rare: images that
    were held out are asked for."""
    count = len(next(iter(scores.values())))
    shares = float(count) ** -np.linspace(0, 1, LEVELS)
    values = np.stack(
        [np.quantile(np.asarray(scores[name], np.float64), 1 - shares) for name in sorted(scores)]
    )
    # No two levels alike, where a score is the same for many images: slopes are divided by it.
    apart = 1e-5 * (np.ptp(values, axis=1, keepdims=True) + 1e-3)
    values = values + apart * np.arange(LEVELS)
    return Tails(jnp.asarray(values, jnp.float32), jnp.asarray(np.log(shares), jnp.float32))


def rarity(scores: Scores, of: Tails) -> jax.Array:
    """Minus the logarithm of the mean, of order -0.3, of the shares of legitimate images that score
    as high as these do, each (B,): (B,), at least 0, higher the rarer. Differentiable wherever
    some score is above the lowest legitimate one."""
    stacked = jnp.stack([scores[name] for name in sorted(scores)])  # as jit returns a dict
    logs = jax.vmap(_log_share, in_axes=(0, 0, None))(stacked, of.values, of.log_shares)
    summed = jax.nn.logsumexp(ORDER * logs, axis=0) - jnp.log(float(len(scores)))
    return summed / -ORDER


def untold(scores: int) -> Tails:
    """Tails of nothing yet, of that many scores."""
    shares = jnp.linspace(0.0, -1.0, LEVELS, dtype=jnp.float32)
    return Tails(jnp.tile(-shares, (scores, 1)), shares)


def _log_share(score: jax.Array, values: jax.Array, log_shares: jax.Array) -> jax.Array:
    """The logarithm of the share of legitimate images that score as high: (B,)."""
    within = jnp.interp(score, values, log_shares)
    start = jnp.argmax(log_shares <= jnp.log(TAIL))
    start = jnp.where(start == LEVELS - 1, 0, start)  # too few images to have such a share
    slope = (log_shares[start] - log_shares[-1]) / (values[-1] - values[start])
    return within - slope * jnp.maximum(score - values[-1], 0.0)
