"""CMAG as a detector: fit, score, calibrate, detect (section 3, algorithms 1 and 2)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax._checks import check_images, of_none
from cmag_jax._training import train
from cmag_jax.cmag import cascade
from cmag_jax.cmag.cascade import (
    CMAGParams,
    Reconstructions,
    apply,
    distil,
    init,
    judge,
    judge_apart,
    look,
    modules,
)
from cmag_jax.cmag.cascade import combine as combine_reconstructions
from cmag_jax.cmag.combined_p_value import tails
from cmag_jax.cmag.config import CMAGConfig
from cmag_jax.cmag.scores import Evidence, context, drift, usual_of
from cmag_jax.protocol import CleanImages, Losses
from cmag_jax.ssim import SSIM
from cmag_jax.thresholds import Scores, Thresholds, check_finite
from cmag_jax.thresholds import calibrate as calibrate
from cmag_jax.thresholds import combine as combine
from cmag_jax.thresholds import detect as detect
from cmag_jax.victim import Images as Images
from cmag_jax.victim import Victim as Victim
from cmag_jax.victim import ready

MODULES = ("fmr", "lr", "gr", "usual", "tails")  # in the order of fitting
FROM_HELD_OUT = ("tails",)  # the modules that are fitted to held-out images
PAPER_RULE_ON: CleanImages = "training"  # algorithm 2
CLASSIFIES_REBUILT = False
SLOW = False
LEAST_HELD_OUT = 20  # fewer can't resolve a share of 1/20; some thousand are better
LOOK_BATCH = 1000  # training images in one batch; no result depends on it


class FitInfo(NamedTuple):
    fmr_loss: np.ndarray  # (fmr_epochs,) mean of eq. 12 over each epoch
    lr_loss: np.ndarray  # (lr_epochs,) of eq. 13
    gr_loss: np.ndarray  # (gr_epochs,) of eq. 14, and of CMAG+'s contrast


def fit(
    key: jax.Array,
    victim: Victim,
    images: Images,
    config: CMAGConfig | None = None,
    *,
    held_out: Images | None = None,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[CMAGParams, FitInfo]:
    """Trains FMR and LR, then GR on their outputs (algorithm 1), on clean images only.

    Args:
      key: a typed key.
      victim: a pure function from images to feature maps and logits. If its weights are bound with
        `jax.tree_util.Partial(apply, weights)`, they are traced, not compiled in.
      images: (N, H, W, C) float32 in [0, 1], H and W divisible by 4.
      config: the paper's by default; `CMAG_PLUS` for CMAG+.
      held_out: some thousand clean images that neither the victim nor CMAG was trained on. The
        decision "rarity" takes the null distribution of its scores from them. They may be the
        images on which the threshold is calibrated.
      on_epoch: called with the module's name ("fmr", "lr", "gr"), the number of finished epochs,
        the number of all epochs, and the mean loss.

    Raises:
      ValueError: images of the wrong shape, type or range; feature maps whose size does not divide
        the images' size evenly; no images; fewer than LEAST_HELD_OUT held-out images for the
        decision "rarity"; a victim that does not return (feature maps, logits); losses or scores
        that are not finite.
    """
    check_images(images, at_least=1)
    victim, images = ready(victim), jnp.asarray(images)  # move to the device only once
    losses: Losses = {}
    params = init(key, victim, images, config or CMAGConfig())
    if params.tails is not None:
        if held_out is None:
            raise ValueError("expected held_out images for the decision 'rarity', got none")
        check_images(held_out, params.image_shape, at_least=LEAST_HELD_OUT, what="held-out images")
    for name in MODULES:
        seen = held_out if name in FROM_HELD_OUT and held_out is not None else images
        params, found = fit_module(name, key, victim, params, seen, on_epoch=on_epoch)
        losses |= found
    return params, FitInfo(losses["fmr"], losses["lr"], losses["gr"])


def fit_module(
    name: str,
    key: jax.Array,
    victim: Victim,
    params: CMAGParams,
    images: Images,
    *,
    on_epoch: Callable[[str, int, int, float], None] = lambda *_: None,
) -> tuple[CMAGParams, Losses]:
    """One module's part of `fit`, for programs that save each module once it is fitted.

    `fit` calls `init`, then this function for each of MODULES in order, with the same key. The
    modules in FROM_HELD_OUT get the held-out images.

    Returns:
      The params with that module fitted, and {name: its mean loss of each epoch}. "usual" (the
      baseline of the score "drift" on clean images) and "tails" (the null distribution of all
      scores on held-out images) have a direct solution, without epochs or losses.

    Raises:
      ValueError: an unknown name; images that `fit` would refuse.
    """
    if name not in MODULES:
        raise ValueError(f"expected a module among {MODULES}, got {name!r}")
    least = LEAST_HELD_OUT if name in FROM_HELD_OUT and params.tails is not None else 1
    check_images(images, params.image_shape, at_least=least)
    victim, images = ready(victim), jnp.asarray(images)
    if name in ("usual", "tails"):
        solve = _fit_usual if name == "usual" else _fit_tails
        return solve(victim, params, images), {}
    config, epochs = params.config, getattr(params.config, f"{name}_epochs")
    # A module's inputs do not change during its training, so they are computed once.
    data = (images, _each(_seen_by(name), victim, params, images))
    weights, losses = train(
        jax.random.fold_in(key, 1 + MODULES.index(name)),  # 0 is init's
        LOSSES[name],
        getattr(params, name),
        (victim, params),
        data,
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        final_rate=config.final_rate,
        on_epoch=lambda epoch, value: on_epoch(name, epoch, epochs, value),
    )
    return dataclasses.replace(params, **{name: weights}), {name: losses}


def rebuild(victim: Victim, params: CMAGParams, images: Images) -> jax.Array:
    """x', the images by GR: the field `gr` of `reconstruct`. Jitted."""
    return reconstruct(victim, params, images).gr


