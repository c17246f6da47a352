"""Do adversarial images stay adversarial in an 8-bit file? `python -m experiments.rounding`

Runs every attack on the same images, without and with rounding to 255 levels. Reports the success
rate, and the mean distance of successful examples to the clean images.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

import attacks_jax
from experiments import datasets, victims
from experiments.benchmark import cases as attack_cases
from experiments.benchmark import victims as benchmark_victims
from experiments.pipeline import attack_runs
from experiments.report import __main__ as report
from experiments.runtime import checks, cli, progress, results
from experiments.runtime.results import Row

TABLE = "extra/rounded"
LEVELS = 255


@dataclass(frozen=True)
class Config:
    dataset: Literal["digits", "mnist", "cifar10"] = "digits"
    images: int = 60
    only: tuple[str, ...] = ()  # attacks to run, as the table names them; all by default
    output_dir: Path | None = None
    cache_dir: Path = Path("runs/cache")
    data_dir: Path | None = None
    manual_dir: Path | None = None

    def __post_init__(self) -> None:
        checks.counts(self, "images")
        attack_cases.chosen(attack_cases.parity(self.dataset), self.only)


def main(config: Config) -> None:
    cases = attack_cases.chosen(attack_cases.parity(config.dataset), config.only)
    folder = config.output_dir or Path(f"runs/rounding-{config.dataset}")
    cli.prepare_folders(folder, config.cache_dir)
    data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    victim_config = benchmark_victims.CONFIGS[config.dataset]
    victim = victims.get(data, victim_config, seed=0, cache_dir=config.cache_dir)
    split = attack_runs.choose(victim, data.test, config.images, seed=0)
    clean = (np.round(split.images * LEVELS) / LEVELS).astype(np.float32)  # as in 8-bit files
    oracle, key = attacks_jax.stateless(victim.logits), jax.random.key(0)
    rows: list[Row] = []
    with progress.bar(len(cases), f"rounding {config.dataset}", "attacks") as bar:
        for case in cases:
            bar.set_postfix_str(case.name)
            goals = case.goals(split.labels, data.classes)
            for when, round_to in (("", None), (":8 bits", LEVELS)):
                result = attacks_jax.run(case.make(), oracle, key, clean, goals, round_to=round_to)
                success = np.asarray(result.success)
                found = {f"attack_success_rate{when}": float(success.mean())}
                if success.any():
                    distance = attack_cases.distortion(case, clean, np.asarray(result.images))
                    found[f"mean_distance{when}"] = float(distance[success].mean())
                rows += [
                    Row(
                        TABLE, config.dataset, "victim", case.name, None, metric,
                        round(value, 5), len(split),
                    )
                    for metric, value in found.items()
                ]  # fmt: skip
            bar.update()
    seconds = {"total": results.since_start()}
    results.write(folder / "results.json", config=config, rows=rows, seconds=seconds)
    report.console(results.read(folder)["rows"], (TABLE,))
    print(f"wrote {folder / 'results.json'}")


if __name__ == "__main__":
    with cli.program():
        main(tyro.cli(Config, prog="python -m experiments.rounding", description=__doc__))
