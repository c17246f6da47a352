"""CMAG, the cascade model-aware generative detector of Han, Li and Xia (2020).

Two first-order reconstructors look at what the victim made of an image x: FMR at its last feature
maps, LR at its class probabilities. A second-order one, GR, rebuilds x from their Hadamard
product. An adversarial image makes the victim see something else than is there, so it is rebuilt
badly; the score is how badly.

    params, info = cmag.fit(key, victim, clean_images)
    thresholds = cmag.calibrate(cmag.score(victim, params, held_out_images), fpr=0.01)
    flags = cmag.detect(cmag.score(victim, params, images), thresholds)
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax import reconstructors
from cmag_jax.checks import check_images
from cmag_jax.ssim import SSIM
from cmag_jax.thresholds import calibrate as calibrate
from cmag_jax.thresholds import combine as combine
from cmag_jax.thresholds import detect as detect
from cmag_jax.training import train
from cmag_jax.victim import Images as Images
from cmag_jax.victim import Victim as Victim
from cmag_jax.victim import as_partial


@dataclasses.dataclass(frozen=True)
class CMAGConfig:
    """Everything that determines a fitted CMAG beside the victim, the images and the key."""

    mu_fmr: float = 0.5  # weight of the l2 term, eq. 12; section 4.1
    mu_lr: float = 0.5  # eq. 13
    mu_gr: float = 0.5  # eq. 14
    temperature: float = 1 / 1000  # T of eq. 5 before LR, section 3.2
    combination: Literal["hadamard", "average"] = "hadamard"  # of FMR and LR; figure 4 has both
    ssim: Literal["global", "windowed"] = "global"  # eq. 6-10 are the global one
    learning_rate: float = 1e-3  # Adam, section 4.1
    batch_size: int = 2000  # section 4.1
    fmr_epochs: int = 100  # the paper gives no epochs
    lr_epochs: int = 20
    gr_epochs: int = 100
    fmr_width: int = 128  # channels; the paper gives no widths
    lr_width: int = 128
    gr_width: int = 512

    def __post_init__(self):
        for name in ("mu_fmr", "mu_lr", "mu_gr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in [0, 1], got {getattr(self, name)}")
        for name in ("temperature", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)}")
        names = ("batch_size", "fmr_epochs", "lr_epochs", "gr_epochs")
        for name in (*names, "fmr_width", "lr_width", "gr_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")


MODULES = ("fmr", "lr", "gr")  # in the order in which they are trained


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CMAGParams:
    """A fitted CMAG: a pytree of weights that knows its configuration."""

    fmr: Any  # Flax variables
    lr: Any
    gr: Any
    config: CMAGConfig = dataclasses.field(metadata={"static": True})
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})


class FitInfo(NamedTuple):
    fmr_loss: np.ndarray  # (fmr_epochs,) mean of eq. 12 over each epoch
    lr_loss: np.ndarray  # (lr_epochs,) of eq. 13
    gr_loss: np.ndarray  # (gr_epochs,) of eq. 14


class Reconstructions(NamedTuple):
    fmr: jax.Array  # (B, H, W, C) in [0, 1]
    lr: jax.Array  # (B, H, W, C) in [0, 1]
    h: jax.Array  # (B, H, W, C) in [0, 1]: the two combined
    gr: jax.Array  # (B, H, W, C) in [0, 1]: x', what the detector compares x with


def fit(
    key: jax.Array,
    victim: Victim,
    images: Images,
    config: CMAGConfig | None = None,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[CMAGParams, FitInfo]:
    """Trains FMR and LR, then GR on what they make (algorithm 1), on legitimate images only.

    Args:
      key: a typed key.
      victim: a pure function from images to feature maps and logits. Bind its weights with
        `jax.tree_util.Partial(apply, weights)` and they are traced, not compiled in.
      images: (N, H, W, C) float32 in [0, 1], H and W divisible by 4.
      config: the paper's by default.
      on_epoch: called with the module's name ("fmr", "lr", "gr"), the epochs made and to make,
        and the mean loss.

    Raises:
      ValueError: images of the wrong shape, type or range; feature maps that do not enlarge
        evenly to the images' size.
    """
    check_images(images)
    images = jnp.asarray(images)  # moved to the device once, not once a module
    params, losses = init(key, victim, images, config or CMAGConfig()), {}
    for name in MODULES:
        params, losses[name] = fit_module(name, key, victim, params, images, on_epoch=on_epoch)
    return params, FitInfo(**{f"{name}_loss": losses[name] for name in MODULES})


def fit_module(
    name: str,
    key: jax.Array,
    victim: Victim,
    params: CMAGParams,
    images: Images,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[CMAGParams, np.ndarray]:
    """One module's part of `fit`, for a program that keeps each as it is finished: `fit` is
    `init` and then this for "fmr", "lr" and "gr", in that order, with the same key.

    Returns:
      The params with that module trained, and its mean loss of each epoch.

    Raises:
      ValueError: another name; images that `fit` would not take.
    """
    if name not in MODULES:
        raise ValueError(f"expected a module among {MODULES}, got {name!r}")
    check_images(images, params.image_shape)
    config, modules = params.config, _modules(params)
    epochs = getattr(config, f"{name}_epochs")

    def rebuild(weights, context, x):
        victim, others = context
        if name == "fmr":
            feature_maps, _ = victim(x)
            return _apply(modules.fmr, weights, feature_maps)
        if name == "lr":
            _, logits = victim(x)
            return _apply(modules.lr, weights, _distil(logits, config))
        *_, h = _first_order(victim, others, x)
        return _apply(modules.gr, weights, h)

    def loss(weights, context, x, _key):
        errors = reconstruction_loss(
            x, rebuild(weights, context, x), mu=getattr(config, f"mu_{name}"), ssim=config.ssim
        )
        return jnp.mean(errors)

    weights, losses = train(
        jax.random.fold_in(key, 1 + MODULES.index(name)),  # 0 is init's
        loss,
        getattr(params, name),
        (as_partial(victim), params),
        jnp.asarray(images),
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        on_epoch=lambda epoch, value: on_epoch(name, epoch, epochs, value),
    )
    return dataclasses.replace(params, **{name: weights}), losses


def reconstruct(victim: Victim, params: CMAGParams, images: Images) -> Reconstructions:
    """What each module makes of images (B, H, W, C) float32 in [0, 1] (figures 3-6). Jitted.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    return _reconstruct(as_partial(victim), params, images)


