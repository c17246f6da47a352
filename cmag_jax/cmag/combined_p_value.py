"""One combined p-value from several scores.

One threshold per score wastes information. To flag one clean image in a hundred by any of six
scores, each score may flag only about one in five hundred, and an image whose scores are all a
little high is not flagged. So each score becomes a p-value, the share of clean images that score
as high. The p-values are averaged by a mean of order -0.3 (Vovk and Wang, "Combining p-values via
averaging", 2020). The arithmetic mean would hide one tiny p-value among large ones; the minimum
would be the same as one threshold per score.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax.thresholds import Scores

# Chosen on attacked validation images. 0 is the geometric mean (Fisher's), -inf the minimum.
ORDER = -0.3
LEVELS = 33  # stored quantiles of a score, from a share of 1 to a share of 1 / N
TAIL = 0.02  # above the last quantile, the log share falls with the slope from TAIL to 1 / N


class Tails(NamedTuple):
    """The null distribution of S scores: their quantiles on clean images."""

    values: jax.Array  # (S, LEVELS), rising; scores are sorted by name
    log_shares: jax.Array  # (LEVELS,), falling from 0: log share of clean images that score as high


def tails(scores: Scores) -> Tails:
    """The null distribution from the scores of clean images. Each score is (N,), N at least 2.

    Use held-out images: victims are over-confident on their training data, so that other clean
    images would look rare.
    """
    count = len(next(iter(scores.values())))
    shares = float(count) ** -np.linspace(0, 1, LEVELS)
    values = np.stack(
        [np.quantile(np.asarray(scores[name], np.float64), 1 - shares) for name in sorted(scores)]
    )
    # Keeps levels apart where many images have the same score: `_log_share` divides by differences.
    apart = 1e-5 * (np.ptp(values, axis=1, keepdims=True) + 1e-3)
    values = values + apart * np.arange(LEVELS)
    return Tails(jnp.asarray(values, jnp.float32), jnp.asarray(np.log(shares), jnp.float32))


def rarity(scores: Scores, of: Tails) -> jax.Array:
    """Minus the logarithm of the combined p-value of the scores, each (B,).

    Returns (B,), at least 0; higher is rarer among clean images. It is differentiable where some
    score is above the lowest clean one.
    """
    stacked = jnp.stack([scores[name] for name in sorted(scores)])  # jit sorts dicts too
    logs = jax.vmap(_log_share, in_axes=(0, 0, None))(stacked, of.values, of.log_shares)
    summed = jax.nn.logsumexp(ORDER * logs, axis=0) - jnp.log(float(len(scores)))
    return summed / -ORDER


def untold(scores: int) -> Tails:
    """Placeholder tails for that many scores, before fitting."""
    shares = jnp.linspace(0.0, -1.0, LEVELS, dtype=jnp.float32)
    return Tails(jnp.tile(-shares, (scores, 1)), shares)


def _log_share(score: jax.Array, values: jax.Array, log_shares: jax.Array) -> jax.Array:
    """The logarithm of the share of clean images that score as high: (B,)."""
    within = jnp.interp(score, values, log_shares)
    start = jnp.argmax(log_shares <= jnp.log(TAIL))
    start = jnp.where(start == LEVELS - 1, 0, start)  # too few images for a share of TAIL
    slope = (log_shares[start] - log_shares[-1]) / (values[-1] - values[start])
    return within - slope * jnp.maximum(score - values[-1], 0.0)
