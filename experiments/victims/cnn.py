"""The classifier under attack: a small convolutional network with named feature maps."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.runtime import checks
from experiments.victims.adversarial import AdversarialConfig
from experiments.victims.blocks import max_pool

# A larger value likely has a zero too many.
MOST_BLOCKS, MOST_CONVOLUTIONS, MOST_WIDTH, MOST_SHIFT = 16, 64, 16_384, 1024


@dataclass(frozen=True)
class VictimConfig:
    """All that determines a trained victim, besides the data set and the seed."""

    channels: tuple[int, ...] = (32, 64)  # channels per block of convolution, ReLU and 2x2 pooling
    _: dataclasses.KW_ONLY
    convolutions: int = 1  # convolutions per block; two or more make the network VGG-like
    dense: int = 128  # width of the layer between feature maps and logits
    dropout: float = 0.5  # dropout rate before the logits, in training
    standardise: bool = False  # subtract each image's mean, divide by its standard deviation
    max_shift: int = 0  # largest random shift of training images, in pixels
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3  # Adam's learning rate, with cosine decay to zero

    # Options of NetworkConfig. They are no fields, because fields would change the cache keys.
    labels: ClassVar = "true"
    flip: ClassVar = False
    adversarial: ClassVar[AdversarialConfig | None] = None
    alpha: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        checks.counts(self, "epochs", "batch_size")
        checks.counts(self, "convolutions", most=MOST_CONVOLUTIONS)
        checks.counts(self, "dense", most=MOST_WIDTH)
        checks.counts(self, "max_shift", least=0, most=MOST_SHIFT)
        checks.above_zero(self, "learning_rate", most=1)
        if not 1 <= len(self.channels) <= MOST_BLOCKS:
            raise ValueError(
                f"expected channels of one to {MOST_BLOCKS} blocks, got {len(self.channels)}"
            )
        if not 1 <= min(self.channels) <= max(self.channels) <= MOST_WIDTH:
            raise ValueError(f"expected channels from 1 to {MOST_WIDTH}, got {self.channels}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    def make(self, classes: int) -> "CNN":
        return make_cnn(classes, self)


@dataclass(frozen=True)
class HardenedConfig(VictimConfig):
    """A victim with adversarial training: CMAG, eq. 11."""

    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)  # type: ignore[misc]
    alpha: float = 0.5  # type: ignore[misc] # weight of the clean images' loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"expected alpha in [0, 1], got {self.alpha}")


class CNN(nn.Module):
    """images (B, H, W, C) in [0, 1] -> (feature maps (B, h, w, c), logits (B, K)).

    The layer named `feature_maps` is the last convolution; its output, rectified and pooled, is
    CMAG's f_fm. Each block halves the resolution.
    """

    classes: int
    channels: tuple[int, ...]
    convolutions: int
    dense: int
    dropout: float
    standardise: bool

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        x = _standardise(images) if self.standardise else images
        for names, channels in zip(self.convolution_names(), self.channels, strict=True):
            for name in names:
                x = nn.relu(nn.Conv(channels, (3, 3), name=name)(x))
            x = max_pool(x)
        feature_maps = x
        x = nn.relu(
            nn.Dense(self.dense, name="hidden")(x.reshape(x.shape[0], math.prod(x.shape[1:])))
        )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return feature_maps, nn.Dense(self.classes, name="logits")(x)

    def convolution_names(self) -> list[list[str]]:
        """Returns the names of the convolutions, by block: conv1 (conv1_2, ...), conv2, ...,
        feature_maps."""
        blocks = []
        for block in range(1, len(self.channels) + 1):
            names = [f"conv{block}"]
            names += [f"conv{block}_{i}" for i in range(2, self.convolutions + 1)]
            blocks.append(names)
        blocks[-1][-1] = "feature_maps"
        return blocks


def make_cnn(classes: int, config: VictimConfig) -> CNN:
    return CNN(
        classes,
        config.channels,
        config.convolutions,
        config.dense,
        config.dropout,
        config.standardise,
    )


def _standardise(images: jax.Array) -> jax.Array:
    mean = jnp.mean(images, axis=(1, 2, 3), keepdims=True)
    variance = jnp.var(images, axis=(1, 2, 3), keepdims=True)
    return (images - mean) / jnp.sqrt(variance + 1e-3)
