"""CMAG end to end: `python -m experiments.cmag --dataset=mnist`.

Trains (or reuses) a victim, fits CMAG to it, attacks the test set, and writes a run folder:
results.json, report.html, figures/ and the fitted detector. What was computed before is read
from the cache, so an interrupted run goes on where it was.
"""

import argparse
import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from cmag_jax import CMAGConfig, CMAGParams, cmag
from experiments import (
    attacking,
    cache,
    datasets,
    detector,
    evaluation,
    figures,
    paper_values,
    progress,
    report,
    results,
    victims,
)
from experiments.attacking import Attacked, AttackSpec
from experiments.evaluation import Scored, Scores

# Raise it when a change of cmag_jax makes detectors fitted before it another thing.
VERSION = 1
GALLERY_ROWS = 6

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
    fgsm_eps: tuple[float, ...] = paper_values.FGSM_EPS
    cw_confidence: tuple[float, ...] = paper_values.CW_CONFIDENCE
    fgsm_images: int = 10_000  # test images attacked, of those classified rightly
    cw_images: int = 1000
    attack_batch: int = 200  # images attacked at a time; section 4.1
    score_batch: int = 2000  # images scored at a time: no result depends on it
    victim: victims.VictimConfig = field(default_factory=victims.VictimConfig)
    cmag: CMAGConfig = field(default_factory=CMAGConfig)
    cw: CWConfig = field(default_factory=CWConfig)


VICTIMS = {
    "digits": victims.VictimConfig((16, 32), epochs=20, batch_size=32, max_shift=2),
    "mnist": victims.VictimConfig((16, 32), epochs=6, dropout=0.3),
    "fashion_mnist": victims.VictimConfig((16, 32), epochs=8, dropout=0.3),
    "gtsrb": victims.VictimConfig((24, 48), 192, standardise=True, max_shift=2, epochs=16),
}
PAPER_VICTIMS = {
    "digits": VICTIMS["digits"],
    "mnist": victims.VictimConfig((32, 64), epochs=20),
    "fashion_mnist": victims.VictimConfig((32, 64), epochs=20),
    "gtsrb": victims.VictimConfig((64, 128), 512, standardise=True, max_shift=2, epochs=40),
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
        cw_images=400,
        victim=VICTIMS[dataset],
        cmag=DIGITS_CMAG if dataset == "digits" else QUICK_CMAG,
        cw=QUICK_CW,
    )


def parse(arguments: list[str] | None = None) -> Config:
    """The command line's configuration: the preset's, with what is given changed."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--preset", default="quick")
    early.add_argument("--dataset", default="digits")
    chosen, _ = early.parse_known_args(arguments)
    known = chosen.preset in ("quick", "paper") and chosen.dataset in VICTIMS
    default = preset(chosen.preset, chosen.dataset) if known else Config()  # tyro explains
    return tyro.cli(Config, args=arguments, default=default, description=__doc__)


def main(config: Config) -> Path:
    """Runs everything and returns the run folder."""
    clock = results.Stopwatch()
    folder = config.output_dir or Path(
        f"runs/cmag-{config.dataset}-{config.preset}-seed{config.seed}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    results.write_json(folder / "config.json", config)

    data = clock.time("data", lambda: _load(config))
    victim = clock.time(
        "victim",
        lambda: victims.get(data, config.victim, seed=config.seed, cache_dir=config.cache_dir),
    )
    params, losses = clock.time("fit", lambda: _fit(config, data, victim))

    def score(images: np.ndarray) -> Scores:
        return score_all(victim, params, images, batch=config.score_batch)

    train, validation, test = clock.time(
        "score", lambda: [score(s.images) for s in (data.train, data.validation, data.test)]
    )
    limits = evaluation.thresholds(train, validation)
    attacked = {spec: clock.time("attack", lambda s=spec: _attack(config, data, victim, s))
                for spec in specs(config)}  # fmt: skip
    scored = clock.time("score", lambda: [_scored(s, a, score) for s, a in attacked.items()])

    accuracies = {
        name: (victims.accuracy(victim, split), len(split))
        for name, split in (("test", data.test), ("validation", data.validation))
    }
    rows = list(evaluation.rows(config.dataset, validation, test, scored, limits, accuracies))
    detector.save(folder / "detector", victim, config.victim, data.classes, params, limits)
    pictures = clock.time(
        "figures",
        lambda: _draw(folder, victim, params, losses, test, validation, attacked, scored, limits),
    )
    clock.seconds["total"] = results.since_start()
    results.write(folder / "results.json", config=config, rows=rows, seconds=clock.seconds)
    report.write_html(folder, f"CMAG on {config.dataset} ({config.preset} preset)", pictures)
    _say(folder, config, clock)
    return folder


def specs(config: Config) -> list[AttackSpec]:
    """The attacks of tables 3-7, in the tables' order."""
    options = tuple(dataclasses.asdict(config.cw).items())
    fgsm = [AttackSpec("FGSM", float(eps)) for eps in config.fgsm_eps]
    return fgsm + [AttackSpec("CW-l2", float(k), options) for k in config.cw_confidence]


