"""MagNet, the two-pronged defence of Meng and Chen (CCS 2017): detectors and a reformer.

Two autoencoders learn to denoise clean images. An image far from clean ones changes when an
autoencoder rebuilds it (section 4.2.1), or the victim's answer changes (section 4.2.2). The scores
measure both changes. The reformer, autoencoder I, moves accepted inputs nearer to clean images
before the victim classifies them (section 4.3).

    params, info = magnet.fit(key, victim, clean_images)
    thresholds = magnet.calibrate(magnet.score(victim, params, held_out_images), drop_rate=0.001)
    flags = magnet.detect(magnet.score(victim, params, images), thresholds)
    _, logits = victim(magnet.reform(params, images))

Adaptive attacks break MagNet (Carlini and Wagner, 2017).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax import thresholds
from cmag_jax._checks import (
    check_above_zero,
    check_counts,
    check_images,
    check_number,
    check_sequence,
    of_none,
)
from cmag_jax._divergence import jensen_shannon
from cmag_jax._planar_conv import Convolution
from cmag_jax._training import train
from cmag_jax.protocol import CleanImages, Losses
from cmag_jax.thresholds import combine as combine
from cmag_jax.thresholds import detect as detect
from cmag_jax.victim import Images as Images
from cmag_jax.victim import Victim as Victim
from cmag_jax.victim import ready

__all__ = [
    "CLASSIFIES_REBUILT",
    "FROM_HELD_OUT",
    "MAGNET_COLOUR",
    "MODULES",
    "PAPER_DROP_RATE",
    "PAPER_RULE_ON",
    "SLOW",
    "FitInfo",
    "MagNetConfig",
    "MagNetParams",
    "Reconstructions",
    "autoencode",
    "calibrate",
    "combine",
    "detect",
    "differentiable_score",
    "fit",
    "fit_module",
    "init",
    "jensen_shannon",
    "paper_thresholds",
    "rebuild",
    "reform",
    "score",
    "surrogate",
]


def __dir__() -> list[str]:
    return __all__


@dataclasses.dataclass(frozen=True)
class MagNetConfig:
    """All options of MagNet. With the images and the key they determine the fit.

    Defaults are the paper's for MNIST (table 3 and the authors' train_defense.py), except for the
    divergence detectors, which the paper uses for CIFAR-10 only: `temperatures=()` leaves them out.
    `MAGNET_COLOUR` is for colour images, as in reimplementations of MagNet for CIFAR-10.
    """

    width: int = 3  # channels of the hidden layers, table 3
    noise: float = 0.1  # standard deviation of the Gaussian noise in training
    regularisation: float = 1e-9  # weight of the squared activations, summed over a batch
    temperatures: tuple[float, ...] = (10.0, 40.0)  # T of the divergence detectors, section 5.2.2
    learning_rate: float = 1e-3  # Adam
    batch_size: int = 256
    epochs: int = 100  # 400 for CIFAR-10

    def __post_init__(self):
        check_above_zero(self, "learning_rate")
        check_counts(self, "width", "batch_size", "epochs")
        check_sequence(self, "temperatures")
        for name in ("noise", "regularisation"):
            if not check_number(self, name) >= 0:
                raise ValueError(f"expected {name} of at least 0, got {getattr(self, name)}")
        names = {f"{t:g}" for t in self.temperatures if t > 0}
        if len(names) < len(self.temperatures):
            raise ValueError(f"expected different temperatures above 0, got {self.temperatures}")


MAGNET_COLOUR = MagNetConfig(noise=0.025, epochs=400)  # the authors' code covers MNIST only

MODULES = ("I", "II")  # the autoencoders, in the order of training
FROM_HELD_OUT = ()
PAPER_RULE_ON: CleanImages = "held-out"
CLASSIFIES_REBUILT = True  # section 4.3
SLOW = False
PAPER_DROP_RATE = {"grey": 0.001, "colour": 0.005}  # per score: the paper's MNIST and CIFAR-10


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MagNetParams:
    """A fitted MagNet: a pytree of weights, with its configuration."""

    I: Any  # Flax variables  # noqa: E741 - the paper's name
    II: Any
    config: MagNetConfig = dataclasses.field(metadata={"static": True})
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})


class FitInfo(NamedTuple):
    I_loss: np.ndarray  # (epochs,) autoencoder I's mean loss of each epoch
    II_loss: np.ndarray  # (epochs,) autoencoder II's


class Reconstructions(NamedTuple):
    I: jax.Array  # (B, H, W, C) in [0, 1]: also the reformed images  # noqa: E741
    II: jax.Array  # (B, H, W, C) in [0, 1]


def fit(
    key: jax.Array,
    victim: Victim,
    images: Images,
    config: MagNetConfig | None = None,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[MagNetParams, FitInfo]:
    """Trains autoencoders I and II to denoise, on clean images only.

    Args:
      victim: not used; all detectors have this argument.
      images: (N, H, W, C) float32 in [0, 1]; H and W must be even for grey images (C = 1).
      on_epoch: called with the autoencoder's name ("I", "II"), the number of finished epochs, the
        number of all epochs, and the mean loss.

    Raises:
      ValueError: images of the wrong shape, type or range.
    """
    check_images(images, at_least=1)
    images = jnp.asarray(images)  # move to the device once, not once per autoencoder
    losses: Losses = {}
    params = init(key, victim, images, config or MagNetConfig())
    for name in MODULES:
        params, found = fit_module(name, key, victim, params, images, on_epoch=on_epoch)
        losses |= found
    return params, FitInfo(**{f"{name}_loss": losses[name] for name in MODULES})


def fit_module(
    name: str,
    key: jax.Array,
    victim: Victim,
    params: MagNetParams,
    images: Images,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[MagNetParams, Losses]:
    """One autoencoder's part of `fit`, for programs that save each one once it is trained. `fit`
    calls `init`, then this function for "I" and "II", with the same key.

    The loss is the mean squared error between an image and the output for its noisy version (with
    Gaussian noise, clipped). Each epoch draws new noise; the authors' code draws it once.

    Returns:
      The params with that autoencoder trained, and {name: its mean loss of each epoch}.

    Raises:
      ValueError: an unknown name; images that `fit` would refuse.
    """
    if name not in MODULES:
        raise ValueError(f"expected a module among {MODULES}, got {name!r}")
    check_images(images, params.image_shape)
    config, autoencoder = params.config, _autoencoder(name, params)

    def loss(weights, _context, x, key):
        noisy = jnp.clip(x + config.noise * jax.random.normal(key, x.shape, jnp.float32), 0, 1)
        rebuilt, activity = autoencoder.apply(weights, noisy)
        # Summed over the batch, as by `activity_regularizer` in Keras of 2017.
        return jnp.mean((rebuilt - x) ** 2) + config.regularisation * activity

    weights, losses = train(
        jax.random.fold_in(key, 1 + MODULES.index(name)),  # 0 is init's
        loss,
        getattr(params, name),
        (),
        jnp.asarray(images),
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        on_epoch=lambda epoch, value: on_epoch(name, epoch, config.epochs, value),
    )
    return dataclasses.replace(params, **{name: weights}), {name: losses}


def init(key: jax.Array, victim: Victim, images: Images, config: MagNetConfig) -> MagNetParams:
    """The untrained params that `fit` starts from, for images of this shape (B, H, W, C). Under
    `jax.eval_shape` it gives the shapes of a fitted MagNet, for restoring a checkpoint.

    Raises:
      ValueError: grey images with odd H or W.
    """
    _, height, width, channels = images.shape
    if channels == 1 and (height % 2 or width % 2):  # autoencoder I halves and doubles them
        raise ValueError(f"expected grey images with even H and W, got {height}x{width}")
    empty = MagNetParams(None, None, config, (height, width, channels))
    keys, image = (
        jax.random.split(jax.random.fold_in(key, 0)),
        jnp.zeros((1, *images.shape[1:]), jnp.float32),
    )
    one, two = (_autoencoder(n, empty).init(k, image) for n, k in zip(MODULES, keys, strict=True))
    return dataclasses.replace(empty, I=one, II=two)


def autoencode(params: MagNetParams, images: Images) -> Reconstructions:
    """The outputs of both autoencoders for images (B, H, W, C) float32 in [0, 1]. Jitted.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    if not images.shape[0]:
        return of_none(lambda x: _autoencode(params, x), images)
    return _autoencode(params, images)


