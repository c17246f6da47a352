"""What every detector of this library offers. `cmag`, `magnet`, `defense_gan` and
`feature_squeezing` are modules of this type; a program that takes a `Detector` takes any of them.

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

OnEpoch = Callable[[str, int, int, float], None]  # (module, epochs made, epochs to make, mean loss)
Losses = dict[str, np.ndarray]  # name of the loss -> (epochs,) its mean over each epoch
CleanImages = Literal["training", "held-out"]


class Detector(Protocol):
    """A detector. Its params are a pytree with a field for each of MODULES, and with the fields
    `config` and `image_shape`."""

    @property
    def MODULES(self) -> tuple[str, ...]:
        """The fields of the params that are fitted, in that order."""
        ...

    @property
    def FROM_HELD_OUT(self) -> tuple[str, ...]:
        """Those of MODULES that are fitted to held-out images, not to the training images."""
        ...

    @property
    def PAPER_RULE_ON(self) -> CleanImages:
        """The clean images that `paper_thresholds` takes the scores of."""
        ...

    @property
    def CLASSIFIES_REBUILT(self) -> bool:
        """Whether the paper's defence classifies what `rebuild` gives in the image's place."""
        ...

    @property
    def SLOW(self) -> bool:
        """Whether a score is a search of thousands of gradient steps."""
        ...

    def init(self, key: jax.Array, victim: Victim, images: Images, config: Any) -> Any:
        """Untrained params for images like these (B, H, W, C)."""
        ...

    def fit(
        self, key: jax.Array, victim: Victim, images: Images, config: Any = None
    ) -> tuple[Any, Any]:
        """The params fitted to clean images (N, H, W, C), and the losses of the training."""
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
        """One module's part of `fit`, for a program that keeps each as it is finished."""
        ...

    def score(self, victim: Victim, params: Any, images: Images) -> dict[str, jax.Array]:
        """{score: (B,)} of images (B, H, W, C), higher is more adversarial. Jitted."""
        ...

    def differentiable_score(
        self, victim: Victim, params: Any, images: Images
    ) -> dict[str, jax.Array]:
        """The values of `score`, with the gradients that an adaptive attack needs: where a step
        of the score has none (rounding), that of its straight-through estimate (BPDA)."""
        ...

    def calibrate(self, clean_scores: Scores, *, fpr: float | None = None) -> Thresholds:
        """Thresholds from the scores of held-out clean images, each (N,)."""
        ...

    def paper_thresholds(self, params: Any, clean_scores: Scores) -> Thresholds:
        """Thresholds by the rule of the detector's own paper."""
        ...

    def detect(self, scores: Scores, thresholds: Thresholds) -> jax.Array:
        """Flags (B,) bool."""
        ...

    def rebuild(self, victim: Victim, params: Any, images: Images) -> jax.Array | None:
        """The detector's reconstruction (B, H, W, C) of images, or None where it makes none."""
        ...

    def surrogate(self, params: Any, *, search_steps: int, restarts: int) -> Any:
        """Params of a cheaper detector for an adaptive attack, which asks for a score and its
        gradient at every step: the params themselves unless the detector is SLOW."""
        ...
