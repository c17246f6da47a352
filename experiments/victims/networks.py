"""The networks of SPT's table II, at the papers' widths and at widths that a CPU can train."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import flax.linen as nn
import jax

from experiments.runtime import checks
from experiments.victims.adversarial import AdversarialConfig
from experiments.victims.blocks import (
    ConvUnit,
    Inception,
    Residual,
    average_pool,
    can_pool,
    he_normal,
    max_pool,
)

Architecture = Literal["VGG", "LeNet", "ResNet", "GoogLeNet", "C4", "C4_WO_BN"]
# slim: trains on a CPU in minutes; middle: in `zoo/`; wide: wider than middle; full: the papers'.
Width = Literal["slim", "middle", "wide", "full"]
Labels = Literal["true", "replaced"]


@dataclass(frozen=True)
class NetworkConfig:
    """All that determines one of SPT's networks, besides the data set and the seed."""

    architecture: Architecture
    width: Width = "slim"
    labels: Labels = "true"  # "replaced": K - 1 - y, as for Td in section III-D
    epochs: int = 8  # 0: the untrained network, T- in section III-D
    batch_size: int = 128
    learning_rate: float = 2e-3  # Adam's learning rate, with cosine decay to zero
    dropout: float = 0.0  # dropout rate before the logits, in training
    max_shift: int = 0  # largest random shift of training images, in pixels
    flip: bool = False  # random horizontal flips of training images
    adversarial: AdversarialConfig | None = None

    # An option of HardenedConfig. It is no field, because a field would change the cache keys.
    alpha: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        choices = {"architecture": Architecture, "width": Width, "labels": Labels}
        for name, choice in choices.items():
            if getattr(self, name) not in get_args(choice):
                raise ValueError(
                    f"expected {name} among {get_args(choice)}, got {getattr(self, name)!r}"
                )
        if (self.architecture, self.width) not in _NETWORKS:
            widths = [width for name, width in _NETWORKS if name == self.architecture]
            raise ValueError(
                f"expected a width of {self.architecture} among {widths}, got {self.width!r}"
            )
        checks.counts(self, "epochs", "max_shift", least=0)
        checks.counts(self, "batch_size")
        checks.above_zero(self, "learning_rate", most=1)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")

    def make(self, classes: int) -> "Classifier":
        trunk, hidden = _NETWORKS[self.architecture, self.width]
        return Classifier(classes, trunk, hidden, self.dropout)


class Classifier(nn.Module):
    """images (B, H, W, C) in [0, 1] -> (feature maps (B, h, w, c), logits (B, K)), for any H and W
    of at least 16.

    The feature maps are rectified. Batch statistics change only in training, so that an image's
    logits don't depend on the other images of its batch.
    """

    classes: int
    trunk: nn.Module  # (images, *, train) -> feature maps
    hidden: tuple[int, ...]  # layers from feature maps to logits; empty: average over pixels
    dropout: float

    def setup(self) -> None:
        self.hidden_layers = [nn.Dense(width, kernel_init=he_normal) for width in self.hidden]
        self.drop = nn.Dropout(self.dropout)
        self.logits = nn.Dense(self.classes)

    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        feature_maps = self._feature_maps(images, train=train)
        embedding = self.drop(self._embedding(feature_maps), deterministic=not train)
        return feature_maps, self.logits(embedding)

    def embed(self, images: jax.Array) -> jax.Array:
        """Returns the embedding (B, D) of images (B, H, W, C); logits are linear in it."""
        return self._embedding(self._feature_maps(images, train=False))

    def _feature_maps(self, images, *, train):
        return self.trunk((images - 0.5) / 0.25, train=train)

    def _embedding(self, feature_maps):
        if not self.hidden:
            return feature_maps.mean(axis=(1, 2))
        x = feature_maps.reshape(len(feature_maps), -1)
        for layer in self.hidden_layers:
            x = nn.relu(layer(x))
        return x


class Blocks(nn.Module):
    """Blocks of equal convolutions; each block ends in 2x2 max pooling: LeNet (LeCun et al.,
    1998), VGG (Simonyan and Zisserman, 2015) and C4 (Sarkar et al., "UPSET and ANGRI", 2017).

    SPT's figures 6 and 7, which show C4, are not available. Known are blocks ("Iter_block") of
    convolutions and ReLU, feature maps of depth K, and dense layers after them. We chose four
    blocks of two 3x3 convolutions and a pooling, with K doubling, and two dense layers. At full
    width this has 2.1 million weights, 8.4 MB, because section IV-F gives 8.28 MB.

    LeNet uses rectifiers and max pooling instead of the sigmoids and averages of 1998.
    """

    channels: tuple[int, ...]  # block by block
    convolutions: tuple[int, ...]  # block by block
    normalise: bool = True
    kernel: int = 3
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for channels, convolutions in zip(self.channels, self.convolutions, strict=True):
            for _ in range(convolutions):
                x = ConvUnit(channels, self.kernel, self.normalise, self.padding)(x, train=train)
            x = max_pool(x) if can_pool(x) else x
        return x


