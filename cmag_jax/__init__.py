"""Adversarial-example detectors in JAX that look at one image: CMAG, CMAG+ and their rivals.

Every detector is a module of the same four functions, `fit`, `score`, `calibrate` and `detect`:

    from cmag_jax import cmag

    params, info = cmag.fit(key, victim, clean_images)
    thresholds = cmag.calibrate(cmag.score(victim, params, held_out_images), fpr=0.01)
    flags = cmag.detect(cmag.score(victim, params, images), thresholds)

A victim is a pure function from images to (feature maps, logits). Images are (B, H, W, C)
float32 in [0, 1].
"""

from cmag_jax import cmag as cmag
from cmag_jax import defense_gan as defense_gan
from cmag_jax import feature_squeezing as feature_squeezing
from cmag_jax import magnet as magnet
from cmag_jax.cascade import CMAGParams as CMAGParams
from cmag_jax.config import CMAG_PLUS as CMAG_PLUS
from cmag_jax.config import CMAGConfig as CMAGConfig
from cmag_jax.ssim import global_ssim as global_ssim
from cmag_jax.ssim import windowed_ssim as windowed_ssim
from cmag_jax.thresholds import calibrate as calibrate
from cmag_jax.thresholds import detect as detect