def reconstruct(victim: Victim, params: CMAGParams, images: Images) -> Reconstructions:
    """The outputs of all modules for images (B, H, W, C) float32 in [0, 1] (figures 3-6). Jitted.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    return _asked(_reconstruct, victim, params, images)


def score(victim: Victim, params: CMAGParams, images: Images) -> dict[str, jax.Array]:
    """The scores of images (B, H, W, C) float32 in [0, 1]. Higher is more adversarial. Jitted.

    Returns:
      Scores, each (B,). The paper's (section 3.4) are "ssim", 1 - SSIM(x, x') of eq. 10, in
      [0, 2], and "l2", ||x - x'||_2 of eq. 3. CMAG+'s is "rarity", minus the logarithm of the
      combined p-value of `scores_apart`, at least 0.

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    return _asked(_score, victim, params, images)


differentiable_score = score  # every step has a gradient


def paper_thresholds(params: CMAGParams, clean_scores: Scores) -> Thresholds:
    """Algorithm 2: the largest score of each kind over the training images."""
    return calibrate(clean_scores, rule="worst-training-example")


def surrogate(params: CMAGParams, *, search_steps: int, restarts: int) -> CMAGParams:
    """The params unchanged: a score is cheap enough for an adaptive attack."""
    return params


def scores_apart(victim: Victim, params: CMAGParams, images: Images) -> dict[str, jax.Array]:
    """The configuration's scores, each (B,), before `score` combines them. Jitted.

    Images are (B, H, W, C) float32 in [0, 1].

    Raises:
      ValueError: images of another shape than those of `fit`, or of the wrong type or range.
    """
    check_images(images, params.image_shape)
    return _asked(_scores_apart, victim, params, images)


def reconstruction_loss(x: jax.Array, rebuilt: jax.Array, *, mu: float, ssim: str) -> jax.Array:
    """mu MSE + (1 - mu) (1 - SSIM), one value per image (B,): eq. 12-14.

    The printed equations add SSIM itself, which training would minimise; they must mean 1 - SSIM.
    The squared l2 norm is replaced by its mean over the pixels. Otherwise the two terms would
    differ about a hundredfold.
    """
    mean_squared = jnp.mean((x - rebuilt) ** 2, axis=(1, 2, 3))
    return mu * mean_squared + (1 - mu) * (1 - SSIM[ssim](x, rebuilt))


def _fmr_loss(weights, context, batch, key):
    (victim, params), (x, feature_maps) = context, batch
    config = params.config
    if config.fmr_noise:
        # Half of the inputs have noise, but their targets are clean. So FMR learns to leave out
        # what was added to an image.
        noisy = (len(x) + 1) // 2
        sd_key, noise_key = jax.random.split(key)
        sd = jax.random.uniform(sd_key, (noisy, 1, 1, 1), jnp.float32, maxval=config.fmr_noise)
        noise = sd * jax.random.normal(noise_key, x[:noisy].shape, jnp.float32)
        of_noisy, _ = victim(jnp.clip(x[:noisy] + noise, 0, 1))
        feature_maps = jnp.concatenate([of_noisy, feature_maps[noisy:]])
    rebuilt = apply(modules(params).fmr, weights, feature_maps)
    return jnp.mean(reconstruction_loss(x, rebuilt, mu=config.mu_fmr, ssim=config.ssim))


