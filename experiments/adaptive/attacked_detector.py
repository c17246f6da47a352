"""A calibrated detector, and its differentiable form that an attack uses."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from experiments.adaptive.config import Config
from experiments.datasets import Split
from experiments.pipeline import detectors
from experiments.pipeline.detectors import FittedDetector, Scores, Thresholds
from experiments.victims import predict

# Rounding differs by batch size; this margin keeps an image unflagged in any batch.
ROUNDING = 1e-3
TINY = 1e-6  # the smallest spread: most clean images may have the same score


@dataclass(frozen=True)
class Detector:
    """A detector, the scores that calibrate it, and the function that an attack differentiates."""

    system: FittedDetector
    validation: Scores  # of held-out clean images
    margin: float  # how far below its thresholds an attack pushes it, in spreads

    def thresholds(self, fpr: float) -> Thresholds:
        return self.system.module.calibrate(self.validation, fpr=fpr)

    def evaded(self, images: np.ndarray, labels: np.ndarray, fpr: float, cache_dir: Path):
        """Returns which images (N,) are misclassified and not flagged: the final success."""
        scores = detectors.score_all(self.system, images, cache_dir)
        flags = self.system.module.detect(scores, self.thresholds(fpr))
        return (predict(self.system.victim, images) != labels) & ~np.asarray(flags)

    def flagged(self, fpr: float) -> Partial:
        """Returns images (B, H, W, C) -> (B,), above zero exactly where the detector flags.

        The value is the largest arsinh((score - threshold) / spread). A spread is the distance from
        the threshold to the median clean image. arsinh shrinks a thousand spreads to the size of
        logits, so that the score does not dominate the attack's loss. The function is
        differentiable. Weights and thresholds are bound to it, so that two rates and two seeds
        share one compilation.
        """
        limits = self.thresholds(fpr)
        spreads = {
            name: max(limit - float(np.median(self.validation[name])), TINY)
            for name, limit in limits.items()
        }
        # Not a functools.partial: no two of them are equal, so jit would compile each.
        score = self.system.module.differentiable_score
        bound = Partial(score, self.system.victim.features_and_logits, self.system.params)
        return Partial(_flagged, bound, limits, spreads, 0.0)

    def wanted(self, fpr: float) -> Partial:
        """Returns `flagged`, but above zero until the scores are `margin` below the thresholds."""
        function, limits, spreads, _ = self.flagged(fpr).args
        return Partial(_flagged, function, limits, spreads, self.margin)


def _flagged(score, limits, spreads, margin, images) -> jax.Array:
    scores = score(images)
    above = [(scores[name] - limits[name]) / spreads[name] for name in limits]
    return jnp.arcsinh(jnp.max(jnp.stack(above), axis=0) + margin)


def true(system: FittedDetector, validation: Split, cache_dir: Path) -> Detector:
    """Returns the deployed detector, with unlimited queries."""
    scores = detectors.score_all(system, validation.images, cache_dir)
    return Detector(system, scores, ROUNDING)


def copy(system: FittedDetector, validation: Split, config: Config) -> Detector:
    """Returns a surrogate detector, such as the attacker's own of another seed.

    For Defense-GAN it has few restarts and steps, because a full search (200 steps from 10 starts)
    at each step of an attack is too slow. The surrogate has its own calibration.
    """
    detector = true(_cheap(system, config), validation, config.cache_dir)
    return dataclasses.replace(detector, margin=config.margin)


def differentiable(detector: Detector, validation: Split, config: Config) -> Detector:
    """Returns what perfect knowledge attacks: the detector, or a surrogate if it is too slow."""
    cheap = _cheap(detector.system, config)
    return detector if cheap is detector.system else copy(cheap, validation, config)


def _cheap(system: FittedDetector, config: Config) -> FittedDetector:
    return system.surrogate(search_steps=config.search_steps, restarts=config.restarts)
