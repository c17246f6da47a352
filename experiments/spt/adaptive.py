"""Attackers who know what they are up against, and attackers who only ask.

Every system that remembers, SPT's and its rivals, under one attack made in many ways: as it is,
with dummies, in turns, in longer and fewer steps, with noise on each query (and the mean over it),
from several clients. Then attacks without gradients, whose queries are many and alike.

`deceived` is the share of queries that the classifier did not answer; what counts is the success
on the original (OS), beside that on the unprotected classifier.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import attacks_jax
from experiments import cache, progress
from experiments.results import Row
from experiments.spt import evasions
from experiments.spt.attacks import Spec
from experiments.spt.buffer_tables import rates
from experiments.spt.defences import Defence
from experiments.spt.evasions import Evasion
from experiments.spt.lab import CLASSIFIER, Lab, Measured, labels_of
from experiments.spt.natural import defences

STEPS, STEP_SIZE = 40, 3e-4  # table VII's second block: seen by the buffer, and hard enough
LONG_STEP = 1.8e-3  # ten of them are just over 35 dB: 10 ** (-35 / 20) / 10 = 1.778e-3
NOISE = 0.0126  # two noises of this size are 35 dB apart
QUERY_IMAGES, QUERIES = 50, 500
UNPROTECTED = {CLASSIFIER: Defence("none")}


def measure(lab: Lab, folder: Path) -> Measured:
    rows = _by_gradients(lab) + _by_queries(lab)
    return Measured(rows)


def evasive(lab: Lab) -> dict[str, Spec]:
    """The attack and its evasions, all of the same total size but for the noise."""
    config = lab.config
    make = partial(Spec, "MI-FGSM", target=config.target)
    steps, size = config.steps or STEPS, config.step_size or STEP_SIZE
    few = max(round(steps * size / LONG_STEP), 1)
    below = config.length + config.patience  # as many as are never deceived
    return {
        "as it is": make(steps, size),
        "dummy every t-1": make(steps, size, evasion=Evasion(dummy_every=config.length - 1)),
        "dummy every 3": make(steps, size, evasion=Evasion(dummy_every=3)),
        "in turns of 3": make(steps, size, turns=3),
        "in turns of 4": make(steps, size, turns=4),
        f"{below} steps": make(below, steps * size / below),
        "steps over T": make(few, LONG_STEP),
        "noise": make(steps, size, evasion=Evasion(noise=NOISE)),
        "noise, EOT 5": make(steps, size, evasion=Evasion(noise=NOISE, samples=5)),
        "3 clients": make(steps, size, evasion=Evasion(clients=3)),
    }


def _by_gradients(lab: Lab) -> list[Row]:
    rows, config = [], lab.config
    for title, defence in (UNPROTECTED | defences(lab)).items():
        for how, spec in evasive(lab).items():
            attacked = lab.attacked(spec, defence, images=config.adaptive_images)
            cs, os = rates(lab, spec, attacked)
            figures = {
                "attack_success_rate_all:OS": os,
                "attack_success_rate_all:CS": cs,
                "deceived": attacked.by_decoy.sum() / attacked.queries.sum(),
            }
            rows += [
                _row(lab, "extra/spt/adaptive", title, how, metric, value, len(attacked.images))
                for metric, value in figures.items()
            ]
    return rows


@dataclass(frozen=True)
class Asking:
    """An attack run to its end by `attacks_jax.run`, untargeted."""

    name: str
    make: Any
    queries: int


ASKING = (
    Asking("CW-l2 1x100", partial(
        attacks_jax.carlini_wagner_l2, num_steps=100, step_size=0.02, binary_search_steps=1,
        initial_const=1.0, abort_early=False), 102),
    Asking("NES", partial(attacks_jax.nes, eps=0.05, samples=20, num_steps=QUERIES), QUERIES),
    Asking("Square", partial(attacks_jax.square, eps=0.05, num_steps=QUERIES), QUERIES),
    Asking("Boundary", partial(attacks_jax.boundary, num_steps=QUERIES), QUERIES),
    Asking("HopSkipJump", partial(attacks_jax.hop_skip_jump, num_steps=QUERIES), QUERIES),
)  # fmt: skip


def _by_queries(lab: Lab) -> list[Row]:
    rows = []
    victim = lab.network(CLASSIFIER)
    right = np.flatnonzero(labels_of(victim.logits, lab.split.images) == lab.split.labels)
    images = lab.split.images[right][:QUERY_IMAGES]
    labels = lab.split.labels[right][:QUERY_IMAGES]
    for title, defence in (UNPROTECTED | defences(lab)).items():
        system = lab.system(defence)
        for attack in ASKING:
            made = _asked(lab, attack, defence, system, images, labels)
            won = labels_of(victim.logits, made["images"]) != labels
            distance = made["distance"][won].mean() if won.any() else None
            figures = {
                "attack_success_rate:OS": won.mean(),
                "attack_success_rate:believed": made["success"].mean(),
                "deceived": made["by_decoy"].sum() / made["asked"].sum(),
                "mean_distance:OS": distance,
            }
            rows += [
                _row(lab, "extra/spt/queries-only", title, attack.name, metric, value, len(labels))
                for metric, value in figures.items()
                if value is not None
            ]
    return rows


def _asked(
    lab: Lab, attack: Asking, defence: Defence, system: Any, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    key = cache.key(
        attack=attack.name,
        queries=attack.queries,
        defence=defence,
        victim=lab.network(CLASSIFIER).key,
        decoy=lab.decoy(defence.decoy).key if defence.decoy else "",
        images=cache.digest(images, labels),
        seed=lab.config.seed,
        version=VERSION,
    )
    with progress.bar(1, f"{attack.name} on {defence.kind}", "batch") as bar:

        def compute():
            oracle = evasions.evading(Evasion(), system)
            before = evasions.begin(
                Evasion(), system, len(images), images.shape[1:], queries=attack.queries
            )
            result = attacks_jax.run(
                attack.make(), oracle, jax.random.key(lab.config.seed), images, labels,
                oracle_state=before,
            )  # fmt: skip
            record = result.oracle_state.record
            return {
                "images": result.images,
                "success": result.success,
                "distance": result.distance,
                "by_decoy": record.by_decoy,
                "asked": np.full(len(images), int(record.asked)),
            }

        found = cache.arrays(lab.config.cache_dir / f"spt-{lab.dataset}-asked-{key}.npz", compute)
        bar.update()
    return found


VERSION = 1  # raise it when what is cached here becomes another thing


def _row(lab: Lab, table: str, system: str, how: str, metric: str, value: float, n: int) -> Row:
    return Row(table, lab.dataset, system, how, None, metric, float(value), n)
