"""The options and presets of `python -m experiments.spt`."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from experiments import datasets
from experiments.runtime import checks, cli
from experiments.spt.faces import FacesConfig

DatasetName = Literal["digits", "mnist", "fashion_mnist", "gtsrb", "cifar10"]
Preset = Literal["quick", "paper"]
Table = Literal[
    "demo", "II", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI",
    "queries", "adaptive", "natural", "names", "all",
]  # fmt: skip
# The tables of "all": the paper's, then ours.
ALL: tuple[Table, ...] = (
    "II", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "queries", "adaptive", "natural",
    "names",
)  # fmt: skip

MOST_LENGTH = 10_000  # images that the buffer keeps for each client
MOST_UNTRAINED = 100  # decoys of one seed: the next seed's decoys begin a hundred further on


@dataclass(frozen=True)
class Config:
    """All settings that determine a run, and its input and output folders."""

    table: Table = "demo"  # the paper's, or: demo, queries (section III), adaptive, natural, names
    dataset: DatasetName = "digits"
    preset: Preset = "quick"  # sets the other defaults: quick (minutes on a CPU) or the paper's
    seed: int = 0
    images: int = 200  # test images attacked in each row; the paper attacks all 10,000
    jsma_images: int = 50  # test images that JSMA attacks
    adaptive_images: int = 60  # test images that the adaptive attacks are run on
    natural_images: int = 200  # images in the benign query streams of duplicates and of video
    untrained_seeds: int = 3  # number of untrained decoys (T-) to average: they vary by seed
    length: int = 10  # images in the buffer: t, section IV-A
    threshold_db: float = 35.0  # PSNR above which two queries are similar: T
    patience: int = 5  # similar pairs of queries allowed before the decoy answers: S
    target: int = 0  # the class of targeted attacks
    steps: int | None = None  # attack steps; if not given, each table's own
    step_size: float | None = None  # attack step size, not JSMA's; if not given, each table's own
    jsma_theta: float = 0.1  # JSMA's change of a pixel; the paper gives none
    width: Literal["slim", "full"] = "slim"  # width of the networks
    chunk: int = 100  # images attacked at a time; does not change results
    output_dir: Path | None = None  # runs/spt-DATASET-PRESET-TABLE-seedSEED if not given
    cache_dir: Path = Path("runs/cache")  # trained networks and attacked images
    data_dir: Path | None = None  # prepared TFDS data sets; TFDS_DATA_DIR if not given
    manual_dir: Path | None = None  # the publishers' archives, one sub-folder per data set
    faces: FacesConfig = field(default_factory=FacesConfig)  # settings of table IX

    def __post_init__(self) -> None:
        checks.seeds(self.seed)
        checks.counts(self, "images", "jsma_images", "adaptive_images", "natural_images")
        checks.counts(self, "untrained_seeds", most=MOST_UNTRAINED)
        checks.counts(self, "length", most=MOST_LENGTH)
        checks.counts(self, "chunk", "steps")
        checks.counts(self, "patience", least=0)
        checks.above_zero(self, "step_size", "jsma_theta", most=1)
        if not -math.inf < self.threshold_db < math.inf:
            raise ValueError(f"expected a finite threshold_db, got {self.threshold_db}")
        classes = datasets.CLASSES[self.dataset]
        if not 0 <= self.target < classes:
            raise ValueError(
                f"expected a target from 0 to {classes - 1}, a class of {self.dataset},"
                f" got {self.target}"
            )

    @property
    def folder(self) -> Path:
        name = f"spt-{self.dataset}-{self.preset}-{self.table}-seed{self.seed}"
        return self.output_dir or Path("runs") / name


def preset(name: Preset, dataset: DatasetName, table: Table) -> Config:
    """Returns the default options of a preset."""
    if name == "paper":
        return Config(
            table, dataset, name,
            images=10_000, jsma_images=1000, adaptive_images=500, natural_images=500,
            untrained_seeds=5, width="full", chunk=1000, faces=FacesConfig.paper(),
        )  # fmt: skip
    if table == "demo":  # two minutes, training included
        return Config(table, dataset, name, images=50, untrained_seeds=1)
    return Config(table, dataset, name, faces=FacesConfig.quick())


def parse(arguments: list[str] | None = None, description: str | None = None) -> Config:
    """Returns the preset's configuration with the command line's options applied."""
    choices: dict[str, tuple[str, tuple]] = {
        "preset": ("quick", get_args(Preset)),
        "dataset": ("digits", get_args(DatasetName)),
        "table": ("demo", get_args(Table)),
    }
    return cli.parse(
        Config,
        preset,
        choices,
        arguments,
        prog="python -m experiments.spt",
        description=description,
    )
