"""The interface that all detectors share. The modules `cmag`, `magnet`, `defense_gan` and
`feature_squeezing` implement it, so a program that takes a `Detector` accepts any of them.

    detector: Detector = magnet
    params, info = detector.fit(key, victim, clean_images)
    thresholds = detector.calibrate(detector.score(victim, params, held_out_images), fpr=0.01)
    flags = detector.detect(detector.score(victim, params, images), thresholds)
"""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import numpy as np

from cmag_jax.thresholds import Scores, Thresholds
from cmag_jax.victim import Images, Victim

OnEpoch = Callable[[str, int, int, float], None]  # (module, finished epochs, all epochs, mean loss)
Losses = dict[str, np.ndarray]  # name of the loss -> (epochs,) mean of each epoch
CleanImages = Literal["training", "held-out"]


class Detector(Protocol):
    """A detector. Its params are a pytree with one field per name in MODULES, and the fields
    `config` and `image_shape`."""

    @property
    def MODULES(self) -> tuple[str, ...]:
        """The fitted fields of the params, in the order of fitting."""
        ...

    @property
    def FROM_HELD_OUT(self) -> tuple[str, ...]:
        """The names in MODULES that are fitted to held-out images, not to the training images."""
        ...

    @property
    def PAPER_RULE_ON(self) -> CleanImages:
        """The clean images whose scores `paper_thresholds` expects."""
        ...

    @property
    def CLASSIFIES_REBUILT(self) -> bool:
        """Whether the paper's defence classifies the output of `rebuild` instead of the image."""
        ...

    @property
    def SLOW(self) -> bool:
        """Whether one score takes thousands of gradient steps."""
        ...

    def init(self, key: jax.Array, victim: Victim, images: Images, config: Any) -> Any:
        """Untrained params for images of this shape (B, H, W, C)."""
        ...

    def fit(
        self, key: jax.Array, victim: Victim, images: Images, config: Any = None
    ) -> tuple[Any, Any]:
        """The params fitted to clean images (N, H, W, C), and the training losses."""
        ...

    def fit_module(
        self,
        name: str,
        key: jax.Array,
        victim: Victim,
        params: Any,
        images: Images,
        *,
        on_epoch: OnEpoch = ...,
    ) -> tuple[Any, Losses]:
        """One module's part of `fit`, for programs that save each module once it is fitted."""
        ...

    def score(self, victim: Victim, params: Any, images: Images) -> dict[str, jax.Array]:
        """{name of the score: (B,)} for images (B, H, W, C). Higher is more adversarial. Jitted."""
        ...

    def differentiable_score(
        self, victim: Victim, params: Any, images: Images
    ) -> dict[str, jax.Array]:
        """The values of `score`, with the gradients that an adaptive attack needs. A step without
        a gradient (rounding) gets its straight-through estimate (BPDA)."""
        ...

    def calibrate(self, clean_scores: Scores, *, fpr: float | None = None) -> Thresholds:
        """Thresholds from the scores of held-out clean images. Each score is (N,)."""
        ...

    def paper_thresholds(self, params: Any, clean_scores: Scores) -> Thresholds:
        """Thresholds by the rule of the detector's own paper."""
        ...

    def detect(self, scores: Scores, thresholds: Thresholds) -> jax.Array:
        """Flags (B,) bool."""
        ...

    def rebuild(self, victim: Victim, params: Any, images: Images) -> jax.Array | None:
        """Reconstructions (B, H, W, C), or None if the detector makes none."""
        ...

    def surrogate(self, params: Any, *, search_steps: int, restarts: int) -> Any:
        """Params of a cheaper detector for adaptive attacks, which need a score and its gradient
        at every step. The params themselves unless the detector is SLOW."""
        ...
