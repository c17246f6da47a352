"""Feature squeezing, the detector of Xu, Evans and Qi (NDSS 2018).

Squeezers remove colour depth (section III-A) and detail (section III-B) that people would not miss.
On a clean image this hardly changes the victim's probabilities. The score is the change. The
detector has no training.

    params, _ = feature_squeezing.fit(key, victim, clean_images)
    clean_scores = feature_squeezing.score(victim, params, held_out_images)
    thresholds = feature_squeezing.calibrate(clean_scores, fpr=0.01)
    flags = feature_squeezing.detect(feature_squeezing.score(victim, params, images), thresholds)

The paper's third squeezer, non-local means (section III-B, for CIFAR-10 and ImageNet), is left out.
"""

import dataclasses
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cmag_jax._checks import check_images, check_sequence, of_none
from cmag_jax.protocol import CleanImages, Losses
from cmag_jax.thresholds import Scores, Thresholds
from cmag_jax.thresholds import calibrate as calibrate
from cmag_jax.thresholds import combine as combine
from cmag_jax.thresholds import detect as detect
from cmag_jax.victim import Images as Images
from cmag_jax.victim import Victim as Victim
from cmag_jax.victim import ready

__all__ = [
    "CLASSIFIES_REBUILT",
    "FROM_HELD_OUT",
    "MEDIAN_SIZES",
    "MODULES",
    "PAPER_FPR",
    "PAPER_RULE_ON",
    "SLOW",
    "FeatureSqueezingConfig",
    "FeatureSqueezingParams",
    "FitInfo",
    "approximate_score",
    "bit_depth",
    "calibrate",
    "combine",
    "detect",
    "differentiable_score",
    "fit",
    "fit_module",
    "init",
    "median_smooth",
    "paper_thresholds",
    "rebuild",
    "score",
    "surrogate",
]


def __dir__() -> list[str]:
    return __all__


MEDIAN_SIZES = (2, 3)  # pixels across the window, as in the paper
MODULES = FROM_HELD_OUT = ()  # no training
PAPER_RULE_ON: CleanImages = "held-out"
CLASSIFIES_REBUILT = False
SLOW = False
PAPER_FPR = 0.05  # section V


@dataclasses.dataclass(frozen=True)
class FeatureSqueezingConfig:
    """The squeezers. Defaults are the paper's best joint detector for MNIST (section V).

    The paper's best for CIFAR-10 is `bits=(5,), medians=(2,)` with non-local means.
    """

    bits: tuple[int, ...] = (1,)  # bits per colour, one squeezer for each; section III-A
    medians: tuple[int, ...] = (2,)  # pixels across the window, one squeezer for each; III-B

    def __post_init__(self):
        check_sequence(self, "bits", "medians")
        if not (*self.bits, *self.medians):
            raise ValueError("expected at least one squeezer in bits and medians, got none")
        for bits in self.bits:
            _check_bits(bits)
        for size in self.medians:
            _check_size(size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureSqueezingParams:
    """The configuration and the image shape: a pytree without leaves, since there are no
    weights."""

    config: FeatureSqueezingConfig = dataclasses.field(metadata={"static": True})
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})


class FitInfo(NamedTuple):
    """Empty: there is no training."""