def reform(params: MagNetParams, images: Images) -> jax.Array:
    """The images that the victim classifies instead (section 4.3): `autoencode`'s I. Jitted."""
    return autoencode(params, images).I


def rebuild(victim: Victim, params: MagNetParams, images: Images) -> jax.Array:
    """`reform`, under the name that all detectors use."""
    return reform(params, images)


def score(victim: Victim, params: MagNetParams, images: Images) -> dict[str, jax.Array]:
    """Scores: how much the autoencoders change images (B, H, W, C) float32 in [0, 1], and the
    victim's answers. Jitted; differentiable in reverse mode only.

    Returns:
      "l2" (B,): mean squared error of autoencoder I over the pixels, in [0, 1]; "l1" (B,): mean
      absolute error of autoencoder II, in [0, 1] (section 4.2.1; means, as in the authors' code).
      "jsd10", "jsd40" (B,), one for each temperature T: the Jensen-Shannon divergence between
      softmax(z(x) / T) and softmax(z(AE_I(x)) / T), in [0, log 2] (section 4.2.2).
      Higher is more adversarial.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    victim = ready(victim)
    if not images.shape[0]:
        return of_none(lambda x: _score(victim, params, x), images)
    return _score(victim, params, images)


def calibrate(
    clean_scores: thresholds.Scores, *, fpr: float | None = None, drop_rate: float | None = None
) -> thresholds.Thresholds:
    """Thresholds from the scores of clean images. Exactly one of `fpr` and `drop_rate` is given.

    Args:
      clean_scores: the scores of held-out clean images, each (N,).
      fpr: the largest false-positive rate, in [0, 1), of *all* scores together, as in
        `cmag_jax.calibrate`.
      drop_rate: the largest false-positive rate, in [0, 1), of *each* score alone, which is
        MagNet's rule: at most floor(drop_rate N) images exceed its threshold. The paper uses 0.001
        for MNIST and 0.005 for CIFAR-10.

    Raises:
      ValueError: no images; scores that are not finite or of unequal length; both or none of `fpr`
        and `drop_rate`.
    """
    if (fpr is None) == (drop_rate is None):
        raise ValueError(f"expected either fpr or drop_rate, got {fpr=} and {drop_rate=}")
    if drop_rate is None:
        return thresholds.calibrate(clean_scores, fpr=fpr)
    thresholds.check_rate(drop_rate=drop_rate)
    thresholds.calibrate(clean_scores, fpr=0)  # only for its checks of the scores
    alone = [thresholds.calibrate({k: v}, fpr=drop_rate) for k, v in clean_scores.items()]
    return {name: threshold for each in alone for name, threshold in each.items()}


differentiable_score = score  # every step has a gradient


def paper_thresholds(
    params: MagNetParams, clean_scores: thresholds.Scores
) -> thresholds.Thresholds:
    """Thresholds at the paper's drop rate: MNIST's for grey images, CIFAR-10's for colour."""
    colours = "grey" if params.image_shape[-1] == 1 else "colour"
    return calibrate(clean_scores, drop_rate=PAPER_DROP_RATE[colours])


