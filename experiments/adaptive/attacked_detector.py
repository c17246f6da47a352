"""A detector as it decides, and as an attacker has it."""

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

# An image is to stay unflagged in a batch of another size too, which is rounded otherwise.
ROUNDING = 1e-3
TINY = 1e-6  # the least spread: a score may be the same for most clean images


@dataclass(frozen=True)
class Detector:
    """A detector that can be calibrated, and the gradients that an attacker has of it."""

    system: FittedDetector
    validation: Scores  # of held-out clean images
    margin: float  # how far below its thresholds an attacker brings it, in spreads

    def thresholds(self, fpr: float) -> Thresholds:
        return self.system.module.calibrate(self.validation, fpr=fpr)

    def evaded(self, images: np.ndarray, labels: np.ndarray, fpr: float, cache_dir: Path):
        """Which images (N,) are misclassified and not flagged: what counts in the end."""
        scores = detectors.score_all(self.system, images, cache_dir)
        flags = self.system.module.detect(scores, self.thresholds(fpr))
        return (predict(self.system.victim, images) != labels) & ~np.asarray(flags)

    def flagged(self, fpr: float) -> Partial:
        """images (B, H, W, C) -> (B,), above zero exactly where the detector flags: the largest
        arsinh((score - threshold) / spread), where a spread is what lies between the threshold and
        the median clean image, and arsinh bends what is a thousand times that down to the size of
        logits, lest an attacker's loss see nothing else. Differentiable; weights and thresholds
        are bound to it, so that two rates and two seeds are one compilation."""
        limits = self.thresholds(fpr)
        spreads = {
            name: max(limit - float(np.median(self.validation[name])), TINY)
            for name, limit in limits.items()
        }
        # Not a functools.partial: no two of them are equal, and jit would compile each.
        score = self.system.module.differentiable_score
        bound = Partial(score, self.system.victim.features_and_logits, self.system.params)
        return Partial(_flagged, bound, limits, spreads, 0.0)

    def wanted(self, fpr: float) -> Partial:
        """`flagged`, above zero until an attacker is content: `margin` below the thresholds."""
        function, limits, spreads, _ = self.flagged(fpr).args
        return Partial(_flagged, function, limits, spreads, self.margin)


def _flagged(score, limits, spreads, margin, images) -> jax.Array:
    scores = score(images)
    above = [(scores[name] - limits[name]) / spreads[name] for name in limits]
    return jnp.arcsinh(jnp.max(jnp.stack(above), axis=0) + margin)


def true(system: FittedDetector, validation: Split, cache_dir: Path) -> Detector:
    """The detector itself, in the hands of one who can ask it all he likes."""
    scores = detectors.score_all(system, validation.images, cache_dir)
    return Detector(system, scores, ROUNDING)


def copy(system: FittedDetector, validation: Split, config: Config) -> Detector:
    """A detector that stands for another: an attacker's own, of another seed.

    Of Defense-GAN a cheap one, with few restarts and steps, since a whole search (200 steps from
    10 starts) at each step of an attack is out of reach; calibrated for itself.
    """
    detector = true(_cheap(system, config), validation, config.cache_dir)
    return dataclasses.replace(detector, margin=config.margin)


def differentiable(detector: Detector, validation: Split, config: Config) -> Detector:
    """What one who has the detector itself attacks: it, or where that can't be paid for a copy."""
    cheap = _cheap(detector.system, config)
    return detector if cheap is detector.system else copy(cheap, validation, config)


def _cheap(system: FittedDetector, config: Config) -> FittedDetector:
    return system.surrogate(search_steps=config.search_steps, restarts=config.restarts)