def score(victim: Victim, params: CMAGParams, images: Images) -> dict[str, jax.Array]:
    """How badly GR rebuilds images (B, H, W, C) float32 in [0, 1] (section 3.4). Jitted.

    Returns:
      "ssim" (B,): 1 - SSIM(x, x'), eq. 10, in [0, 2]. "l2" (B,): ||x - x'||_2, eq. 3, in
      pixel units. Higher means more adversarial.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    return _score(as_partial(victim), params, images)


def reconstruction_loss(x: jax.Array, rebuilt: jax.Array, *, mu: float, ssim: str) -> jax.Array:
    """mu MSE + (1 - mu) (1 - SSIM), one value an image (B,): eq. 12-14.

    As printed these add SSIM itself, which training would minimise; 1 - SSIM is what is meant.
    The squared l2 norm is taken as its mean over the pixels, the two terms being otherwise some
    hundredfold apart.
    """
    mean_squared = jnp.mean((x - rebuilt) ** 2, axis=(1, 2, 3))
    return mu * mean_squared + (1 - mu) * (1 - SSIM[ssim](x, rebuilt))


def init(key: jax.Array, victim: Victim, images: Images, config: CMAGConfig) -> CMAGParams:
    """Untrained params for images like these (B, H, W, C), as `fit` starts from. Under
    `jax.eval_shape`: the shapes of a fitted CMAG, which restoring a checkpoint asks for."""
    _, height, width, channels = images.shape
    image_shape = (height, width, channels)
    reconstructors.check_image_shape(image_shape)
    feature_maps, logits = jax.eval_shape(victim, jnp.zeros((1, *image_shape)))
    reconstructors.check_feature_maps(feature_maps.shape[1:], image_shape)
    empty = CMAGParams(None, None, None, config, image_shape)
    inputs = (feature_maps.shape, logits.shape, (1, *image_shape))
    keys = jax.random.split(jax.random.fold_in(key, 0), 3)
    fmr, lr, gr = (
        module.init(k, jnp.zeros(shape))
        for module, k, shape in zip(_modules(empty), keys, inputs, strict=True)
    )
    return dataclasses.replace(empty, fmr=fmr, lr=lr, gr=gr)


class _Modules(NamedTuple):
    fmr: reconstructors.FeatureMapReconstructor
    lr: reconstructors.LogitReconstructor
    gr: reconstructors.GlobalReconstructor


def _modules(params: CMAGParams) -> _Modules:
    config, shape = params.config, params.image_shape
    return _Modules(
        reconstructors.FeatureMapReconstructor(shape, config.fmr_width),
        reconstructors.LogitReconstructor(shape, config.lr_width),
        reconstructors.GlobalReconstructor(config.gr_width),
    )


def _apply(module: nn.Module, variables: Any, x: jax.Array) -> jax.Array:
    image: Any = module.apply(variables, x)
    return image


def _distil(logits: jax.Array, config: CMAGConfig) -> jax.Array:
    """softmax(z / T), eq. 5: at T = 1/1000 all but one-hot."""
    return jax.nn.softmax(logits / config.temperature, axis=-1)


def _first_order(victim: Victim, params: CMAGParams, x: jax.Array):
    """What FMR and LR make of images x, and h, the two combined."""
    modules, config = _modules(params), params.config
    feature_maps, logits = victim(x)
    from_features = _apply(modules.fmr, params.fmr, feature_maps)
    from_logits = _apply(modules.lr, params.lr, _distil(logits, config))
    if config.combination == "hadamard":
        return from_features, from_logits, from_features * from_logits
    return from_features, from_logits, 0.5 * from_features + 0.5 * from_logits


@jax.jit
def _reconstruct(victim, params, images) -> Reconstructions:
    from_features, from_logits, h = _first_order(victim, params, images)
    rebuilt = _apply(_modules(params).gr, params.gr, h)
    return Reconstructions(from_features, from_logits, h, rebuilt)


@jax.jit
def _score(victim, params, images) -> dict[str, jax.Array]:
    rebuilt = _reconstruct(victim, params, images).gr
    squared = jnp.sum((images - rebuilt) ** 2, axis=(1, 2, 3))
    # An attacker who differentiates the score must not meet the infinite slope of sqrt at 0.
    return {
        "ssim": 1 - SSIM[params.config.ssim](images, rebuilt),
        "l2": jnp.sqrt(jnp.maximum(squared, 1e-12)),
    }
