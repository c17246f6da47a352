"""Defense-GAN of Samangouei, Kabkab and Chellappa (ICLR 2018), as a detector.

A GAN learns to generate clean images. For an image x, gradient descent from several starting points
searches for the latent z* whose image G(z*) is nearest to x. The generator can't make adversarial
examples, so their nearest image is further away. The score is the distance (section 4, "Attack
detection").

    params, info = defense_gan.fit(key, victim, clean_images)
    thresholds = defense_gan.calibrate(defense_gan.score(victim, params, held_out), fpr=0.01)
    flags = defense_gan.detect(defense_gan.score(victim, params, images), thresholds)

The paper's defence classifies `reconstruct(params, images)` instead of the images. "Reference" is
the authors' code, github.com/kabkabm/defensegan, which decides what the paper leaves open.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cmag_jax import _wgan as wgan
from cmag_jax._checks import check_above_zero, check_counts, check_images, check_number
from cmag_jax.cmag import reconstructors
from cmag_jax.protocol import CleanImages, Losses
from cmag_jax.thresholds import Scores, Thresholds
from cmag_jax.thresholds import calibrate as calibrate
from cmag_jax.thresholds import detect as detect
from cmag_jax.victim import Images as Images
from cmag_jax.victim import Victim as Victim

__all__ = [
    "CLASSIFIES_REBUILT",
    "FROM_HELD_OUT",
    "MODULES",
    "MOST_WRITTEN_OUT",
    "PAPER_RULE_ON",
    "SLOW",
    "DefenseGANConfig",
    "DefenseGANParams",
    "FitInfo",
    "calibrate",
    "detect",
    "differentiable_score",
    "fit",
    "fit_module",
    "generate",
    "init",
    "paper_thresholds",
    "project",
    "rebuild",
    "reconstruct",
    "score",
    "surrogate",
]


def __dir__() -> list[str]:
    return __all__


@dataclasses.dataclass(frozen=True)
class DefenseGANConfig:
    """All options of Defense-GAN. With the images and the key they determine the fit."""

    generator: wgan.Kind = "convolutional"  # the paper's; "dense" is for CPUs
    critic: wgan.Kind = "convolutional"
    generator_width: int = 64  # channels (dense: hidden units / 4 and / 8); reference: NET_DIM
    critic_width: int = 64
    latent_size: int = 128  # reference: LATENT_DIM
    penalty: float = 10.0  # lambda of Gulrajani et al., eq. 3
    critic_steps: int = 5  # per step of the generator; Gulrajani et al., algorithm 1
    learning_rate: float = 1e-4  # Adam; Gulrajani et al., algorithm 1, and the reference
    final_rate: float = 1.0  # share of the learning rate after a cosine decay; reference: 1
    beta1: float = 0.5  # reference; Gulrajani et al. use 0.5 for images, else 0
    beta2: float = 0.9
    batch_size: int = 50  # reference
    # Epochs of the critic, for 60,000 images. Reference: 200,000 steps of the generator, which are
    # 50 million images for the critic.
    epochs: int = 833
    search_steps: int = 200  # L of section 4; reference: REC_ITERS
    restarts: int = 10  # R of section 4; reference: REC_RR
    # Step size of the descent on the mean squared error; reference: REC_LR. It is constant: the
    # reference asks for a decay, but never increases the step count that the decay depends on.
    search_rate: float = 10.0
    momentum: float = 0.7  # reference

    def __post_init__(self):
        for name in ("generator", "critic"):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in wgan.GENERATORS:
                raise ValueError(
                    f"expected {name} 'convolutional' or 'dense', got {getattr(self, name)!r}"
                )
        check_above_zero(self, "learning_rate", "search_rate")
        if not check_number(self, "penalty") >= 0:
            raise ValueError(f"expected penalty of at least 0, got {self.penalty}")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= check_number(self, name) < 1:
                raise ValueError(f"expected {name} in [0, 1), got {getattr(self, name)}")
        if not 0 <= check_number(self, "final_rate") <= 1:
            raise ValueError(f"expected final_rate in [0, 1], got {self.final_rate}")
        check_counts(self, "generator_width", "critic_width", "latent_size", "critic_steps")
        check_counts(self, "batch_size", "epochs", "search_steps", "restarts")


MODULES = ("gan",)
FROM_HELD_OUT = ()
PAPER_RULE_ON: CleanImages = "held-out"
CLASSIFIES_REBUILT = True
SLOW = True


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DefenseGANParams:
    """A fitted Defense-GAN: a pytree of weights, with its configuration."""

    gan: wgan.Weights
    starts: jax.Array  # (R, Z) starting points of the search, the same for every image
    config: DefenseGANConfig = dataclasses.field(metadata={"static": True})
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})


class FitInfo(NamedTuple):
    critic_loss: np.ndarray  # (epochs,) mean of Gulrajani et al., eq. 3, over each epoch
    generator_loss: np.ndarray  # (epochs,) NaN in an epoch without a step of the generator


def fit(
    key: jax.Array,
    victim: Victim,
    images: Images,
    config: DefenseGANConfig | None = None,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[DefenseGANParams, FitInfo]:
    """Trains the GAN on clean images.

    Args:
      key: a typed key.
      victim: not used, since Defense-GAN does not depend on the victim; all detectors have this
        argument.
      images: (N, H, W, C) float32 in [0, 1], H and W divisible by 4 unless both networks are
        dense.
      config: the paper's by default.
      on_epoch: called with "gan", the number of finished epochs, the number of all epochs, and the
        critic's mean loss.

    Raises:
      ValueError: images of the wrong shape, type or range.
    """
    check_images(images, at_least=1)
    params = init(key, victim, images, config or DefenseGANConfig())
    params, losses = fit_module("gan", key, victim, params, images, on_epoch=on_epoch)
    return params, FitInfo(**losses)


def fit_module(
    name: str,
    key: jax.Array,
    victim: Victim,
    params: DefenseGANParams,
    images: Images,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[DefenseGANParams, Losses]:
    """One module's part of `fit`: `fit` calls `init`, then this function for "gan" with the same
    key.

    Returns:
      The params with the GAN trained, and the losses of `FitInfo` by name.

    Raises:
      ValueError: an unknown name; images that `fit` would refuse.
    """
    if name not in MODULES:
        raise ValueError(f"expected a module among {MODULES}, got {name!r}")
    check_images(images, params.image_shape)
    config, (generator, critic) = params.config, _networks(params)
    weights, *losses = wgan.train(
        jax.random.fold_in(key, 1),  # 0 is init's
        generator,
        critic,
        params.gan,
        jnp.asarray(images),
        latent_size=config.latent_size,
        epochs=config.epochs,
        batch_size=config.batch_size,
        critic_steps=config.critic_steps,
        penalty=config.penalty,
        learning_rate=config.learning_rate,
        final_rate=config.final_rate,
        betas=(config.beta1, config.beta2),
        on_epoch=lambda epoch, value: on_epoch(name, epoch, config.epochs, value),
    )
    return dataclasses.replace(params, gan=weights), FitInfo(*losses)._asdict()


def init(
    key: jax.Array, victim: Victim, images: Images, config: DefenseGANConfig
) -> DefenseGANParams:
    """The untrained params that `fit` starts from, for images of this shape (B, H, W, C). Under
    `jax.eval_shape` it gives the shapes of a fitted Defense-GAN, for restoring a checkpoint.

    It draws the starting points of the search from N(0, 1 / Z), as the reference does. The
    reference draws them for each image; drawing them once makes a score a function of its image.
    """
    _, height, width, channels = images.shape
    image_shape = (height, width, channels)
    if "convolutional" in (config.generator, config.critic):
        reconstructors.check_image_shape(image_shape)
    keys = jax.random.split(jax.random.fold_in(key, 0), 3)
    starts = jax.random.normal(keys[0], (config.restarts, config.latent_size), jnp.float32)
    empty = DefenseGANParams(wgan.Weights(None, None), starts, config, image_shape)
    generator, critic = _networks(empty)
    image = jnp.zeros((1, *image_shape), jnp.float32)
    weights = wgan.Weights(_init(generator, keys[1], starts), _init(critic, keys[2], image))
    return dataclasses.replace(empty, gan=weights, starts=starts / config.latent_size**0.5)


# Jitted, so that the networks' outputs are never computed.
_init = jax.jit(lambda network, key, x: network.init(key, x), static_argnums=0)


def generate(params: DefenseGANParams, z: jax.Array) -> jax.Array:
    """The generator's images (B, H, W, C) in [0, 1] for latents (B, Z)."""
    generator, _ = _networks(params)
    images: Any = generator.apply(params.gan.generator, z)
    return images


