"""Stateless adversarial-example detectors in JAX: CMAG, CMAG+ and their baselines.

A detector scores each image by itself. Every detector is a module with the same four functions,
`fit`, `score`, `calibrate` and `detect`:

    from cmag_jax import cmag

    params, info = cmag.fit(key, victim, clean_images)
    thresholds = cmag.calibrate(cmag.score(victim, params, held_out_images), fpr=0.01)
    flags = cmag.detect(cmag.score(victim, params, images), thresholds)

A victim is a pure function from images to (feature maps, logits). Images are (B, H, W, C)
float32 in [0, 1].
"""

from cmag_jax import cmag, defense_gan, feature_squeezing, magnet, protocol
from cmag_jax.cmag.cascade import CMAGParams
from cmag_jax.cmag.config import CMAG_PLUS, CMAGConfig
from cmag_jax.ssim import global_ssim, windowed_ssim
from cmag_jax.thresholds import calibrate, detect

__version__ = "0.2.0"

__all__ = [
    "CMAG_PLUS",
    "CMAGConfig",
    "CMAGParams",
    "__version__",
    "calibrate",
    "cmag",
    "defense_gan",
    "detect",
    "feature_squeezing",
    "global_ssim",
    "magnet",
    "protocol",
    "windowed_ssim",
]


def __dir__() -> list[str]:
    return __all__
