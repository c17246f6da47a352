"""The options of CMAG. The defaults are the paper's; CMAG+ is our configuration.

|                          | CMAG, the paper            | CMAG+                                    |
|--------------------------|----------------------------|------------------------------------------|
| FMR's training inputs    | features of clean images   | features of clean and noisy images; its  |
|                          |                            | targets are clean                        |
| h, from FMR and LR       | FMR * LR                   | (2 FMR - 1) * (2 LR - 1)                 |
| GR                       | a dense network            | a gated network: sigmoid(a + 4 g h)      |
| GR learns                | x from its class           | ... and 1 - x from any other class       |
| scores                   | GR's error: SSIM, l2       | FMR's errors, GR's l2, the victim's      |
|                          |                            | logits on x and on images near x         |
| an image is flagged if   | any score is too high      | its combined p-value is too low          |
| learning rate            | constant                   | falls along a cosine                     |
"""

import dataclasses
import math
from typing import Literal

from cmag_jax._checks import check_above_zero, check_counts, check_number, check_sequence
from cmag_jax.cmag.scores import SCORES
from cmag_jax.ssim import SSIM

CHOICES = {
    "combination": ("hadamard", "average", "signed"),
    "ssim": tuple(SSIM),
    "gr": ("dense", "gated"),
    "decision": ("any", "rarity"),
}


@dataclasses.dataclass(frozen=True)
class CMAGConfig:
    """All options of CMAG. With the victim, the images and the key they determine the fit."""

    mu_fmr: float = 0.5  # weight of the l2 term, eq. 12; section 4.1
    mu_lr: float = 0.5  # eq. 13
    mu_gr: float = 0.5  # eq. 14
    temperature: float = 1 / 1000  # T of eq. 5 before LR, section 3.2
    # h, from FMR and LR: their product in [0, 1], figure 4's average, or the product in [-1, 1].
    combination: Literal["hadamard", "average", "signed"] = "hadamard"
    ssim: Literal["global", "windowed"] = "global"  # eq. 6-10 define the global SSIM
    fmr_noise: float = 0.0  # half of FMR's images get noise; its sd is drawn from 0 to this
    gr: Literal["dense", "gated"] = "dense"
    contrast: float = 0.0  # weight of GR's loss for rebuilding 1 - x from a wrong class
    scores: tuple[str, ...] = (
        "ssim",
        "l2",
    )  # names in `cmag_jax.cmag.scores.SCORES`; the defaults are those of section 3.4
    # "any": each score has a threshold, and any score may flag an image (section 3.4).
    # "rarity": one threshold on the combined p-value (`cmag_jax.cmag.combined_p_value`).
    decision: Literal["any", "rarity"] = "any"
    learning_rate: float = 1e-3  # Adam, section 4.1
    final_rate: float = 1.0  # share of the learning rate at the end of a cosine decay
    batch_size: int = 2000  # section 4.1
    fmr_epochs: int = 100  # the paper does not state the epochs
    lr_epochs: int = 20
    gr_epochs: int = 100
    fmr_width: int = 128  # channels; the paper does not state the widths
    lr_width: int = 128
    gr_width: int = 512

    def __post_init__(self):
        check_sequence(self, "scores")
        object.__setattr__(self, "scores", tuple(self.scores))  # JSON gives a list
        for name in ("mu_fmr", "mu_lr", "mu_gr"):
            if not 0 <= check_number(self, name) <= 1:
                raise ValueError(f"expected {name} in [0, 1], got {getattr(self, name)}")
        check_above_zero(self, "temperature", "learning_rate", "final_rate")
        for name in ("fmr_noise", "contrast"):
            if not 0 <= check_number(self, name) < math.inf:
                raise ValueError(
                    f"expected a finite {name} of at least 0, got {getattr(self, name)}"
                )
        check_counts(self, "batch_size", "fmr_epochs", "lr_epochs", "gr_epochs")
        check_counts(self, "fmr_width", "lr_width", "gr_width")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"expected {name} among {choices}, got {getattr(self, name)!r}")
        different = len(set(self.scores)) == len(self.scores) > 0
        if not different or not set(self.scores) <= set(SCORES):
            raise ValueError(f"expected different scores among {tuple(SCORES)}, got {self.scores}")


CMAG_PLUS = CMAGConfig(
    combination="signed",
    fmr_noise=0.3,
    gr="gated",
    contrast=0.5,
    scores=("pixels", "edges", "l2", "drift", "tremor", "doubt"),
    decision="rarity",
    final_rate=0.02,
)
