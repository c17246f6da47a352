"""What a run of `python -m experiments.cmag` can be told, and what its presets say."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from cmag_jax import CMAGConfig
from experiments import paper_values, victims
from experiments.attacking import AttackSpec

DatasetName = Literal["digits", "mnist", "fashion_mnist", "gtsrb"]
Preset = Literal["quick", "paper"]


@dataclass(frozen=True)
class CWConfig:
    """Carlini and Wagner's l2 attack; the defaults are those of their paper but for the steps."""

    num_steps: int = 1000  # a round; theirs: 10,000, of which an example seldom uses a tenth
    step_size: float = 0.01
    binary_search_steps: int = 9
    initial_const: float = 1e-3
    abort_early: bool = True


@dataclass(frozen=True)
class Config:
    """Everything that determines a run, and where it reads and writes."""

    dataset: DatasetName = "digits"
    preset: Preset = "quick"  # what the other options default to: minutes on a CPU, or the paper
    seed: int = 0
    output_dir: Path | None = None  # the run folder; runs/cmag-DATASET-PRESET-seedSEED by default
    cache_dir: Path = Path("runs/cache")  # trained victims, fitted detectors, attacked images
    data_dir: Path | None = None  # where TFDS keeps prepared data sets (default: TFDS_DATA_DIR)
    manual_dir: Path | None = None  # the publishers' archives, a sub-folder a data set
    fgsm_eps: tuple[float, ...] = paper_values.FGSM_EPS  # none: no FGSM
    cw_confidence: tuple[float, ...] = paper_values.CW_CONFIDENCE  # none: no CW
    fgsm_images: int = 10_000  # test images attacked, of those classified rightly
    cw_images: int = 1000
    attack_batch: int = 200  # images attacked at a time; section 4.1
    score_batch: int = 500  # images scored at a time: no result depends on it
    victim: victims.VictimConfig = field(default_factory=victims.VictimConfig)
    cmag: CMAGConfig = field(default_factory=CMAGConfig)
    cw: CWConfig = field(default_factory=CWConfig)

    def __post_init__(self) -> None:
        for name in ("fgsm_images", "cw_images", "attack_batch", "score_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for spec in specs(self):
            spec.make()  # refuses what the attack can't be, before anything is trained


VICTIMS = {
    "digits": victims.VictimConfig((16, 32), epochs=30, batch_size=32, max_shift=2),
    "mnist": victims.VictimConfig((16, 32), epochs=6, dropout=0.3),
    "fashion_mnist": victims.VictimConfig((16, 32), epochs=8, dropout=0.3),
    "gtsrb": victims.VictimConfig((24, 48), dense=192, standardise=True, max_shift=2, epochs=16),
}
PAPER_VICTIMS = {
    "digits": VICTIMS["digits"],
    "mnist": victims.VictimConfig((32, 64), epochs=20),
    "fashion_mnist": victims.VictimConfig((32, 64), epochs=20),
    "gtsrb": victims.VictimConfig((64, 128), dense=512, standardise=True, max_shift=2, epochs=40),
}
# Small batches make more of few epochs; the paper's 2,000 needs a hundred.
QUICK_CMAG = CMAGConfig(batch_size=250, fmr_epochs=5, lr_epochs=2, gr_epochs=12, fmr_width=64)
DIGITS_CMAG = CMAGConfig(batch_size=50, fmr_epochs=30, lr_epochs=10, gr_epochs=30, fmr_width=64)
QUICK_CW = CWConfig(num_steps=200, step_size=0.05, binary_search_steps=5, initial_const=1.0)


def preset(name: Preset, dataset: DatasetName) -> Config:
    """The options that a preset stands for."""
    if name == "paper":
        cmag_config = DIGITS_CMAG if dataset == "digits" else CMAGConfig()
        return Config(dataset, name, victim=PAPER_VICTIMS[dataset], cmag=cmag_config)
    return Config(
        dataset,
        name,
        fgsm_images=1000,
        cw_images=200 if dataset == "digits" else 400,
        victim=VICTIMS[dataset],
        cmag=DIGITS_CMAG if dataset == "digits" else QUICK_CMAG,
        cw=QUICK_CW,
    )


def parse(arguments: list[str] | None = None, description: str | None = None) -> Config:
    """The command line's configuration: the preset's, with what is given changed."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset", default="quick")
    early.add_argument("--dataset", default="digits")
    chosen, _ = early.parse_known_args(arguments)
    known = chosen.preset in ("quick", "paper") and chosen.dataset in VICTIMS
    default = preset(chosen.preset, chosen.dataset) if known else Config()  # tyro explains
    return tyro.cli(
        Config,
        args=arguments,
        default=default,
        prog="python -m experiments.cmag",
        description=description,
    )


def specs(config: Config) -> list[AttackSpec]:
    """The attacks of tables 3-7, in the tables' order."""
    options = tuple(dataclasses.asdict(config.cw).items())
    fgsm = [AttackSpec("FGSM", float(eps)) for eps in config.fgsm_eps]
    return fgsm + [AttackSpec("CW-l2", float(k), options) for k in config.cw_confidence]
