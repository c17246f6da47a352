"""CMAG, the cascade model-aware generative detector of Han, Li and Xia (2020).

Two first-order reconstructors rebuild an image x from the victim's outputs: FMR from its last
feature maps, LR from its class probabilities. A second-order reconstructor, GR, rebuilds x from the
Hadamard product of the two. The victim's outputs on an adversarial example do not fit the image, so
the reconstruction is bad. The score is the reconstruction error.

    params, info = cmag.fit(key, victim, clean_images)
    thresholds = cmag.calibrate(cmag.score(victim, params, held_out_images), fpr=0.01)
    flags = cmag.detect(cmag.score(victim, params, images), thresholds)

`CMAGConfig()` is the paper's detector. `CMAG_PLUS` is our configuration of the same cascade. Its
`fit` also needs held-out images. `cmag_jax.cmag.config` compares the two.
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
