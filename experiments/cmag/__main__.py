"""Runs CMAG end to end: `python -m experiments.cmag --dataset=mnist`.

Trains (or reuses) a victim, fits CMAG and CMAG+ to it, attacks the test set, and writes a run
folder: results.json, report.html, figures/ and the fitted detectors. `--systems=all` adds the
baselines and makes all of the paper's tables and figures. The cache keeps finished steps, so an
interrupted run resumes.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from experiments import datasets, victims
from experiments.cmag import (
    decision_rows,
    detection_rows,
    paper_values,
    reconstruction,
    theorem,
)
from experiments.cmag import (
    figures as cmag_figures,
)
from experiments.cmag.config import Config, other_specs, parse, specs
from experiments.cmag.config import hardened as hardened_victim
from experiments.cmag.detection_rows import Attack, Clean, Scored
from experiments.datasets import Dataset, Split
from experiments.pipeline import attack_runs, detector_io, detectors
from experiments.pipeline.attack_runs import Attacked, AttackSpec
from experiments.pipeline.detectors import FittedDetector, Scores
from experiments.report import __main__ as report
from experiments.runtime import cache, cli, results
from experiments.runtime.results import Row
from experiments.victims import Victim

NOISE = (0.02, 0.05, 0.1)  # standard deviations of benign noise, which should not be flagged
NOTE = (
    "Rates over adversarial images are over the successful ones (accuracy_all: over all that were"
    " attacked); rates over clean images are over the whole test set, misclassified ones included."
    " MagNet and Defense-GAN are judged as detectors: what they let through, the bare victim"
    " classifies."
)


def main(config: Config) -> Path:
    """Runs everything and returns the run folder."""
    clock = results.Stopwatch()
    folder = config.output_dir or Path(
        f"runs/cmag-{config.dataset}-{config.preset}-seed{config.seed}"
    )
    cli.prepare_folders(folder, config.cache_dir)
    with clock.stage("data"):
        data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    with clock.stage("victim"):
        victim = victims.get(data, config.victim, seed=config.seed, cache_dir=config.cache_dir)
        accuracies = {
            name: (victims.accuracy(victim, split), len(split))
            for name, split in (("test", data.test), ("validation", data.validation))
        }
    with clock.stage("attack"):
        attacked = _attack_all(config, data, victim)
        attacks = {spec: _summary(spec, made, victim) for spec, made in attacked.items()}

    rows = list(detection_rows.victim_rows(config.dataset, accuracies, list(attacks.values())))
    fitted, outcomes = {}, {}
    for name in config.chosen:
        blame = f"the options of {name}, the learning rate first"
        with clock.stage(f"fit {name}"), cli.blaming(blame):
            fitted[name] = detectors.fit(
                name,
                config.of_system(name),
                data,
                victim,
                seed=config.seed,
                cache_dir=config.cache_dir,
            )
        with clock.stage(f"score {name}"), cli.blaming(blame):
            clean = _clean(config, data, fitted[name])
            limits = detection_rows.thresholds(fitted[name], clean)
            scored = _score_attacks(config, fitted[name], attacked, attacks)
        rows += detection_rows.rows(config.dataset, fitted[name], clean, scored, limits)
        rows += _rebuilt_rows(config, data, fitted[name])
        rows += _decision_rows(config, fitted[name], data, attacked, clean, scored)
        outcomes[name] = cmag_figures.Outcome(fitted[name], clean, scored, limits)
    with clock.stage("reconstruction"):
        variants = _variants(config, data, fitted)
        rows += _reconstruction_rows(config, data, fitted, variants, attacked)

    if config.whole:
        with clock.stage("adversarial training"):
            rows += _hardened_rows(config, data, victim, attacked)

    with clock.stage("report"):
        pictures = cmag_figures.draw(folder / "figures", data, attacked, outcomes, variants)
        for name in detector_io.SAVED:
            if name in fitted:
                detector_io.save(folder, fitted[name], config.victim, data, outcomes[name].limits)
    clock.seconds["total"] = results.since_start()
    results.write_json(folder / "config.json", config)
    results.write(folder / "results.json", config=config, rows=rows, seconds=clock.seconds)
    title = f"{', '.join(config.chosen)} on {config.dataset} ({config.preset} preset)"
    report.write_html(folder, title, pictures, NOTE)
    _say(folder, config, clock)
    return folder


def _attack_all(config: Config, data: Dataset, victim: Victim) -> dict[AttackSpec, Attacked]:
    """Runs every attack on its number of test images."""
    counts = {
        spec: config.cw_images if spec.name == "CW-l2" else config.fgsm_images
        for spec in specs(config)
    }
    if config.whole:
        counts |= dict.fromkeys(other_specs(config), config.other_images)
    most = max(config.fgsm_images, config.cw_images)
    targets = attack_runs.choose(victim, data.test, most, seed=config.seed)

    def attack(spec: AttackSpec, count: int) -> Attacked:
        return attack_runs.attack(
            spec,
            victim,
            Split(targets.images[:count], targets.labels[:count]),
            chunk=config.attack_batch,
            seed=config.seed,
            cache_dir=config.cache_dir,
            training=data.train,
        )

    return {spec: attack(spec, count) for spec, count in counts.items() if count}


def _summary(spec: AttackSpec, made: Attacked, victim: Victim) -> Attack:
    right = victims.predict(victim, made.images) == made.labels
    distance = float(made.distance[made.success].mean()) if made.success.any() else float("nan")
    return Attack(spec.name, spec.strength, made.success, right, distance)


def _clean(config: Config, data: Dataset, system: FittedDetector) -> Clean:
    """Scores the clean images, and the test images under benign noise."""
    score = partial(detectors.score_all, system, cache_dir=config.cache_dir)
    validation, test, noise = data.samples(config.most(system), seed=config.seed)
    on_training = system.module.PAPER_RULE_ON == "training"
    return Clean(
        training=score(data.train.images) if on_training else None,
        validation=score(validation.images),
        test=score(test.images),
        right=victims.predict(system.victim, test.images) == test.labels,
        noisy={sd: score(np.clip(test.images + sd * noise, 0, 1)) for sd in NOISE},
    )


def _score_attacks(
    config: Config,
    system: FittedDetector,
    attacked: dict[AttackSpec, Attacked],
    attacks: dict[AttackSpec, Attack],
) -> list[Scored]:
    most = config.most(system)
    return [
        Scored(attacks[spec], detectors.score_all(system, made.images[:most], config.cache_dir))
        for spec, made in attacked.items()
        if most is None or spec.name in paper_values.ATTACKS  # slow: only tables 3-7
    ]


def _rebuilt_rows(config: Config, data: Dataset, system: FittedDetector) -> Iterator[Row]:
    """Yields the victim's accuracy on clean images and on their reconstructions.

    It applies to defences whose reconstructions the victim classifies: MagNet's reformer and
    Defense-GAN. On MNIST their papers lose less than half a point, and 1 to 5 points.
    """
    if not system.module.CLASSIFIES_REBUILT:
        return
    test = data.samples(config.most(system), seed=config.seed).test
    images, labels = test.images, test.labels
    key = cache.key(
        rebuilt=system.key, images=cache.digest(images), version=detectors.SCORES_VERSION
    )
    path = config.cache_dir / f"rebuilt-{detectors.slug(system.name)}-{key}.npz"
    rebuilt = cache.arrays(path, lambda: {"images": np.asarray(system.rebuild(images))})["images"]
    for metric, seen in (("accuracy:as they are", images), ("accuracy:rebuilt", rebuilt)):
        right = float(np.mean(victims.predict(system.victim, seen) == labels))
        table = "extra/rebuilt"
        yield Row(
            table, config.dataset, system.name, "none", None, metric, round(right, 6), len(labels)
        )


def _decision_rows(
    config: Config,
    system: FittedDetector,
    data: Dataset,
    attacked: dict[AttackSpec, Attacked],
    clean: Clean,
    scored: list[Scored],
) -> Iterator[Row]:
    """Compares decisions on the paper's attacks. Only combined p-values need new scores."""
    found: dict[tuple[str, float | None], Scores]
    if decision_rows.by_rarity(system):
        apart = decision_rows.apart(system)
        score = partial(detectors.score_all, apart, cache_dir=config.cache_dir)
        held_out, test = score(data.validation.images), score(data.test.images)
        found = {
            (spec.name, spec.strength): score(made.adversarial)
            for spec, made in attacked.items()
            if spec.name in paper_values.ATTACKS
        }
    else:
        held_out, test = clean.validation, clean.test
        found = {
            (one.attack.name, one.attack.strength): one.scores
            for one in scored
            if one.attack.name in paper_values.ATTACKS
        }
    yield from decision_rows.rows(config.dataset, system, held_out, test, found)