def project(params: DefenseGANParams, images: Images, z_start: jax.Array, steps: int) -> jax.Array:
    """Searches for z* from given starts, by gradient descent with momentum on the mean squared
    error between images (B, H, W, C) and G(z). Each image and restart is independent. The velocity
    starts at zero.

    `reconstruct` calls this with `params.starts`. An attack that changes an image in small steps
    can start from the result of its last search, with few steps. The result is differentiable
    through the search, unlike `reconstruct` and `score`.

    Args:
      z_start: (B, R, Z) float32.
      steps: number of gradient steps.

    Returns:
      Latents (B, R, Z).

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range;
        starts of the wrong shape; a negative number of steps.
    """
    check_images(images, params.image_shape)
    size = params.config.latent_size
    if np.ndim(z_start) != 3 or (z_start.shape[0], z_start.shape[2]) != (images.shape[0], size):
        raise ValueError(
            f"expected z_start ({images.shape[0]}, R, {size}), got {tuple(np.shape(z_start))}"
        )
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"expected a whole number of steps of at least 0, got {steps!r}")
    if not images.shape[0]:
        return jnp.zeros((0, *np.shape(z_start)[1:]), jnp.float32)
    traced = any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves((params, images, z_start)))
    convolutional = params.config.generator == "convolutional"
    if convolutional and jax.default_backend() == "cpu" and not traced:
        return _host_search(params, images, z_start, steps)
    return _compiled_search(params, images, z_start, steps)


