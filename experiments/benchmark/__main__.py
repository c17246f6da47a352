"""Measures speed as ratios: `python -m experiments.benchmark attacks`, `detectors` or `spt`.

All implementations run in one process, in turns, on the same weights. Each figure is a median;
compilation is timed separately. The figures are in results.json; nothing is asserted. The same
command resumes an interrupted run of `attacks`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments import datasets, victims
from experiments.benchmark import (
    attacks as benchmark_attacks,
)
from experiments.benchmark import (
    cases as attack_cases,
)
from experiments.benchmark import (
    detectors as benchmark_detectors,
)
from experiments.benchmark import (
    spt as benchmark_spt,
)
from experiments.benchmark import (
    victims as benchmark_victims,
)
from experiments.cmag import config as cmag_config
from experiments.cmag import defaults
from experiments.report import __main__ as report
from experiments.runtime import checks, cli, results

MOST_BATCH = 2**20


@dataclass(frozen=True)
class Config:
    what: tyro.conf.Positional[Literal["attacks", "detectors", "spt"]]
    dataset: Literal["digits", "mnist", "fashion_mnist", "gtsrb", "cifar10"] = "mnist"
    network: Literal["small", "vgg"] = "small"  # the classifier that `attacks` attacks
    only: tuple[str, ...] = ()  # attacks to measure, by their names in the table; all by default
    images: int = 128  # maximum images attacked at a time; slow attacks get fewer
    repeats: int = 50  # maximum repeats of a measurement; slow attacks get fewer
    most_steps: int = 1_000_000  # maximum steps of an attack; lower it for a quick look
    peer_limit: float = 120.0  # seconds; an implementation whose first call takes longer runs once
    detector_repeats: int = 200  # maximum repeats of a measurement of `detectors` or `spt`
    batches: tuple[int, ...] = (1, 32, 1024)  # batch sizes of `detectors`
    preset: cmag_config.Preset = "quick"  # settings of the models that `detectors` measures
    fit_repeats: int = 20  # training epochs that `detectors` measures
    output_dir: Path | None = None  # runs/benchmark-WHAT-DATASET if not given
    cache_dir: Path = Path("runs/cache")  # trained networks
    data_dir: Path | None = None  # prepared TFDS data sets; TFDS_DATA_DIR if not given
    manual_dir: Path | None = None  # the publishers' archives, one sub-folder per data set

    def __post_init__(self) -> None:
        if self.what == "detectors" and self.dataset not in defaults.DATASETS:
            raise ValueError(
                f"expected a dataset among {', '.join(defaults.DATASETS)} for detectors,"
                f" got {self.dataset}"
            )
        if self.what == "attacks" and self.dataset not in attack_cases.EPS:
            raise ValueError(
                f"expected a dataset among {', '.join(attack_cases.EPS)} for attacks,"
                f" got {self.dataset}"
            )
        checks.counts(self, "images", "repeats", "most_steps", "detector_repeats")
        checks.counts(self, "fit_repeats")
        if not self.peer_limit > 0:
            raise ValueError(f"expected peer_limit above 0, got {self.peer_limit}")
        checks.some(self, "batches")
        for batch in self.batches:
            if not 1 <= batch <= MOST_BATCH:
                raise ValueError(f"expected batches from 1 to {MOST_BATCH}, got {batch}")
        if self.what == "attacks":
            attack_cases.chosen(attack_cases.speed(self.dataset), self.only)


def main(config: Config) -> None:
    folder = config.output_dir or Path(f"runs/benchmark-{config.what}-{config.dataset}")
    cli.prepare_folders(folder, config.cache_dir)
    data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    races: Iterable[list[results.Row]]  # the rows of each are written when it ends
    if config.what == "spt":
        races = [benchmark_spt.measure(config, data)]
    elif config.what == "detectors":
        races = benchmark_detectors.measure(config, data)
    else:
        races = [_attacks(config, folder, data)]

    rows: list[results.Row] = []
    for race in races:
        rows += race
        seconds = {"total": results.since_start()}
        results.write(folder / "results.json", config=config, rows=rows, seconds=seconds)
    report.console(results.read(folder)["rows"], (f"extra/benchmark/{config.what}",))
    print(f"wrote {folder / 'results.json'}")


def _attacks(config: Config, folder: Path, data: datasets.Dataset) -> list[results.Row]:
    """Trains or loads the classifier, and returns the rows of the attacks on it."""
    small = benchmark_victims.CONFIGS[config.dataset]
    victim_config = benchmark_victims.VGG if config.network == "vgg" else small
    victim = victims.get(data, victim_config, seed=0, cache_dir=config.cache_dir)
    network = victims.make_cnn(data.classes, victim_config)
    return benchmark_attacks.measure(config, folder, data, victim, network)


if __name__ == "__main__":
    with cli.program():
        main(tyro.cli(Config, prog="python -m experiments.benchmark", description=__doc__))
