"""The cascade of CMAG as pure functions: from an image to the victim's outputs, to the
reconstructions by FMR, LR and GR, to the scores (section 3, figure 1)."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cmag_jax.cmag import reconstructors
from cmag_jax.cmag.combined_p_value import Tails, rarity, untold
from cmag_jax.cmag.config import CMAGConfig
from cmag_jax.cmag.scores import ASK_AGAIN, SCORES, Evidence, Usual, context, move, surprise
from cmag_jax.victim import Images, Victim, ready


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CMAGParams:
    """A fitted CMAG: a pytree of weights, with its configuration."""

    fmr: Any  # Flax variables
    lr: Any
    gr: Any
    usual: Usual | None  # baseline of the score "drift"; None if the configuration lacks "drift"
    tails: Tails | None  # null distribution of all scores; None unless decision is "rarity"
    config: CMAGConfig = dataclasses.field(metadata={"static": True})
    image_shape: tuple[int, int, int] = dataclasses.field(metadata={"static": True})


class Reconstructions(NamedTuple):
    fmr: jax.Array  # (B, H, W, C) in [0, 1]
    lr: jax.Array  # (B, H, W, C) in [0, 1]
    h: jax.Array  # (B, H, W, C): fmr and lr combined; in [0, 1], or in [-1, 1] if "signed"
    gr: jax.Array  # (B, H, W, C) in [0, 1]: x', the reconstruction that is compared with x


class Modules(NamedTuple):
    fmr: reconstructors.FeatureMapReconstructor
    lr: reconstructors.LogitReconstructor
    gr: reconstructors.GlobalReconstructor | reconstructors.GatedReconstructor


def init(key: jax.Array, victim: Victim, images: Images, config: CMAGConfig) -> CMAGParams:
    """The untrained params that `fit` starts from, for images of this shape (B, H, W, C). Under
    `jax.eval_shape` it gives the shapes of a fitted CMAG, for restoring a checkpoint."""
    _, height, width, channels = images.shape
    shape = (height, width, channels)
    reconstructors.check_image_shape(shape)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    feature_maps, logits = jax.eval_shape(ready(victim), image)
    reconstructors.check_feature_maps(feature_maps, shape)
    if logits.shape[-1] < 2:
        raise ValueError(f"expected a victim of at least 2 classes, got {logits.shape[-1]}")
    empty = CMAGParams(None, None, None, None, None, config, shape)
    inputs = (feature_maps.shape, logits.shape, (1, *shape))
    keys = jax.random.split(jax.random.fold_in(key, 0), 3)
    fmr, lr, gr = (
        module.init(k, jnp.zeros(of, jnp.float32))
        for module, k, of in zip(modules(empty), keys, inputs, strict=True)
    )
    usual = _no_usual(logits.shape[-1]) if "drift" in config.scores else None
    tails = untold(len(config.scores)) if config.decision == "rarity" else None
    return dataclasses.replace(empty, fmr=fmr, lr=lr, gr=gr, usual=usual, tails=tails)


def modules(params: CMAGParams) -> Modules:
    """The networks of the three sets of weights."""
    config, shape = params.config, params.image_shape
    return Modules(
        reconstructors.FeatureMapReconstructor(shape, config.fmr_width),
        reconstructors.LogitReconstructor(shape, config.lr_width),
        reconstructors.GatedReconstructor(config.gr_width)
        if config.gr == "gated"
        else reconstructors.GlobalReconstructor(config.gr_width),
    )


def apply(module: nn.Module, variables: Any, x: jax.Array) -> jax.Array:
    """The output of a module for x."""
    image: Any = module.apply(variables, x)
    return image


def distil(logits: jax.Array, config: CMAGConfig) -> jax.Array:
    """softmax(z / T), eq. 5. Almost one-hot at T = 1/1000."""
    return jax.nn.softmax(logits / config.temperature, axis=-1)


def combine(from_features: jax.Array, from_logits: jax.Array, config: CMAGConfig) -> jax.Array:
    """h, from the images (B, H, W, C) of FMR and LR: algorithm 1, line 3."""
    if config.combination == "average":
        return 0.5 * from_features + 0.5 * from_logits
    if config.combination == "signed":
        # In [0, 1] a dark pixel of one image erases the other image there.
        return (2 * from_features - 1) * (2 * from_logits - 1)
    return from_features * from_logits


def rebuild(
    params: CMAGParams, feature_maps: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The images of FMR and LR, their combination h, and the image of GR."""
    networks = modules(params)
    from_features = apply(networks.fmr, params.fmr, feature_maps)
    from_logits = apply(networks.lr, params.lr, distil(logits, params.config))
    h = combine(from_features, from_logits, params.config)
    return from_features, from_logits, h, apply(networks.gr, params.gr, h)


def look(victim: Victim, params: CMAGParams, images: jax.Array) -> Evidence:
    """All inputs of the configuration's scores. The victim also runs on FMR's image and on x moved
    by a pixel if a score needs it (ASK_AGAIN)."""
    feature_maps, logits = victim(images)
    from_features, *_, from_h = rebuild(params, feature_maps, logits)
    seen = Evidence(images, logits, from_features, from_h, logits, logits)
    if not set(ASK_AGAIN) & set(params.config.scores):
        return seen
    _, of_fmr = victim(from_features)
    moved = [victim(x)[1] for x in move(images)]
    return seen._replace(logits_of_fmr=of_fmr, logits_moved=(moved[0] + moved[1]) / 2)


def judge(params: CMAGParams, seen: Evidence) -> dict[str, jax.Array]:
    """The scores that have thresholds, each (B,): the configuration's scores, or their combined
    p-value as "rarity"."""
    scores = judge_apart(params, seen)
    return scores if params.tails is None else {"rarity": rarity(scores, params.tails)}


def judge_apart(params: CMAGParams, seen: Evidence) -> dict[str, jax.Array]:
    """The configuration's scores, each (B,)."""
    found = {}
    for name in params.config.scores:
        if name == "ssim":
            found[name] = SCORES[name](seen, params.config.ssim)
        elif name == "drift":
            assert params.usual is not None  # `init` sets it
            found[name] = surprise(SCORES[name](seen), params.usual, seen)
        else:
            found[name] = SCORES[name](seen)
    return found


def _no_usual(classes: int) -> Usual:
    """The baseline before fitting: `surprise` returns the score unchanged."""
    image, logits = (jnp.zeros(shape, jnp.float32) for shape in ((1, 4, 4, 1), (1, classes)))
    features = context(Evidence(image, logits, image, image, logits, logits)).shape[-1]
    return Usual(jnp.zeros(features, jnp.float32), jnp.zeros(features, jnp.float32))
