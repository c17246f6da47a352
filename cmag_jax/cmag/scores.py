"""What can be held against an image: each score a function of what the cascade made of it.

All are higher the more adversarial an image looks, and differentiable, so that an attacker who
knows them gets their gradients.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax._divergence import jensen_shannon
from cmag_jax.ssim import SSIM

# What counts as rebuilt wrongly, above benign noise and below FGSM: a pixel that is off by more
# than PIXEL, or by more than EDGE from how far its four neighbours are off, summed. Around these
# a pixel counts in part, over the widths.
PIXEL, PIXEL_WIDTH = 0.07, 0.01
EDGE, EDGE_WIDTH = 0.17, 0.03
TREMOR_TEMPERATURE = 4.0
RIDGE = 1e-3  # of the regressions on an image's context


class Evidence(NamedTuple):
    """An image and what victim and cascade made of it."""

    images: jax.Array  # (B, H, W, C) x
    logits: jax.Array  # (B, K) f(x)
    fmr: jax.Array  # (B, H, W, C) FMR of x's feature maps
    gr: jax.Array  # (B, H, W, C) x' of section 3.4
    logits_of_fmr: jax.Array  # (B, K) f(FMR): what the victim makes of what it saw
    logits_moved: jax.Array  # (B, K) f of x moved by a pixel, the mean of two ways


def ssim(seen: Evidence, kind: str) -> jax.Array:
    """1 - SSIM(x, x'), eq. 10, in [0, 2]: (B,)."""
    return 1 - SSIM[kind](seen.images, seen.gr)


def l2(seen: Evidence) -> jax.Array:
    """||x - x'||_2, eq. 3, in units of the pixels: (B,)."""
    squared = jnp.sum((seen.images - seen.gr) ** 2, axis=(1, 2, 3))
    # An attacker who differentiates the score must not meet the infinite slope of sqrt at 0.
    return jnp.sqrt(jnp.maximum(squared, 1e-12))


def pixels(seen: Evidence) -> jax.Array:
    """The share of pixels that FMR rebuilds wrongly, in (0, 1): (B,).

    What an attack adds is on all pixels; what FMR can't rebuild of a legitimate image, a texture
    or an edge, is large but in few places. A count of pixels tells them apart where a mean of
    errors does not; and benign noise stays below what counts.
    """
    error = jnp.abs(seen.images - seen.fmr)
    return _mean(jax.nn.sigmoid((error - PIXEL) / PIXEL_WIDTH))


def edges(seen: Evidence) -> jax.Array:
    """The share of pixels whose error stands out from their four neighbours', in (0, 1): (B,).

    Where FMR's image is blurred, neighbours are off alike, and `pixels` counts them all; what an
    attack adds differs from pixel to pixel.
    """
    r = seen.images - seen.fmr
    beside = r[:, :-2, 1:-1] + r[:, 2:, 1:-1] + r[:, 1:-1, :-2] + r[:, 1:-1, 2:]
    return _mean(jax.nn.sigmoid((jnp.abs(4 * r[:, 1:-1, 1:-1] - beside) - EDGE) / EDGE_WIDTH))


def doubt(seen: Evidence) -> jax.Array:
    """How little the predicted class leads the runner-up by, negated, in logits: (B,). The nearest
    adversarial images (CW at confidence 0) lie on the border of two classes."""
    best, _ = jax.lax.top_k(seen.logits, 2)
    return best[:, 1] - best[:, 0]


def tremor(seen: Evidence) -> jax.Array:
    """The Jensen-Shannon divergence of what the victim says of x and of x moved by a pixel, at
    temperature 4, as its logarithm: (B,). A legitimate image is of its class wherever it stands;
    what an attack adds is made for its place."""
    here, moved = seen.logits / TREMOR_TEMPERATURE, seen.logits_moved / TREMOR_TEMPERATURE
    return jnp.log(jensen_shannon(here, moved) + 1e-5)


def drift(seen: Evidence) -> jax.Array:
    """How far the victim's mind moves, in logits, from the predicted class to the one that gains
    most, when it is shown FMR's image and x moved in x's place: (B,).

    The log-odds that Roth et al., "The Odds are Odd" (2019), watch under noise.
    """
    label = jax.nn.one_hot(jnp.argmax(seen.logits, axis=-1), seen.logits.shape[-1], dtype=bool)

    def beside(logits):
        own = jnp.sum(jnp.where(label, logits, 0.0), axis=-1, keepdims=True)
        return logits - own

    elsewhere = (seen.logits_of_fmr + 2 * seen.logits_moved) / 3  # three looks
    gains = beside(elsewhere) - beside(seen.logits)
    return jnp.max(jnp.where(label, -jnp.inf, gains), axis=-1)


def move(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images (B, H, W, C) moved by a pixel down and to the right, and up and to the left; the
    edge is repeated."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[:, :-2, :-2], padded[:, 2:, 2:]


class Usual(NamedTuple):
    """What a score is on legitimate images of a kind: a mean and a spread, both linear in the
    image's context."""

    mean: jax.Array  # (F,)
    log_spread: jax.Array  # (F,)


def surprise(score: jax.Array, usual: Usual, seen: Evidence) -> jax.Array:
    """The score (B,) in spreads above what is usual for such images: (B,)."""
    about = context(seen)
    return (score - about @ usual.mean) / jnp.exp(about @ usual.log_spread)


def usual_of(score: jax.Array, about: jax.Array) -> Usual:
    """Least squares, of a score (N,) and of the logarithm of its deviations, on the contexts (N, F)
    of legitimate images; a touch of ridge for classes that never come.

    On the host in float64, by an orthogonal decomposition: the contexts are nearly collinear, and
    in float32's normal equations the order of the sums decided on the solution.
    """
    x, y = (np.asarray(array, np.float64) for array in (about, score))
    rows = np.concatenate([x, np.sqrt(RIDGE) * np.eye(x.shape[1])])

    def fit(target):
        padded = np.concatenate([target, np.zeros(x.shape[1])])
        return np.linalg.lstsq(rows, padded, rcond=None)[0]

    mean = fit(y)
    log_spread = fit(np.log(np.abs(y - x @ mean) + 1e-3))
    return Usual(jnp.asarray(mean, jnp.float32), jnp.asarray(log_spread, jnp.float32))


def context(seen: Evidence) -> jax.Array:
    """(B, F): what a score may depend on without an attack: the class, the victim's lead, how
    busy, bright and contrasted the image is. Of FMR's image, which an attack changes least."""
    x = seen.fmr
    flat = _flat(x)
    rows, columns = jnp.diff(x, axis=1), jnp.diff(x, axis=2)
    busy = _mean(jnp.abs(rows)) + _mean(jnp.abs(columns))
    edges = _mean(jnp.abs(jnp.diff(rows, axis=1))) + _mean(jnp.abs(jnp.diff(columns, axis=2)))
    mean = jnp.mean(flat, axis=-1)
    spread = jnp.sqrt(jnp.mean((flat - mean[:, None]) ** 2, axis=-1) + 1e-6)
    about = [jnp.log(busy + 1e-3), jnp.log(edges + 1e-3), mean, spread]
    lead = -doubt(seen)
    leads = [lead / 10, jnp.minimum(lead, 3) / 3, jnp.minimum(lead, 1), jnp.exp(-lead / 5)]
    label = jax.nn.one_hot(
        jnp.argmax(seen.logits, axis=-1), seen.logits.shape[-1], dtype=jnp.float32
    )
    numbers = jnp.stack([*about, *(a**2 for a in about), *leads], axis=-1)
    return jnp.concatenate([numbers, label], axis=-1)


def _mean(x: jax.Array) -> jax.Array:
    """Of each image (B,). As a product with a vector: XLA on a CPU would make one scalar loop of
    a reduction and the sigmoid before it, fifty times slower."""
    flat = _flat(x)
    weights = jnp.full(flat.shape[1], 1 / flat.shape[1], flat.dtype)
    return jnp.dot(flat, weights, precision="highest")


def _flat(x: jax.Array) -> jax.Array:
    """(B, all of an image), also of no images, of which -1 would be anything."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


# The scores for which the victim is asked again.
ASK_AGAIN = ("drift", "tremor")

SCORES: dict[str, Any] = {
    "ssim": ssim,
    "l2": l2,
    "pixels": pixels,
    "edges": edges,
    "doubt": doubt,
    "tremor": tremor,
    "drift": drift,
}
