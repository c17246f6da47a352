"""AMI detects adversarial faces by steering a network towards the attributes of a face.

It strengthens the neurons that respond to attributes (the witnesses) and weakens the others. It
flags an image whose label changes. (Tao et al., "Attacks Meet Interpretability: Attribute-steered
Detection of Adversarial Samples", NeurIPS 2018.)

This follows the paper (section 3), and its authors' code where the paper leaves something open
(AmIAttribute/AmI on GitHub, read in 2026; nothing is copied):

- A neuron of a convolution is a whole feature map. Its value is the sum of the map after the ReLU.
  A witness of an attribute is a neuron that, in all of the image pairs, changes by more than the
  median of its layer when the attribute is substituted, and by no more than the median when it is
  preserved. The witnesses of the four attributes are pooled.
- v is a neuron's value; mu, sigma and min describe the layer's witnesses in the same image.
  Weakening: v > mu of a non-witness becomes v exp(-(v - mu) / (100 sigma)).
  Strengthening: v of a witness becomes v (1.15 + 1 - exp(-(v - min) / (60 sigma))).
  With sigma = 0 the quotients are 0. A layer without witnesses does not change.
- "Attribute-conserving transformation": at pool3 the margin of every weakened map, 1/14 of each
  side, is cut off, and the rest is enlarged to the map's size.

Differences from the paper: the regions of the attributes are fixed boxes, so faces must be in
roughly the same place (the authors use dlib's landmarks and warp the region). Pooling layers are
not steered again, and the transformation comes before pool3. In a slim network no neuron passes
in thirty pairs, so five pairs are used.

On the ORL faces (slim VGG, five pairs) AMI finds far fewer attacks than on VGG-Face. We swept all
its parameters there, and tuning does not help: more witnesses and a larger gain change little, and
stronger weakening (100 -> 10 -> 3 -> 1) flags clean faces as much as attacks. At a false-positive
rate of 0.1, as in the paper, it flags about half of CW's images and a tenth of BIM's, whose labels
are too confident to change. Of the FGSM images that are found with the paper's parameters, the
attribute-conserving transformation finds nine in ten.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.runtime import checks
from experiments.victims.blocks import ConvUnit

# (top, bottom, left, right) as shares of the image's height and width: the regions in the mean of
# the ORL faces, with room for turned heads. Left means left in the image.
ATTRIBUTES = {
    "left eye": (0.38, 0.52, 0.20, 0.47),
    "right eye": (0.38, 0.52, 0.53, 0.80),
    "nose": (0.46, 0.66, 0.38, 0.62),
    "mouth": (0.66, 0.80, 0.30, 0.70),
}
MARGIN = 1 / 14  # the authors': 2 of pool3's 28 pixels


@dataclass(frozen=True)
class AMIConfig:
    """AMI's parameters (section 3)."""

    pairs: int = 5  # pairs of the base face and another that must agree; the authors use about 30
    weakening: float = 100.0  # alpha
    strengthening: float = 60.0  # beta
    gain: float = 1.15  # epsilon
    conserve: int | None = 6  # the layer before pool3: VGG's seventh convolution

    def __post_init__(self) -> None:
        checks.counts(self, "pairs")
        checks.counts(self, "conserve", least=0)
        checks.above_zero(self, "weakening", "strengthening", "gain", most=1e6)


class AMI(NamedTuple):
    """A classifier and its attribute witnesses (a pytree)."""

    logits: Partial  # images -> logits
    witnesses: tuple[jax.Array, ...]  # for each layer, (channels,) bool


def fit(logits: Partial, faces: np.ndarray, config: AMIConfig) -> AMI:
    """Finds the witnesses by bi-directional reasoning (section 3.2).

    Args:
      logits: images (B, H, W, C) -> (B, K), bound to a network without branches: convolutions
        (`ConvUnit`), each with a ReLU, then dense layers.
      faces: (1 + pairs, H, W, C), each of a different person; the base face is first.
    """
    base, others = faces[:1], faces[1 : 1 + config.pairs]
    found: list[jax.Array] = []
    for box in ATTRIBUTES.values():
        inside = mask(box, faces.shape[1:3])
        substituted = _changes(logits, base, np.where(inside, others, base))
        preserved = _changes(logits, base, np.where(inside, base, others))
        of_attribute = [_agreed(s, p) for s, p in zip(substituted, preserved, strict=True)]
        found = [a | b for a, b in zip(found or of_attribute, of_attribute, strict=True)]
    return AMI(logits, tuple(found))