def score_all(
    victim: victims.Victim, params: CMAGParams, images: np.ndarray, *, batch: int
) -> Scores:
    """`cmag.score` of any number of images, a batch at a time."""
    batches = [
        cmag.score(victim.features_and_logits, params, images[start : start + batch])
        for start in range(0, len(images), batch)
    ] or [cmag.score(victim.features_and_logits, params, images)]
    return {name: np.concatenate([np.asarray(b[name]) for b in batches]) for name in batches[0]}


def _load(config: Config) -> datasets.Dataset:
    return datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)


def _fit(config: Config, data: datasets.Dataset, victim: victims.Victim):
    """(CMAGParams, losses by module), from the cache where they are there."""
    key = cache.key(cmag=config.cmag, victim=victim.key, seed=config.seed, version=VERSION)
    path = config.cache_dir / f"cmag-{config.dataset}-{key}"
    start = jax.random.fold_in(jax.random.key(config.seed), 1)  # 0 is the victim's own

    if not path.exists():
        bars = {}

        def on_epoch(module: str, epoch: int, epochs: int, loss: float) -> None:
            if module not in bars:
                bars[module] = progress.bar(epochs, f"fit {module.upper()}", "epochs")
            bars[module].set_postfix(loss=f"{loss:.4f}")
            bars[module].update()
            if epoch == epochs:
                bars[module].close()

        params, info = cmag.fit(
            start, victim.features_and_logits, data.train.images, config.cmag, on_epoch=on_epoch
        )
        tree = {
            "modules": {name: getattr(params, name) for name in MODULES},
            "losses": {name: getattr(info, f"{name}_loss") for name in MODULES},
        }
        cache.write_atomically(path, lambda temporary: detector.save_tree(temporary, tree))

    shapes = jax.eval_shape(
        lambda k: cmag.init(k, victim.features_and_logits, data.train.images[:1], config.cmag),
        start,
    )
    epochs = {name: getattr(config.cmag, f"{name}_epochs") for name in MODULES}
    stored = detector.load_tree(
        path,
        {
            "modules": {name: getattr(shapes, name) for name in MODULES},
            "losses": {name: np.zeros(epochs[name]) for name in MODULES},
        },
    )
    return dataclasses.replace(shapes, **stored["modules"]), stored["losses"]


MODULES = ("fmr", "lr", "gr")


def _attack(config: Config, data, victim: victims.Victim, spec: AttackSpec) -> Attacked:
    count = config.cw_images if spec.name == "CW-l2" else config.fgsm_images
    chosen = attacking.choose(victim, data.test, count, seed=config.seed)
    return attacking.attack(
        spec,
        victim,
        chosen,
        chunk=config.attack_batch,
        seed=config.seed,
        cache_dir=config.cache_dir,
    )


def _scored(spec: AttackSpec, attacked: Attacked, score) -> Scored:
    success = attacked.success
    return Scored(
        attack=spec.name,
        strength=spec.strength,
        scores=score(attacked.adversarial),
        success_rate=float(success.mean()),
        mean_distance=float(attacked.distance[success].mean()) if success.any() else float("nan"),
        attempts=len(success),
    )


def _draw(folder, victim, params, losses, test, validation, attacked, scored, limits):
    """Draws the run's figures and returns them, caption -> path."""
    pictures = {}

    def picture(name: str, caption: str) -> Path:
        pictures[caption] = folder / "figures" / name
        return pictures[caption]

    for spec, made in attacked.items():
        rows = np.flatnonzero(made.success)[:GALLERY_ROWS]
        if not len(rows):
            continue
        rebuilt = cmag.reconstruct(victim.features_and_logits, params, made.images[rows])
        columns = {"clean": made.clean[rows], "adversarial": made.images[rows]} | {
            name.upper(): np.asarray(getattr(rebuilt, name)) for name in MODULES
        }
        caption = f"{spec.title}: clean, adversarial, and what FMR, LR and GR make of the latter"
        name = f"examples-{spec.name.lower()}-{spec.strength:g}.png"
        figures.gallery(picture(name, caption), spec.title, columns)
    figures.histograms(
        picture("scores.png", "Scores of clean test images and of adversarial ones"),
        test, scored, limits,
    )  # fmt: skip
    figures.roc(
        picture("roc.png", "ROC of the decision over both scores"), test, validation, scored
    )
    figures.losses(picture("losses.png", "Training losses of the three modules"), losses)
    return pictures


def _say(folder: Path, config: Config, clock: results.Stopwatch) -> None:
    document = results.read(folder)
    detection = paper_values.DETECTION_TABLE.get(config.dataset, "extra/detection")
    report.console(document["rows"], ("extra/victim", "extra/attack", detection, "extra/fpr"))
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in clock.seconds.items())
    print(f"seconds: {seconds}; peak memory {results.peak_memory_gib():.2f} GiB")
    print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")


if __name__ == "__main__":
    try:
        main(parse())
    except datasets.DataError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from the last finished stage")