def _variants(config: Config, data: Dataset, fitted: dict) -> dict[str, FittedDetector]:
    """Returns what figures 4 to 6 compare: CMAG, CMAG with the average for the product, CMAG+."""
    if not (config.whole and "CMAG" in fitted):
        return {}
    average = reconstruction.with_average(
        fitted["CMAG"], data, seed=config.seed, cache_dir=config.cache_dir
    )
    variants = {"CMAG": fitted["CMAG"], "CMAG, weighted average": average}
    return variants | ({"CMAG+": fitted["CMAG+"]} if "CMAG+" in fitted else {})


def _reconstruction_rows(
    config: Config, data: Dataset, fitted: dict, variants: dict, attacked: dict
) -> Iterator[Row]:
    """Yields tables 6 and 7, the ablation and theorem 1, for the fitted CMAG and CMAG+."""
    for name in ("CMAG", "CMAG+"):
        if name not in fitted:
            continue
        system = fitted[name]
        measure = partial(
            detectors.score_all, reconstruction.errors_of_gr(system), cache_dir=config.cache_dir
        )
        yield from reconstruction.tables_6_and_7(data, system, attacked, measure)
        if config.whole:
            of_paper = {s: m for s, m in attacked.items() if s.name in paper_values.ATTACKS}
            error = theorem.reconstruction_error(system.victim.features_and_logits, system.params)
            yield from theorem.rows(config.dataset, name, error, of_paper)
    yield from reconstruction.ablation(config.dataset, variants, data.test.images, attacked)


