"""Options of `python -m experiments.adaptive`, and its presets."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from experiments.cmag.config import DatasetName, Preset
from experiments.pipeline.detectors import Choice, DetectorName, chosen, slug
from experiments.runtime import checks, cli


@dataclass(frozen=True)
class Config:
    """All options that determine a run, except the victim and the detectors.

    These are those of `experiments.cmag` with the same data set and preset.
    """

    dataset: DatasetName = "digits"
    preset: Preset = "quick"  # defaults of the other options, and of the detectors
    system: tuple[Choice, ...] = ("all",)
    seed: int = 0
    images: int = 50  # correctly classified test images to attack
    slow_images: int = 10  # the same for Defense-GAN, where each score needs a search
    batch: int = 50  # images per batch; no result depends on it
    steps: int = 1000  # steps of PGD, and of all rounds of CW together
    step_size: float = 0.05  # step of zero-knowledge PGD, as a share of eps
    eps: tuple[float, ...] = (0.1, 0.2, 0.3)  # l-infinity strengths in the tables
    # Strengths in the distortion curve, which ends at the first that always succeeds.
    wide_eps: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
    confidence: tuple[float, ...] = (0.0, 9.0, 19.0, 29.0)  # confidences of zero-knowledge CW
    # How far below its thresholds an attack pushes a surrogate detector, whose scores differ from
    # the deployed detector's. At 1, the score is that of the median clean image.
    margin: float = 0.5
    search_steps: int = 20  # of the Defense-GAN surrogate's search, at each attack step
    restarts: int = 2  # starting points of that search
    output_dir: Path | None = None  # None: runs/adaptive-DATASET-PRESET-seedSEED[-SYSTEM]
    cache_dir: Path = Path("runs/cache")  # cache of victims, detectors and attacked images
    data_dir: Path | None = None  # where TFDS keeps prepared data sets; None: TFDS_DATA_DIR
    manual_dir: Path | None = None  # the publishers' archives, one sub-folder per data set

    def __post_init__(self) -> None:
        checks.seeds(self.seed)
        checks.counts(self, "images", "slow_images", "batch", "steps", "search_steps")
        checks.counts(self, "restarts")
        for name in ("eps", "wide_eps"):
            values = getattr(self, name)
            rising = values and list(values) == sorted(set(values))
            if not rising or not 0 < values[0] <= values[-1] <= 1:
                raise ValueError(
                    f"expected {name} that rise from above 0 to 1 at most, got {values}"
                )
        checks.above_zero(self, "step_size", most=1)
        checks.some(self, "system")
        checks.different(self, "confidence")
        for kappa in self.confidence:
            if not 0 <= kappa < math.inf:
                raise ValueError(f"expected a finite confidence of at least 0, got {kappa}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"expected a finite margin of at least 0, got {self.margin}")

    @property
    def chosen(self) -> tuple[DetectorName, ...]:
        """Names of the attacked detectors, in the tables' order."""
        return chosen(self.system)

    @property
    def middle_eps(self) -> float:
        """The strength of the curve over the number of steps."""
        return self.eps[len(self.eps) // 2]

    @property
    def folder(self) -> Path:
        """The run folder."""
        of = "" if "all" in self.system else "-" + "-".join(map(slug, self.chosen))
        run = f"runs/adaptive-{self.dataset}-{self.preset}-seed{self.seed}{of}"
        return self.output_dir or Path(run)


def preset(name: Preset, dataset: DatasetName) -> Config:
    """Returns the options of a preset."""
    if name == "paper":
        return Config(dataset, name, images=500, slow_images=100, batch=100)
    return Config(dataset, name)


def parse(arguments: list[str] | None = None, description: str | None = None) -> Config:
    """Returns the configuration of a command line: the preset, with the given options."""
    choices: dict[str, tuple[str, tuple]] = {
        "preset": ("quick", get_args(Preset)),
        "dataset": ("digits", get_args(DatasetName)),
    }
    return cli.parse(
        Config,
        preset,
        choices,
        arguments,
        prog="python -m experiments.adaptive",
        description=description,
    )