def surrogate(params: MagNetParams, *, search_steps: int, restarts: int) -> MagNetParams:
    """The params unchanged: a score is cheap enough for an adaptive attack."""
    return params


class _Autoencoder(nn.Module):
    """(B, H, W, C) -> (images (B, H, W, C) in [0, 1], sum of all squared activations).

    Table 3: 3x3 convolutions with sigmoids. For grey images, I also has 2x2 average pooling and
    upsampling. Colour images would lose too much detail by pooling.
    """

    width: int
    pools: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        channels = x.shape[-1]
        activities: list[jax.Array] = []

        def layer(x, channels):
            kernel_init = nn.initializers.glorot_uniform()  # Keras's default, as the authors use
            name = f"Conv_{len(activities)}"
            x = nn.sigmoid(Convolution(channels, kernel_init=kernel_init, name=name)(x))
            activities.append(jnp.sum(x**2))
            return x

        x = layer(x.transpose(0, 3, 1, 2), self.width)  # channels first: see `_planar_conv`
        if self.pools:
            x = layer(_halve(x), self.width)
            x = jnp.repeat(jnp.repeat(layer(x, self.width), 2, axis=2), 2, axis=3)
        x = layer(x, self.width)
        rebuilt = layer(x, channels).transpose(0, 2, 3, 1)
        return rebuilt, sum(activities, jnp.zeros((), jnp.float32))


def _halve(x: jax.Array) -> jax.Array:
    """2x2 average pooling of images (B, C, H, W), by a reshape. On a CPU the gradient of
    reduce_window is many times slower."""
    *batch, height, width = x.shape
    return x.reshape(*batch, height // 2, 2, width // 2, 2).mean(axis=(-3, -1))


def _autoencoder(name: str, params: MagNetParams) -> _Autoencoder:
    grey = params.image_shape[-1] == 1
    return _Autoencoder(params.config.width, pools=name == "I" and grey)


@jax.jit
def _autoencode(params, images) -> Reconstructions:
    i, _ = _autoencoder("I", params).apply(params.I, images)
    ii, _ = _autoencoder("II", params).apply(params.II, images)
    return Reconstructions(i, ii)


@jax.jit
def _score(victim, params, images) -> dict[str, jax.Array]:
    rebuilt = _autoencode(params, images)
    scores = {
        "l2": jnp.mean((images - rebuilt.I) ** 2, axis=(1, 2, 3)),
        "l1": jnp.mean(jnp.abs(images - rebuilt.II), axis=(1, 2, 3)),
    }
    (_, before), (_, after) = victim(images), victim(rebuilt.I)
    for t in params.config.temperatures:
        scores[f"jsd{t:g}"] = jensen_shannon(before / t, after / t)
    return scores
