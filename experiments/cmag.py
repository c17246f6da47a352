"""CMAG end to end: `python -m experiments.cmag --dataset=mnist`.

Trains (or reuses) a victim, fits CMAG to it, attacks the test set, and writes a run folder:
results.json, report.html, figures/ and the fitted detector. What was computed before is read
from the cache, so an interrupted run goes on where it was.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax import CMAGParams, cmag
from experiments import (
    attacking,
    cache,
    checkpoints,
    datasets,
    detector,
    evaluation,
    figures,
    paper_values,
    program,
    progress,
    report,
    results,
    victims,
)
from experiments.attacking import Attacked, AttackSpec
from experiments.cmag_config import Config, parse, specs
from experiments.datasets import Split
from experiments.evaluation import Scored, Scores

# Raise it when a change of cmag_jax makes detectors fitted before it another thing.
VERSION = 1
GALLERY_ROWS = 6
NOTE = (
    "Rates over adversarial images are over the successful ones; rates over clean images are over"
    " the whole test set, misclassified images included."
)


def main(config: Config) -> Path:
    """Runs everything and returns the run folder."""
    clock = results.Stopwatch()
    folder = config.output_dir or Path(
        f"runs/cmag-{config.dataset}-{config.preset}-seed{config.seed}"
    )
    with clock.stage("data"):
        data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    with clock.stage("victim"):
        victim = victims.get(data, config.victim, seed=config.seed, cache_dir=config.cache_dir)
        accuracies = {
            name: (victims.accuracy(victim, split), len(split))
            for name, split in (("test", data.test), ("validation", data.validation))
        }
    with clock.stage("fit"):
        params, losses = _fit(config, data, victim)

    def score(images: np.ndarray) -> Scores:
        return score_all(victim, params, images, batch=config.score_batch)

    with clock.stage("score"):
        train, validation, test = (
            score(split.images) for split in (data.train, data.validation, data.test)
        )
    limits = evaluation.thresholds(train, validation)
    with clock.stage("attack"):
        most = max(config.fgsm_images, config.cw_images)
        targets = attacking.choose(victim, data.test, most, seed=config.seed)
        attacked = {spec: _attack(config, victim, targets, spec) for spec in specs(config)}
    with clock.stage("score"):
        scored = [_scored(spec, made, score) for spec, made in attacked.items()]

    with clock.stage("report"):
        rows = list(
            evaluation.rows(
                config.dataset, validation, test, scored, limits, len(data.train), accuracies
            )
        )
        detector.save(folder / "detector", victim, config.victim, data.classes, params, limits)
        pictures = _draw_examples(folder, victim, params, attacked)
        pictures |= _draw_curves(folder, losses, test, validation, scored, limits)
    clock.seconds["total"] = results.since_start()
    results.write_json(folder / "config.json", config)
    results.write(folder / "results.json", config=config, rows=rows, seconds=clock.seconds)
    title = f"CMAG on {config.dataset} ({config.preset} preset)"
    report.write_html(folder, title, pictures, NOTE)
    _say(folder, config, clock)
    return folder


def score_all(
    victim: victims.Victim, params: CMAGParams, images: np.ndarray, *, batch: int
) -> Scores:
    """`cmag.score` of any number of images, a batch at a time."""
    parts = []
    for start in range(0, max(len(images), 1), batch):
        part = images[start : start + batch]
        # Filled up with blanks to one shape, so that scoring compiles once.
        blanks = np.zeros((batch - len(part), *images.shape[1:]), np.float32)
        scores = cmag.score(victim.features_and_logits, params, np.concatenate([part, blanks]))
        parts.append({name: np.asarray(values)[: len(part)] for name, values in scores.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _fit(
    config: Config, data: datasets.Dataset, victim: victims.Victim
) -> tuple[CMAGParams, dict[str, np.ndarray]]:
    """(params, losses by module): `cmag.fit`, each module kept in the cache once it is trained."""
    key = cache.key(cmag=config.cmag, victim=victim.key, seed=config.seed, version=VERSION)
    random = jax.random.fold_in(jax.random.key(config.seed), 1)  # the victim's is the key itself
    network, images = victim.features_and_logits, jnp.asarray(data.train.images)
    params = cmag.init(random, network, images[:1], config.cmag)
    losses = {}
    for name in cmag.MODULES:
        path = config.cache_dir / f"cmag-{config.dataset}-{key}-{name}"
        epochs = getattr(config.cmag, f"{name}_epochs")
        if path.exists():
            like = {"weights": getattr(params, name), "losses": np.zeros(epochs, np.float32)}
            stored = checkpoints.load(path, like)
            params = dataclasses.replace(params, **{name: stored["weights"]})
            losses[name] = np.asarray(stored["losses"])
            continue
        with progress.bar(epochs, f"fit {name.upper()}", "epochs") as bar:

            def on_epoch(_name: str, _epoch: int, _epochs: int, loss: float, bar=bar) -> None:
                bar.set_postfix(loss=f"{loss:.4f}")
                bar.update()

            params, losses[name] = cmag.fit_module(
                name, random, network, params, images, on_epoch=on_epoch
            )
        tree = {"weights": getattr(params, name), "losses": losses[name]}
        cache.write_atomically(path, partial(checkpoints.save, tree=tree))
    return params, losses


def _attack(config: Config, victim: victims.Victim, targets: Split, spec: AttackSpec) -> Attacked:
    count = config.cw_images if spec.name == "CW-l2" else config.fgsm_images
    split = Split(targets.images[:count], targets.labels[:count])
    return attacking.attack(
        spec, victim, split, chunk=config.attack_batch, seed=config.seed, cache_dir=config.cache_dir
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


def _draw_examples(folder, victim, params, attacked: dict[AttackSpec, Attacked]) -> dict[str, Path]:
    """A gallery for every attack; returns caption -> path."""
    pictures = {}
    for spec, made in attacked.items():
        rows = np.flatnonzero(made.success)[:GALLERY_ROWS]
        if not len(rows):
            continue
        rebuilt = cmag.reconstruct(victim.features_and_logits, params, made.images[rows])
        columns = {"clean": made.clean[rows], "adversarial": made.images[rows]} | {
            name.upper(): np.asarray(getattr(rebuilt, name)) for name in cmag.MODULES
        }
        path = folder / "figures" / f"examples-{spec.name.lower()}-{spec.strength:g}.png"
        figures.gallery(path, spec.title, columns)
        caption = f"{spec.title}: clean, adversarial, and what FMR, LR and GR make of the latter"
        pictures[caption] = path
    return pictures


def _draw_curves(folder, losses, test, validation, scored, limits) -> dict[str, Path]:
    """Histograms, ROC and training losses; returns caption -> path."""
    pictures = {
        "Scores of clean test images and of adversarial ones": folder / "figures" / "scores.png",
        "ROC of the decision over both scores": folder / "figures" / "roc.png",
        "Training losses of the three modules": folder / "figures" / "losses.png",
    }
    scores, roc, curve = pictures.values()
    figures.histograms(scores, test, scored, limits)
    figures.roc(roc, test, validation, scored)
    figures.losses(curve, losses)
    return pictures


def _say(folder: Path, config: Config, clock: results.Stopwatch) -> None:
    document = results.read(folder)
    detection = paper_values.detection_table(config.dataset)
    report.console(document["rows"], ("extra/victim", "extra/attack", detection, "extra/fpr"))
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in clock.seconds.items())
    print(f"seconds: {seconds}; peak memory {results.peak_memory_gib():.2f} GiB")
    print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")


if __name__ == "__main__":
    with program.errors_in_words():
        main(parse(description=__doc__))
