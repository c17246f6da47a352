"""Measures speed as ratios: `python -m experiments.benchmark attacks`, `detectors` or `spt`.

Everything that is compared runs in one process, turn and turn about, on the same weights; the
figure is the median, with compilation apart. Nothing here asserts: see results.json. An
interrupted run of `attacks` goes on where it was with the same command.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments import (
    benchmark_attacks,
    benchmark_detectors,
    benchmark_spt,
    benchmark_victims,
    cmag_config,
    datasets,
    program,
    report,
    results,
    victims,
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    what: tyro.conf.Positional[Literal["attacks", "detectors", "spt"]]
    dataset: Literal["digits", "mnist", "fashion_mnist", "gtsrb", "cifar10"] = "mnist"
    network: Literal["small", "vgg"] = "small"  # that `attacks` are run on
    only: tuple[str, ...] = ()  # attacks, as the table names them; all by default
    images: int = 128  # attacked at a time, at most: slow attacks get fewer
    repeats: int = 50  # of a measurement, at most: slow attacks get fewer
    most_steps: int = 1_000_000  # of any attack; fewer for a quick look
    peer_limit: float = 120.0  # a peer whose first call takes more seconds is not called again
    detector_repeats: int = 200  # of a measurement of `detectors` or `spt`, at most
    batches: tuple[int, ...] = (1, 32, 1024)  # of `detectors`
    preset: cmag_config.Preset = "quick"  # of `detectors`: which of each system, and which victim
    fit_repeats: int = 20  # epochs of `detectors`
    output_dir: Path | None = None
    cache_dir: Path = Path("runs/cache")
    data_dir: Path | None = None
    manual_dir: Path | None = None


def main(config: Config) -> None:
    if config.what == "detectors" and config.dataset not in cmag_config.VICTIMS:
        raise SystemExit(f"error: expected a dataset among {tuple(cmag_config.VICTIMS)}")
    folder = config.output_dir or Path(f"runs/benchmark-{config.what}-{config.dataset}")
    data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    races: Iterable[list[results.Row]]  # each is written once it is over
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
    """Rows about what is attacked: a trained classifier."""
    small = benchmark_victims.CONFIGS[config.dataset]
    victim_config = benchmark_victims.VGG if config.network == "vgg" else small
    victim = victims.get(data, victim_config, seed=0, cache_dir=config.cache_dir)
    network = victims.make_cnn(data.classes, victim_config)
    try:
        return benchmark_attacks.measure(config, folder, data, victim, network)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    with program.errors_in_words():
        main(tyro.cli(Config, prog="python -m experiments.benchmark", description=__doc__))