@functools.partial(jax.jit, static_argnames="config")
def detect(ami: AMI, images: jax.Array, config: AMIConfig) -> jax.Array:
    """(B, H, W, C) -> (B,) bool: whether the attribute-steered model predicts another class."""

    def steer(number, values):
        return _steer(values, ami.witnesses[number], config, conserve=number == config.conserve)

    steered = _visited(ami.logits, images, steer)
    return jnp.argmax(steered, axis=-1) != jnp.argmax(ami.logits(images), axis=-1)


def mask(box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    """Returns (H, W, 1) bool: the pixels whose centres are in the box."""
    rows, columns = ((np.arange(n) + 0.5) / n for n in size)
    top, bottom, left, right = box
    inside = ((rows >= top) & (rows < bottom))[:, None] & (columns >= left) & (columns < right)
    return inside[..., None]


def _visited(logits: Partial, images: jax.Array, visit: Callable) -> jax.Array:
    """Returns the logits, with visit(number, activations) replacing each layer's activations."""
    numbers = itertools.count()

    def intercept(function, args, kwargs, context):
        values = function(*args, **kwargs)
        hidden = isinstance(context.module, nn.Dense) and context.module.name != "logits"
        if context.method_name != "__call__" or not (
            hidden or isinstance(context.module, ConvUnit)
        ):
            return values
        return visit(next(numbers), nn.relu(values))  # a dense layer's caller applies the ReLU

    with nn.intercept_methods(intercept):
        return logits(images)


@jax.jit
def _changes(logits: Partial, base: jax.Array, mutated: jax.Array) -> list[jax.Array]:
    """Returns for each layer (N, channels): the summed absolute change from the base face."""
    kept: list[jax.Array] = []

    def keep(_, values):
        kept.append(values)
        return values

    _visited(logits, jnp.concatenate([base, mutated]), keep)
    return [_sums(jnp.abs(values[1:] - values[:1])) for values in kept]


def _agreed(substituted: jax.Array, preserved: jax.Array) -> jax.Array:
    """(N, channels) changes of both kinds -> (channels,) bool: the witnesses."""
    moved = substituted > jnp.median(substituted, axis=1, keepdims=True)
    stayed = preserved <= jnp.median(preserved, axis=1, keepdims=True)
    return jnp.all(moved & stayed, axis=0)


def _steer(
    values: jax.Array, witness: jax.Array, config: AMIConfig, *, conserve: bool
) -> jax.Array:
    """Strengthens witnesses and weakens other neurons of activations (B, ..., channels) (3.3)."""
    sums = _sums(values)
    count = jnp.maximum(jnp.sum(witness), 1)
    mean = jnp.sum(sums * witness, axis=1, keepdims=True) / count
    variance = jnp.sum((sums - mean) ** 2 * witness, axis=1, keepdims=True) / count
    least = jnp.min(jnp.where(witness, sums, jnp.inf), axis=1, keepdims=True)
    sigma = jnp.where(variance > 0, jnp.sqrt(variance), jnp.inf)  # the quotients are then 0

    weakened = ~witness & (sums > mean) & jnp.any(witness)
    weaker = jnp.exp(-(sums - mean) / (config.weakening * sigma))
    stronger = config.gain + 1 - jnp.exp(-(sums - least) / (config.strengthening * sigma))
    factor = jnp.where(witness, stronger, jnp.where(weakened, weaker, 1.0))

    if conserve and values.ndim == 4:
        values = jnp.where(weakened[:, None, None], _without_margin(values), values)
    return values * factor.reshape(len(values), *(1,) * (values.ndim - 2), -1)


def _without_margin(maps: jax.Array) -> jax.Array:
    """Cuts the margin off (B, h, w, channels) and enlarges the rest to the same size."""
    rows, columns = (max(1, round(MARGIN * n)) for n in maps.shape[1:3])
    inner = maps[:, rows:-rows, columns:-columns]
    return jax.image.resize(inner, maps.shape, "cubic") if inner.size else maps


def _sums(values: jax.Array) -> jax.Array:
    """(B, ..., channels) -> (B, channels): the neurons' values."""
    return values.reshape(len(values), -1, values.shape[-1]).sum(axis=1)
