"""Detectors small enough to be saved and loaded hundreds of times."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp

from cmag_jax import CMAG_PLUS, cmag
from experiments import datasets, victims
from experiments.pipeline import detector_io
from experiments.pipeline.detectors import FittedDetector

VICTIM = victims.VictimConfig((2, 4), dense=8)
CONFIG = dataclasses.replace(CMAG_PLUS, fmr_width=4, lr_width=4, gr_width=8)
THRESHOLDS = {"paper": {"rarity": 2.5}, "fpr=0.05": {"rarity": 1.5}}


def tiny(seed: int = 0) -> FittedDetector:
    """A CMAG+ over a victim, neither of them trained."""
    network, images = victims.make_cnn(10, VICTIM), jnp.zeros((1, 28, 28, 1))
    key = jax.random.key(seed)
    victim = victims.bind(network, jax.jit(network.init)(key, images), key="tiny")
    params = cmag.init(key, victim.features_and_logits, images, CONFIG)
    return FittedDetector("CMAG+", CONFIG, params, victim, {}, "tiny")


def save(run: Path, seed: int = 0) -> Path:
    """The folder of a tiny detector, saved in the run folder."""
    detector_io.save(run, tiny(seed), VICTIM, datasets.load("digits"), THRESHOLDS)
    return run / "detectors" / "CMAG+"
