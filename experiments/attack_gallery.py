"""Draws the adversarial images of every attack: `python -m experiments.attack_gallery`

Writes attacks.png, with one column per attack and one row per image. All attacks start from the
same images. A cell is white if the attack failed.
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
from experiments.report import figures
from experiments.runtime import checks, cli, progress

MOST_IMAGES = 100  # rows of the picture


@dataclass(frozen=True)
class Config:
    dataset: Literal["digits", "mnist", "cifar10"] = "digits"
    images: int = 6
    output_dir: Path | None = None
    cache_dir: Path = Path("runs/cache")
    data_dir: Path | None = None
    manual_dir: Path | None = None

    def __post_init__(self) -> None:
        checks.counts(self, "images", most=MOST_IMAGES)


def main(config: Config) -> None:
    folder = config.output_dir or Path(f"runs/gallery-{config.dataset}")
    cli.prepare_folders(folder, config.cache_dir)
    data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    victim_config = benchmark_victims.CONFIGS[config.dataset]
    victim = victims.get(data, victim_config, seed=0, cache_dir=config.cache_dir)
    split = attack_runs.choose(victim, data.test, config.images, seed=0)
    oracle, key = attacks_jax.stateless(victim.logits), jax.random.key(0)
    columns = {"clean": split.images}
    cases = attack_cases.parity(config.dataset)
    with progress.bar(len(cases), f"gallery {config.dataset}", "attacks") as bar:
        for case in cases:
            goals = case.goals(split.labels, data.classes)
            result = attacks_jax.run(case.make(), oracle, key, split.images, goals)
            shown = np.where(result.success[:, None, None, None], result.images, 1.0)
            columns[case.name.replace(" ", "\n")] = shown
            bar.update()
    figures.gallery(folder / "attacks.png", "adversarial images; white: none found", columns)
    print(f"wrote {folder / 'attacks.png'}")


if __name__ == "__main__":
    with cli.program():
        main(tyro.cli(Config, prog="python -m experiments.attack_gallery", description=__doc__))