class ResNet(nn.Module):
    """A 3x3 convolution and stages of residual blocks (He et al., 2016), for small images.

    Stages halve the resolution by average pooling, where He et al. use strides.
    """

    stem: int
    pool_stem: bool  # early, to save time
    stages: tuple[int, ...]  # channels
    blocks: int  # in each stage

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = ConvUnit(self.stem)(x, train=train)
        x = max_pool(x) if self.pool_stem else x
        for i, channels in enumerate(self.stages):
            x = average_pool(x) if i > 0 else x
            for _ in range(self.blocks):
                x = Residual(channels)(x, train=train)
        return x


class FastResNet(nn.Module):
    """A 3x3 convolution, and stages of a convolution, a pooling and a residual block: the ResNet-9
    of Page ("How to train your ResNet", 2018) with a block in every stage. Only the stem and one
    convolution run at full resolution, so a forward pass is cheap."""

    stem: int
    stages: tuple[int, ...]  # channels

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = ConvUnit(self.stem)(x, train=train)
        for channels in self.stages:
            x = max_pool(ConvUnit(channels)(x, train=train))
            x = Residual(channels)(x, train=train)
        return x


class GoogLeNet(nn.Module):
    """A convolution and groups of inception modules (Szegedy et al., 2015), with pooling between
    the groups, batch normalisation, and no auxiliary classifiers; for small images."""

    stem: int
    pool_stem: bool  # early, to save time
    modules: tuple[str, ...]  # per group: letters of the modules of stages 3, 4 and 5
    divisor: int = 1  # divides the modules' channels

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = ConvUnit(self.stem)(x, train=train)
        x = max_pool(x) if self.pool_stem else x
        for stage, letters in enumerate(self.modules, start=3):
            x = max_pool(x) if stage > 3 else x
            for letter in letters:
                widths = tuple(width // self.divisor for width in _INCEPTION[f"{stage}{letter}"])
                x = Inception(widths)(x, train=train)
        return x


# Szegedy et al. (2015), table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def _c4(first: int, *, normalise: bool) -> nn.Module:
    channels = tuple(first * 2**i for i in range(4))
    return Blocks(channels, (2, 2, 2, 2), normalise)


def _lenet(*channels: int) -> nn.Module:
    return Blocks(channels, (1, 1), normalise=False, kernel=5, padding="VALID")


# The trunk from images to feature maps, and the hidden layers after it.
_NETWORKS: dict[tuple[Architecture, Width], tuple[nn.Module, tuple[int, ...]]] = {
    ("VGG", "slim"): (Blocks((16, 32, 64), (2, 2, 3)), (128,)),
    ("VGG", "middle"): (Blocks((32, 64, 128, 256), (2, 2, 3, 3)), (256,)),
    ("VGG", "full"): (Blocks((64, 128, 256, 512, 512), (2, 2, 3, 3, 3)), (512, 512)),
    ("LeNet", "slim"): (_lenet(6, 16), (120, 84)),
    ("LeNet", "middle"): (_lenet(24, 48), (240, 120)),
    ("LeNet", "full"): (_lenet(32, 64), (384, 192)),
    ("ResNet", "slim"): (ResNet(16, True, (32, 64, 128), blocks=1), ()),
    ("ResNet", "middle"): (FastResNet(32, (64, 128, 256)), ()),
    ("ResNet", "wide"): (FastResNet(40, (80, 160, 320)), ()),
    ("ResNet", "full"): (ResNet(64, False, (64, 128, 256, 512), blocks=2), ()),
    ("GoogLeNet", "slim"): (GoogLeNet(16, True, ("a", "ae", "b"), divisor=4), ()),
    ("GoogLeNet", "middle"): (GoogLeNet(64, True, ("ab", "abcd", "ab"), divisor=2), ()),
    ("GoogLeNet", "full"): (GoogLeNet(192, False, ("ab", "abcde", "ab")), ()),
    ("C4", "slim"): (_c4(16, normalise=True), (128,)),
    ("C4", "middle"): (_c4(24, normalise=True), (384,)),
    ("C4", "full"): (_c4(32, normalise=True), (896,)),
    ("C4_WO_BN", "slim"): (_c4(16, normalise=False), (128,)),
    ("C4_WO_BN", "middle"): (_c4(24, normalise=False), (384,)),
    ("C4_WO_BN", "full"): (_c4(32, normalise=False), (896,)),
}


# Epochs of each data set. The defaults for slim keep a training under five minutes on two CPU
# cores, and under twenty seconds for digits.
_EPOCHS: dict[str, dict[Width, int]] = {
    "digits": {"slim": 20, "full": 20},
    "mnist": {"slim": 3, "full": 20},
    "fashion_mnist": {"slim": 5, "full": 30},
    "cifar10": {"slim": 5, "full": 30},
    "gtsrb": {"slim": 8, "full": 40},
    "orl_faces": {"slim": 60, "full": 60},
    "vggface2": {"slim": 8, "full": 40},
}
_MIRRORED = ("cifar10", "orl_faces", "vggface2")  # mirror images keep their classes


def default(architecture: Architecture, dataset: str, width: Width = "slim") -> NetworkConfig:
    """Returns a good training for the data set, one of `experiments.datasets.NAMES`."""
    small = dataset in ("digits", "orl_faces")  # a few hundred images
    return NetworkConfig(
        architecture,
        width,
        epochs=_EPOCHS[dataset][width],
        batch_size=32 if small else 128,
        learning_rate=1e-3 if architecture == "C4_WO_BN" else 2e-3,
        max_shift=1 if dataset == "mnist" else 2,
        flip=dataset in _MIRRORED,
    )
