"""Prepares a data set ahead of time: `python -m experiments.prepare --dataset=mnist`."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments import datasets
from experiments.runtime import cli


@dataclass(frozen=True)
class Config:
    dataset: Literal["mnist", "fashion_mnist", "cifar10", "gtsrb", "orl_faces", "vggface2"]
    data_dir: Path | None = None  # where TFDS keeps prepared data sets; None: TFDS_DATA_DIR
    manual_dir: Path | None = None  # the publishers' archives, one sub-folder per data set
    face_size: tuple[int, int] | None = None  # (height, width) to scale faces to

    def __post_init__(self) -> None:
        if self.face_size is not None and self.dataset not in datasets.FACES:
            raise ValueError(
                f"expected face_size with {' or '.join(datasets.FACES)}, got it with {self.dataset}"
            )


def main(config: Config) -> None:
    start = time.monotonic()
    builder = datasets.prepare(
        config.dataset,
        data_dir=config.data_dir,
        manual_dir=config.manual_dir,
        face_size=config.face_size,
    )
    for name, split in builder.info.splits.items():
        print(f"{config.dataset} {name}: {split.num_examples:,} images")
    print(f"ready in {builder.data_path} after {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    with cli.program():
        main(tyro.cli(Config, prog="python -m experiments.prepare", description=__doc__))