def _lr_loss(weights, context, batch, key):
    del key
    (_, params), (x, logits) = context, batch
    config = params.config
    rebuilt = apply(modules(params).lr, weights, distil(logits, config))
    return jnp.mean(reconstruction_loss(x, rebuilt, mu=config.mu_lr, ssim=config.ssim))


def _gr_loss(weights, context, batch, key):
    (_, params), (x, (from_features, logits)) = context, batch
    config, networks = params.config, modules(params)

    def error(target, probabilities):
        from_logits = apply(networks.lr, params.lr, probabilities)
        h = combine_reconstructions(from_features, from_logits, config)
        rebuilt = apply(networks.gr, weights, h)
        return reconstruction_loss(target, rebuilt, mu=config.mu_gr, ssim=config.ssim)

    errors = error(x, distil(logits, config))
    if config.contrast:
        # A clean image with a wrong class stands in for an adversarial example.
        wrong = jax.nn.one_hot(_another_class(key, logits), logits.shape[-1], dtype=jnp.float32)
        errors += config.contrast * error(1 - x, wrong)
    return jnp.mean(errors)


LOSSES: dict[str, Callable[..., jax.Array]] = {"fmr": _fmr_loss, "lr": _lr_loss, "gr": _gr_loss}


def _another_class(key: jax.Array, logits: jax.Array) -> jax.Array:
    """(B,) a class other than the predicted one: with probability 1/2 the runner-up, which an
    attack would choose, otherwise a random one."""
    classes = logits.shape[-1]
    best, runner_up = jax.lax.top_k(logits, 2)[1].T
    step_key, coin_key = jax.random.split(key)
    other = (best + jax.random.randint(step_key, best.shape, 1, classes)) % classes
    return jnp.where(jax.random.bernoulli(coin_key, 0.5, best.shape), runner_up, other)


def _seen_by(name: str) -> Callable:
    """The function (victim, params, images) that gives the inputs of a module's training."""
    return {"fmr": _feature_maps, "lr": _logits, "gr": _fmr_and_logits}[name]


def _feature_maps(victim, _params, images):
    return victim(images)[0]


def _logits(victim, _params, images):
    return victim(images)[1]


def _fmr_and_logits(victim, params, images):
    feature_maps, logits = victim(images)
    return apply(modules(params).fmr, params.fmr, feature_maps), logits


def _drift_and_context(victim, params, images):
    seen: Evidence = look(victim, params, images)
    return drift(seen), context(seen)


def _fit_usual(victim, params: CMAGParams, images: jax.Array) -> CMAGParams:
    if params.usual is None:
        return params
    drifts, contexts = _each(_drift_and_context, victim, params, images)
    check_finite({"drift": drifts})
    return dataclasses.replace(params, usual=usual_of(drifts, contexts))


def _fit_tails(victim, params: CMAGParams, images: jax.Array) -> CMAGParams:
    if params.tails is None:
        return params
    scores = _each(_judged_apart, victim, params, images)
    check_finite(scores)
    return dataclasses.replace(params, tails=tails(scores))


def _judged_apart(victim, params, images):
    return judge_apart(params, look(victim, params, images))


def _each(function: Callable, victim, params: CMAGParams, images: jax.Array) -> Any:
    """The function's outputs for all images, computed in batches of LOOK_BATCH."""
    jitted = jax.jit(function)
    parts = [
        jitted(victim, params, images[start : start + LOOK_BATCH])
        for start in range(0, len(images), LOOK_BATCH)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _asked(function: Callable, victim: Victim, params: CMAGParams, images: Images) -> Any:
    """The jitted function's outputs for images; also for an empty batch."""
    victim = ready(victim)
    if not images.shape[0]:
        return of_none(lambda x: function(victim, params, x), images)
    return function(victim, params, images)


@jax.jit
def _reconstruct(victim, params, images) -> Reconstructions:
    return Reconstructions(*cascade.rebuild(params, *victim(images)))


_scores_apart = jax.jit(_judged_apart)


@jax.jit
def _score(victim, params, images) -> dict[str, jax.Array]:
    return judge(params, look(victim, params, images))
