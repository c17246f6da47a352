"""What a run of `python -m experiments.spt` can be told, and what its presets say."""

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
# What "all" stands for: the paper's, then ours.
ALL: tuple[Table, ...] = (
    "II", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "queries", "adaptive", "natural",
    "names",
)  # fmt: skip

MOST_LENGTH = 10_000  # of the buffer, which keeps as many images for each client
MOST_UNTRAINED = 100  # the next seed's decoys begin a hundred further on


@dataclass(frozen=True)
class Config:
    """Everything that determines a run, and where it reads and writes."""

    table: Table = "demo"  # of the paper, or: demo, queries (section III), adaptive, natural, names
    dataset: DatasetName = "digits"
    preset: Preset = "quick"  # what the other options default to: minutes on a CPU, or the paper
    seed: int = 0
    images: int = 200  # attacked in each row, of the test set; the paper: all 10,000
    jsma_images: int = 50
    adaptive_images: int = 60  # of the rows on attackers who know
    natural_images: int = 200  # duplicated, and filmed
    untrained_seeds: int = 3  # decoys without training (T-) are a lottery: how many are drawn
    length: int = 10  # t; section IV-A
    threshold_db: float = 35.0  # T
    patience: int = 5  # S
    target: int = 0  # the class of targeted attacks
    steps: int | None = None  # of the attacks, where the tables' own are not wanted
    step_size: float | None = None  # likewise, but for JSMA's
    jsma_theta: float = 0.1  # JSMA's change of a pixel; the paper gives none
    width: Literal["slim", "full"] = "slim"  # of the networks
    chunk: int = 100  # images attacked at a time: no result depends on it
    output_dir: Path | None = None  # runs/spt-DATASET-PRESET-TABLE-seedSEED by default
    cache_dir: Path = Path("runs/cache")  # trained networks, attacked images
    data_dir: Path | None = None  # where TFDS keeps prepared data sets (default: TFDS_DATA_DIR)
    manual_dir: Path | None = None  # the publishers' archives, a sub-folder a data set
    faces: FacesConfig = field(default_factory=FacesConfig)  # of table IX

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
    """The options that a preset stands for."""
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
    """The command line's configuration: the preset's, with what is given changed."""
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
