"""The scores of CMAG and CMAG+, each a function of the outputs of victim and cascade.

Higher is more adversarial. All scores are differentiable, so a white-box attack can use their
gradients.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax._divergence import jensen_shannon
from cmag_jax.ssim import SSIM

# A pixel counts as wrong if its error exceeds PIXEL, or if four times its error minus the sum of
# its four neighbours' errors exceeds EDGE. Both lie above benign noise and below FGSM. The widths
# make the steps smooth.
PIXEL, PIXEL_WIDTH = 0.07, 0.01
EDGE, EDGE_WIDTH = 0.17, 0.03
TREMOR_TEMPERATURE = 4.0
RIDGE = 1e-3  # ridge penalty of the regressions on an image's context


class Evidence(NamedTuple):
    """An image and the outputs of victim and cascade for it."""

    images: jax.Array  # (B, H, W, C) x
    logits: jax.Array  # (B, K) f(x)
    fmr: jax.Array  # (B, H, W, C) FMR's image, from x's feature maps
    gr: jax.Array  # (B, H, W, C) x' of section 3.4
    logits_of_fmr: jax.Array  # (B, K) the victim's logits on FMR's image
    logits_moved: jax.Array  # (B, K) mean logits over the two shifts of x by a pixel (`move`)


def ssim(seen: Evidence, kind: str) -> jax.Array:
    """(B,) 1 - SSIM(x, x'), eq. 10, in [0, 2]."""
    return 1 - SSIM[kind](seen.images, seen.gr)


def l2(seen: Evidence) -> jax.Array:
    """(B,) ||x - x'||_2, eq. 3, in pixel units."""
    squared = jnp.sum((seen.images - seen.gr) ** 2, axis=(1, 2, 3))
    # Keeps the gradient finite: sqrt has an infinite slope at 0.
    return jnp.sqrt(jnp.maximum(squared, 1e-12))


def pixels(seen: Evidence) -> jax.Array:
    """(B,) the share of pixels that FMR rebuilds wrongly, in (0, 1).

    An attack changes all pixels. On a clean image FMR misses textures and edges: large errors in
    few places. A count of wrong pixels separates the two; a mean of errors does not. Benign noise
    stays below PIXEL.
    """
    error = jnp.abs(seen.images - seen.fmr)
    return _mean(jax.nn.sigmoid((error - PIXEL) / PIXEL_WIDTH))


def edges(seen: Evidence) -> jax.Array:
    """(B,) the share of pixels whose error differs from their four neighbours', in (0, 1).

    Where FMR's image is blurred, neighbours have similar errors and `pixels` counts them all. An
    attack's perturbation differs from pixel to pixel.
    """
    r = seen.images - seen.fmr
    beside = r[:, :-2, 1:-1] + r[:, 2:, 1:-1] + r[:, 1:-1, :-2] + r[:, 1:-1, 2:]
    return _mean(jax.nn.sigmoid((jnp.abs(4 * r[:, 1:-1, 1:-1] - beside) - EDGE) / EDGE_WIDTH))


def doubt(seen: Evidence) -> jax.Array:
    """(B,) the negative margin: the runner-up's logit minus the predicted class's.

    The nearest adversarial examples (CW at confidence 0) lie on the border between two classes.
    """
    best, _ = jax.lax.top_k(seen.logits, 2)
    return best[:, 1] - best[:, 0]


def tremor(seen: Evidence) -> jax.Array:
    """(B,) the logarithm of the Jensen-Shannon divergence, at temperature 4, between the victim's
    answers for x and for x moved by a pixel.

    A clean image keeps its class when it moves; a perturbation is made for its place.
    """
    here, moved = seen.logits / TREMOR_TEMPERATURE, seen.logits_moved / TREMOR_TEMPERATURE
    return jnp.log(jensen_shannon(here, moved) + 1e-5)


def drift(seen: Evidence) -> jax.Array:
    """(B,) the largest gain in log-odds of another class over the predicted one, from x to the
    mean over FMR's image and the two shifts of x.

    Roth et al., "The Odds are Odd" (2019), measure these log-odds under noise.
    """
    label = jax.nn.one_hot(jnp.argmax(seen.logits, axis=-1), seen.logits.shape[-1], dtype=bool)

    def beside(logits):
        own = jnp.sum(jnp.where(label, logits, 0.0), axis=-1, keepdims=True)
        return logits - own

    elsewhere = (seen.logits_of_fmr + 2 * seen.logits_moved) / 3  # mean over three images
    gains = beside(elsewhere) - beside(seen.logits)
    return jnp.max(jnp.where(label, -jnp.inf, gains), axis=-1)


def move(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Images (B, H, W, C) shifted by a pixel down and right, and up and left. Edges are
    repeated."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return padded[:, :-2, :-2], padded[:, 2:, 2:]


class Usual(NamedTuple):
    """Expected score and spread on clean images, given the context. The mean and the logarithm of
    the spread are linear in the context."""

    mean: jax.Array  # (F,)
    log_spread: jax.Array  # (F,)


def surprise(score: jax.Array, usual: Usual, seen: Evidence) -> jax.Array:
    """(B,) the score's distance above its expectation, in units of its spread."""
    about = context(seen)
    return (score - about @ usual.mean) / jnp.exp(about @ usual.log_spread)


def usual_of(score: jax.Array, about: jax.Array) -> Usual:
    """Fits `Usual` by least squares to a score (N,) and the contexts (N, F) of clean images.

    One fit is of the score, one of the logarithm of its deviations. A small ridge penalty covers
    classes without images. It runs on the host in float64, by an orthogonal decomposition: the
    contexts are nearly collinear, and with float32 normal equations the result depended on the
    order of summation.
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
    """(B, F) the context: properties of a clean image on which a score depends.

    These are the class, the victim's margin, and the image's detail, brightness and contrast. The
    last three come from FMR's image, because an attack changes it least.
    """
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
    """(B,) the mean over each image, as a product with a vector. On a CPU, XLA fuses a reduction
    with the sigmoid before it into one scalar loop, which is fifty times slower."""
    flat = _flat(x)
    weights = jnp.full(flat.shape[1], 1 / flat.shape[1], flat.dtype)
    return jnp.dot(flat, weights, precision="highest")


def _flat(x: jax.Array) -> jax.Array:
    """(B, H * W * C), also for an empty batch, for which reshape can't infer -1."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


# The scores that need the victim's logits on further images.
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
