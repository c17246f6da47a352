"""CMAG, the cascade model-aware generative detector of Han, Li and Xia (2020).

Two first-order reconstructors look at what the victim made of an image x: FMR at its last feature
maps, LR at its class probabilities. A second-order one, GR, rebuilds x from their Hadamard
product. An adversarial image makes the victim see something else than is there, so it is rebuilt
badly; the score is how badly.

    params, info = cmag.fit(key, victim, clean_images)
    thresholds = cmag.calibrate(cmag.score(victim, params, held_out_images), fpr=0.01)
    flags = cmag.detect(cmag.score(victim, params, images), thresholds)

`CMAGConfig()` is the paper's detector. `CMAG_PLUS` is ours, another configuration of the same
cascade: `cmag_jax.cmag.config` has the two side by side. It wants the held-out images in `fit` too.
"""

from cmag_jax.cmag.config import CMAG_PLUS, CMAGConfig
from cmag_jax.cmag.detector import (
    CLASSIFIES_REBUILT,
    FROM_HELD_OUT,
    LEAST_HELD_OUT,
    MODULES,
    PAPER_RULE_ON,
    SLOW,
    CMAGParams,
    FitInfo,
    Reconstructions,
    calibrate,
    combine,
    detect,
    differentiable_score,
    fit,
    fit_module,
    init,
    paper_thresholds,
    rebuild,
    reconstruct,
    reconstruction_loss,
    score,
    scores_apart,
    surrogate,
)

__all__ = [
    "CLASSIFIES_REBUILT",
    "CMAG_PLUS",
    "FROM_HELD_OUT",
    "LEAST_HELD_OUT",
    "MODULES",
    "PAPER_RULE_ON",
    "SLOW",
    "CMAGConfig",
    "CMAGParams",
    "FitInfo",
    "Reconstructions",
    "calibrate",
    "combine",
    "detect",
    "differentiable_score",
    "fit",
    "fit_module",
    "init",
    "paper_thresholds",
    "rebuild",
    "reconstruct",
    "reconstruction_loss",
    "score",
    "scores_apart",
    "surrogate",
]


def __dir__() -> list[str]:
    return __all__
