"""What a run of `python -m experiments.adaptive` can be told."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from experiments.cmag.config import DatasetName, Preset
from experiments.pipeline.detectors import Choice, DetectorName, chosen, slug
from experiments.runtime import checks, cli


@dataclass(frozen=True)
class Config:
    """Everything that determines a run beside the victim and the detectors, which are those of
    `experiments.cmag` with the same data set and preset."""

    dataset: DatasetName = "digits"
    preset: Preset = "quick"  # what the other options default to, and the detectors
    system: tuple[Choice, ...] = ("all",)
    seed: int = 0
    images: int = 50  # test images attacked, of those classified rightly
    slow_images: int = 10  # of Defense-GAN, whose every score is a search
    batch: int = 50  # images attacked at a time; no result depends on it
    steps: int = 1000  # of PGD; of CW all rounds together
    step_size: float = 0.05  # of PGD that knows the victim only, as a share of eps
    eps: tuple[float, ...] = (0.1, 0.2, 0.3)  # the strengths of the tables, l-infinity
    # The distortion curve's, which ends with the first that always succeeds.
    wide_eps: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
    confidence: tuple[float, ...] = (0.0, 9.0, 19.0, 29.0)  # of CW that knows the victim only
    # How far below its thresholds an attacker brings a copy of a detector, which can't tell him
    # exactly what the detector will say: 1 is what the median clean image has.
    margin: float = 0.5
    search_steps: int = 20  # of the copy of Defense-GAN that is asked at each step of an attack
    restarts: int = 2
    output_dir: Path | None = None  # runs/adaptive-DATASET-PRESET-seedSEED[-SYSTEM] by default
    cache_dir: Path = Path("runs/cache")  # victims, detectors, attacked images
    data_dir: Path | None = None  # where TFDS keeps prepared data sets (default: TFDS_DATA_DIR)
    manual_dir: Path | None = None  # the publishers' archives, a sub-folder a data set

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
        """The detectors attacked, in the tables' order."""
        return chosen(self.system)

    @property
    def middle_eps(self) -> float:
        """The strength at which steps are doubled."""
        return self.eps[len(self.eps) // 2]

    @property
    def folder(self) -> Path:
        """The run folder."""
        of = "" if "all" in self.system else "-" + "-".join(map(slug, self.chosen))
        run = f"runs/adaptive-{self.dataset}-{self.preset}-seed{self.seed}{of}"
        return self.output_dir or Path(run)


def preset(name: Preset, dataset: DatasetName) -> Config:
    """The options that a preset stands for."""
    if name == "paper":
        return Config(dataset, name, images=500, slow_images=100, batch=100)
    return Config(dataset, name)


def parse(arguments: list[str] | None = None, description: str | None = None) -> Config:
    """The command line's configuration: the preset's, with what is given changed."""
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