def reconstruct(params: DefenseGANParams, images: Images) -> jax.Array:
    """G(z*) of the best restart for each image: (B, H, W, C) in [0, 1], for images (B, H, W, C)
    float32 in [0, 1]. All restarts of all images form one batch of the generator, of size B R.

    z* is constant under differentiation, as in `score`, so the gradient with respect to the images
    is zero.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    if not images.shape[0]:
        return jnp.zeros((0, *params.image_shape), jnp.float32)
    # Stopping the gradient before the search keeps it concrete, and fast, under `grad` without
    # `jit`.
    still_params, still_images = lax.stop_gradient((params, jnp.asarray(images)))
    starts = jnp.broadcast_to(still_params.starts, (images.shape[0], *params.starts.shape))
    z = project(still_params, still_images, starts, params.config.search_steps)
    return _best(params, still_images, lax.stop_gradient(z))


def rebuild(victim: Victim, params: DefenseGANParams, images: Images) -> jax.Array:
    """`reconstruct`, under the name that all detectors use."""
    return reconstruct(params, images)


def score(victim: Victim, params: DefenseGANParams, images: Images) -> dict[str, jax.Array]:
    """The distance of images (B, H, W, C) float32 in [0, 1] to their reconstructions. The paper
    uses its square, which gives the same decisions. The victim is not used.

    The gradient with respect to the images is (x - G(z*)) / ||x - G(z*)||_2, with z* constant. By
    the envelope theorem this is exact if the search has converged, and an attack need not
    differentiate through the search.

    Returns:
      "l2" (B,): ||x - G(z*)||_2, in pixel units. Higher is more adversarial.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    return {"l2": _distance(images, reconstruct(params, images))}


differentiable_score = score  # z* is held constant


def paper_thresholds(params: DefenseGANParams, clean_scores: Scores) -> Thresholds:
    """The largest score of a held-out image, since the paper gives no rule."""
    return calibrate(clean_scores, rule="worst-training-example")


def surrogate(params: DefenseGANParams, *, search_steps: int, restarts: int) -> DefenseGANParams:
    """The same GAN with a shorter search from fewer starts; its scores differ. A full search (200
    steps from 10 starts) at each step of an attack is too expensive."""
    steps = min(search_steps, params.config.search_steps)
    restarts = min(restarts, params.config.restarts)
    config = dataclasses.replace(params.config, search_steps=steps, restarts=restarts)
    return dataclasses.replace(params, starts=params.starts[:restarts], config=config)


def _networks(params: DefenseGANParams) -> tuple[nn.Module, nn.Module]:
    """(generator, critic)"""
    config = params.config
    generator = wgan.GENERATORS[config.generator](params.image_shape, config.generator_width)
    return generator, wgan.CRITICS[config.critic](config.critic_width)


def _restarts(params: DefenseGANParams, z: jax.Array) -> jax.Array:
    """Images (B, R, H, W, C) for latents (B, R, Z)."""
    flat = generate(params, z.reshape(z.shape[0] * z.shape[1], z.shape[2]))
    return flat.reshape(*z.shape[:2], *params.image_shape)


def _descend(params: DefenseGANParams, images, z, velocity):
    """One step of the search."""

    def total(z):  # a sum keeps the gradients of images and restarts independent
        return jnp.sum(jnp.mean((_restarts(params, z) - images[:, None]) ** 2, axis=(2, 3, 4)))

    velocity = params.config.momentum * velocity + jax.grad(total)(z)
    return z - params.config.search_rate * velocity, velocity


_jitted_descend = jax.jit(_descend)


def _host_search(params, images, z, steps):
    """The search as a Python loop: on a CPU, convolutions are several times slower inside a
    compiled loop (jax-ml/jax issue 12868)."""
    images, z = jnp.asarray(images), jnp.asarray(z)
    velocity = jnp.zeros_like(z)
    for _ in range(steps):
        z, velocity = _jitted_descend(params, images, z, velocity)
    return z


# Under a caller's `jit` on a CPU, the loop is unrolled for up to this many steps, for the same
# reason.
MOST_WRITTEN_OUT = 32


@partial(jax.jit, static_argnames="steps")
def _compiled_search(params, images, z, steps):
    written_out = jax.default_backend() == "cpu" and steps <= MOST_WRITTEN_OUT
    now = (z, jnp.zeros_like(z))
    z, _ = lax.fori_loop(
        0, steps, lambda _, now: _descend(params, images, *now), now, unroll=written_out or 1
    )
    return z


@jax.jit
def _best(params: DefenseGANParams, images, z) -> jax.Array:
    rebuilt = _restarts(params, z)
    errors = jnp.sum((rebuilt - images[:, None]) ** 2, axis=(2, 3, 4))
    best = jnp.argmin(errors, axis=1)
    return jnp.take_along_axis(rebuilt, best[:, None, None, None, None], axis=1)[:, 0]


@jax.jit
def _distance(images, rebuilt) -> jax.Array:
    squared = jnp.sum((images - rebuilt) ** 2, axis=(1, 2, 3))
    # Keeps the gradient finite: sqrt has an infinite slope at 0.
    return jnp.sqrt(jnp.maximum(squared, 1e-12))