def _hardened_rows(
    config: Config, data: Dataset, victim: Victim, attacked: dict[AttackSpec, Attacked]
) -> Iterator[Row]:
    """Compares eq. 11's victim with the other one: the same attacks, equally many images."""
    hardened = victims.get(
        data, hardened_victim(config), seed=config.seed, cache_dir=config.cache_dir
    )
    for name, one in (("victim", victim), ("adversarial training", hardened)):

        def row(metric, value, n, attack="none", strength=None, name=name):
            table = "extra/adversarial-training"
            value = round(float(value), 6)
            return Row(table, config.dataset, name, attack, strength, metric, value, n)

        yield row("accuracy:test", victims.accuracy(one, data.test), len(data.test))
        for spec in attacked:
            if spec.name not in paper_values.ATTACKS:
                continue
            targets = attack_runs.choose(one, data.test, config.hardened_images, seed=config.seed)
            if not len(targets):
                continue  # it classifies no image correctly, as its accuracy shows
            made = attack_runs.attack(
                spec,
                one,
                targets,
                chunk=config.attack_batch,
                seed=config.seed,
                cache_dir=config.cache_dir,
            )
            at = {"attack": spec.name, "strength": spec.strength}
            yield row("attack_success_rate", made.success.mean(), len(targets), **at)
            if made.success.any():
                distance = made.distance[made.success].mean()
                yield row("mean_distance", distance, int(made.success.sum()), **at)


def _say(folder: Path, config: Config, clock: results.Stopwatch) -> None:
    document = results.read(folder)
    detection = paper_values.detection_table(config.dataset)
    report.console(document["rows"], ("extra/victim", "extra/attack", detection, "extra/fpr"))
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in clock.seconds.items())
    print(f"seconds: {seconds}; peak memory {results.peak_memory_gib():.2f} GiB")
    print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")


if __name__ == "__main__":
    with cli.program():
        main(parse(description=__doc__))