def fit(
    key: jax.Array,
    victim: Victim,
    images: Images,
    config: FeatureSqueezingConfig | None = None,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[FeatureSqueezingParams, FitInfo]:
    """The params for images of this shape (N, H, W, C) float32 in [0, 1]. There is no training:
    the arguments are those of every detector, and `on_epoch` is never called.

    Raises:
      ValueError: images of the wrong shape, type or range.
    """
    check_images(images)
    return init(key, victim, images, config or FeatureSqueezingConfig()), FitInfo()


def init(
    key: jax.Array, victim: Victim, images: Images, config: FeatureSqueezingConfig
) -> FeatureSqueezingParams:
    """The same params as from `fit`. Works under `jax.eval_shape`."""
    _, height, width, channels = images.shape
    return FeatureSqueezingParams(config, (height, width, channels))


def fit_module(
    name: str,
    key: jax.Array,
    victim: Victim,
    params: FeatureSqueezingParams,
    images: Images,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[FeatureSqueezingParams, Losses]:
    """Only for the common interface: there are no modules.

    Raises:
      ValueError: always.
    """
    raise ValueError(f"expected a module among {MODULES}, got {name!r}")


def score(victim: Victim, params: FeatureSqueezingParams, images: Images) -> dict[str, jax.Array]:
    """How much squeezing images (B, H, W, C) float32 in [0, 1] changes the victim's probabilities.
    Jitted.

    The gradient is exact. Rounding is flat, so an image squeezed in bit depth passes no gradient
    back. Adaptive attacks need `differentiable_score`.

    Returns:
      "l1" (B,): the largest ||softmax(z(x)) - softmax(z(squeezed x))||_1 over the squeezers, in
      [0, 2] (section V). Higher is more adversarial.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    return _checked_score(victim, params, images, straight_through=False)


def differentiable_score(
    victim: Victim, params: FeatureSqueezingParams, images: Images
) -> dict[str, jax.Array]:
    """The values of `score` with another gradient: in the backward pass, rounding is the identity
    (BPDA of Athalye, Carlini and Wagner, 2018, section 4.1). For adaptive attacks. Jitted."""
    return _checked_score(victim, params, images, straight_through=True)


def approximate_score(
    victim: Victim, params: FeatureSqueezingParams, images: Images
) -> dict[str, jax.Array]:
    """Deprecated: the old name of `differentiable_score`."""
    warnings.warn("approximate_score is now differentiable_score", DeprecationWarning, stacklevel=2)
    return differentiable_score(victim, params, images)


def paper_thresholds(params: FeatureSqueezingParams, clean_scores: Scores) -> Thresholds:
    """Thresholds at the paper's false-positive rate, 5% (section V)."""
    return calibrate(clean_scores, fpr=PAPER_FPR)


def rebuild(victim: Victim, params: FeatureSqueezingParams, images: Images) -> None:
    """None: the detector makes no reconstruction."""


def surrogate(
    params: FeatureSqueezingParams, *, search_steps: int, restarts: int
) -> FeatureSqueezingParams:
    """The params unchanged: a score is cheap enough for an adaptive attack."""
    return params


def bit_depth(images: Images, bits: int) -> jax.Array:
    """Images (B, H, W, C) in [0, 1] with 2**bits levels per colour (section III-A): round(x
    (2**bits - 1)) / (2**bits - 1). Halves round to the even level, as in the authors' code.

    Raises:
      ValueError: bits outside 1 to 8; images of the wrong shape, type or range.
    """
    _check_bits(bits)
    check_images(images)
    levels = 2**bits - 1
    return jnp.round(jnp.asarray(images) * levels) / levels


def median_smooth(images: Images, size: int) -> jax.Array:
    """Images (B, H, W, C) with each pixel replaced by the median of the `size` x `size` window
    around it, per channel (section III-B). Equal to the authors'
    `scipy.ndimage.median_filter(images, (1, size, size, 1))`. Differentiable.

    Images are mirrored at the border, with the outermost pixels repeated. A 2x2 window extends up
    and to the left; the median of its four pixels is the second largest.

    Raises:
      ValueError: a size other than 2 and 3; images of the wrong shape, type or range.
    """
    _check_size(size)
    check_images(images)
    x = jnp.asarray(images)
    # Each column is sorted once, for all windows that contain it. Then only a few of the sorted
    # pixels can be the median.
    if size == 2:
        above, _, _ = _three(x, 1)
        low, high = _sort_2(above, x)
        left_low, _, _ = _three(low, 2)
        left_high, _, _ = _three(high, 2)
        return jnp.maximum(jnp.minimum(left_high, high), jnp.maximum(left_low, low))
    low, middle, high = _sort_3(*_three(x, 1))
    _, _, highest_low = _sort_3(*_three(low, 2))
    _, middle, _ = _sort_3(*_three(middle, 2))
    lowest_high, _, _ = _sort_3(*_three(high, 2))
    _, median, _ = _sort_3(highest_low, middle, lowest_high)
    return median


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_bits(bits: int) -> None:
    if not _is_whole(bits) or bits not in range(1, 9):
        raise ValueError(f"expected bits from 1 to 8, got {bits!r}")


def _check_size(size: int) -> None:
    if not _is_whole(size) or size not in MEDIAN_SIZES:
        raise ValueError(f"expected a median's size of 2 or 3, got {size!r}")


def _three(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(previous neighbours, pixels, next neighbours); an outermost pixel is its own neighbour."""
    size = x.shape[axis]

    def part(start, stop):
        return lax.slice_in_dim(x, start, stop, axis=axis)

    before = jnp.concatenate([part(0, 1), part(0, size - 1)], axis)
    after = jnp.concatenate([part(1, size), part(size - 1, size)], axis)
    return before, x, after


def _sort_2(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.minimum(a, b), jnp.maximum(a, b)


def _sort_3(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    a, b = _sort_2(a, b)
    b, c = _sort_2(b, c)
    a, b = _sort_2(a, b)
    return a, b, c


def _squeezed(images: jax.Array, config: FeatureSqueezingConfig, straight_through: bool):
    """Yields the images after each squeezer."""
    for bits in config.bits:
        rounded = bit_depth(images, bits)
        # The added term is 0, with the gradient of the images.
        yield rounded + (images - lax.stop_gradient(images)) if straight_through else rounded
    for size in config.medians:
        yield median_smooth(images, size)


def _checked_score(victim, params, images, *, straight_through: bool) -> dict[str, jax.Array]:
    check_images(images, params.image_shape)
    function = partial(_score, ready(victim), params, straight_through=straight_through)
    return function(images) if images.shape[0] else of_none(function, images)


@partial(jax.jit, static_argnames="straight_through")
def _score(victim, params, images, *, straight_through: bool) -> dict[str, jax.Array]:
    def probabilities(x):
        _, logits = victim(x)
        return jax.nn.softmax(logits, axis=-1)

    original = probabilities(images)
    distances = [
        jnp.sum(jnp.abs(original - probabilities(squeezed)), axis=-1)
        for squeezed in _squeezed(images, params.config, straight_through)
    ]
    return {"l1": jnp.max(jnp.stack(distances), axis=0)}
