"""Adaptive attacks and attacks with many queries on stateful systems.

Each stateful system, SPT's and the baselines, faces one attack in many variants: as it is, with
dummies, in turns, in fewer or longer steps, with noise on each query (and the mean over it), from
several clients. Each variant is sized for the defence that it evades. Then follow CW and attacks
without gradients, whose queries are many and similar.

`deceived` is the share of an attack's queries that the classifier did not answer. `noticed` is the
share of images with at least one such query. The figure that counts is the success on the original
(OS), compared with that on the unprotected classifier.
"""

import functools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import attacks_jax
import spt_jax
from experiments.runtime import cache, progress
from experiments.runtime.results import Row
from experiments.spt import evasions
from experiments.spt.attacks import Attacked, Spec, own_queries
from experiments.spt.buffer_tables import rates
from experiments.spt.defences import NONE, Defence
from experiments.spt.evasions import NO_EVASION, Evasion
from experiments.spt.lab import CLASSIFIER, Lab, Measured
from experiments.spt.natural import defences
from experiments.victims import predict

# Table VII's small steps, and enough of them for OSD, which never flags the first fifty queries.
STEPS, STEP_SIZE = 60, 3e-4
MARGIN = 1.3  # factor by which noise and long steps exceed what the threshold requires
SAMPLES = 3  # queries in the mean over noise
QUERY_IMAGES, QUERIES = 30, 300


def measure(lab: Lab, folder: Path) -> Measured:
    return Measured(_by_gradients(lab) + _by_queries(lab))


def evasive(lab: Lab, defence: Defence) -> dict[str, Spec]:
    """Returns the attack and its adaptive variants, by name. All have the same total size, except
    those with noise or longer steps."""
    config, options = lab.config, dict(defence.options)
    make = partial(Spec, "MI-FGSM", target=config.target)
    steps, size = config.steps or STEPS, config.step_size or STEP_SIZE
    few = min(config.length + config.patience - 1, steps)  # all before the decoy answers
    alike = 10 ** (-options.get("threshold_db", config.threshold_db) / 20)  # root mean square
    noise = MARGIN * alike / 2**0.5  # both of the compared images have noise
    found = {
        "as it is": make(steps, size),
        "dummies": make(steps, size, evasion=dummies(lab, defence)),
        "in turns of 4": make(steps, size, turns=4),
        "fewer steps": make(few, steps * size / few),
        "longer steps": make(steps, MARGIN * alike / config.length),
        "noise": make(steps, size, evasion=Evasion(noise=noise)),
        "noise, EOT": make(steps, size, evasion=Evasion(noise=noise, samples=SAMPLES)),
    }
    if defence.kind != "blacklight":  # Blacklight has one memory for all clients
        found["3 clients"] = make(steps, size, evasion=Evasion(clients=3))
    return found


def dummies(lab: Lab, defence: Defence) -> Evasion:
    """Returns the dummies that suit a defence.

    Against a buffer it is one dummy, as rarely as still helps. Against chains it is a group that
    wipes all of them before one is long enough. The other defences, where dummies do not help, get
    the same as the buffer.
    """
    options = dict(defence.options)
    if defence.kind == "chain":
        return Evasion(dummy_every=options["trigger"], dummies=options["regions"])
    length = options.get("length", lab.config.length)
    patience = options.get("patience", lab.config.patience)
    reset = options.get("reset", "periodic")
    return Evasion(dummy_every=longest_quiet_period(length, patience, reset) or 1)


@functools.cache
def longest_quiet_period(length: int, patience: int, reset: Any) -> int | None:
    """Returns the most similar queries between two dummies for which a buffer never uses the decoy.
    Returns None if not even a dummy in every other query helps."""
    automaton = spt_jax.buffer(
        jnp.zeros_like, None, length=length, patience=patience, reset=reset, response="random"
    ).automaton
    longest = 3 * (length + patience)
    at = np.arange(20 * longest)
    for period in range(longest, 0, -1):
        dummy = at % (period + 1) == period
        # Multiples of the golden ratio keep the dummies apart from each other.
        pixels = np.stack([np.where(dummy, at * 0.618 % 1, 0.5), dummy], axis=-1)
        stream = jnp.asarray(pixels[:, None, None, :], jnp.float32)
        if not np.any(_deceived(automaton, stream) & ~dummy):
            return period
    return None


@jax.jit
def _deceived(automaton, stream):
    """Returns (N,) bool: the queries of a stream that the decoy answers."""
    return lax.scan(automaton.update, automaton.init(stream.shape[1:]), stream)[1]


def _systems(lab: Lab) -> dict[str, Defence]:
    """Returns the unprotected classifier, then the stateful systems. Chains have the paper's
    setting for attacks within the pixel bounds."""
    remembering = {k: v for k, v in defences(lab).items() if k != "chain 30 dB"}
    return {CLASSIFIER: NONE} | remembering


def _by_gradients(lab: Lab) -> list[Row]:
    rows = []
    for title, defence in _systems(lab).items():
        for how, spec in evasive(lab, defence).items():
            attacked = lab.attacked(spec, defence, images=lab.config.adaptive_images)
            cs, os = rates(lab, spec, attacked)
            figures = {
                "attack_success_rate_all:OS": os,
                "attack_success_rate_all:CS": cs,
                "deceived": attacked.by_decoy.sum() / attacked.queries.sum(),
                "noticed": (attacked.by_decoy > 0).mean(),
                "queries": _sent(spec, attacked),
            }
            rows += [
                lab.plain_row("extra/spt/adaptive", title, how, metric, value, len(attacked.images))
                for metric, value in figures.items()
            ]
    return rows


def _sent(spec: Spec, attacked: Attacked) -> float:
    """Returns the mean number of queries per image, dummies included."""
    how, queries = spec.evasion, attacked.queries
    wasted = how.dummies * ((queries - 1) // how.dummy_every) if how.dummy_every else 0
    return float(np.mean(queries + wasted))


@dataclass(frozen=True)
class Asking:
    """An untargeted attack that `attacks_jax.run` runs to its end."""

    name: str  # a function of attacks_jax
    options: tuple[tuple[str, Any], ...]
    queries: int  # most queries per image

    def make(self) -> attacks_jax.Attack:
        return getattr(attacks_jax, self.name)(**dict(self.options))


# One round of CW, which sends one query per step.
CW = (
    ("num_steps", 100), ("step_size", 0.02), ("binary_search_steps", 1), ("initial_const", 1.0),
    ("abort_early", False),
)  # fmt: skip
ASKING = {
    "CW-l2 1x100": Asking("carlini_wagner_l2", CW, 102),
    "NES": Asking("nes", (("eps", 0.05), ("samples", 20), ("num_steps", QUERIES)), QUERIES + 2),
    "Square": Asking("square", (("eps", 0.05), ("num_steps", QUERIES)), QUERIES + 2),
    "Boundary": Asking("boundary", (("num_steps", QUERIES),), QUERIES + 2),
    "HopSkipJump": Asking("hop_skip_jump", (("num_steps", QUERIES),), QUERIES + 2),
}


def _by_queries(lab: Lab) -> list[Row]:
    rows = []
    victim = lab.network(CLASSIFIER)
    right = np.flatnonzero(predict(victim, lab.split.images) == lab.split.labels)
    images = lab.split.images[right][:QUERY_IMAGES]
    labels = lab.split.labels[right][:QUERY_IMAGES]
    if not len(labels):
        return []
    for title, defence in _systems(lab).items():
        for name, attack in progress.over(ASKING.items(), f"queries on {title}"):
            made = _asked(lab, attack, defence, images, labels)
            won = predict(victim, made["images"]) != labels
            figures = {
                "attack_success_rate:OS": won.mean(),
                "attack_success_rate:believed": made["success"].mean(),
                "deceived": made["deceived"].sum() / made["queries"].sum(),
                "noticed": (made["deceived"] > 0).mean(),
            }
            if won.any():
                figures["mean_distance:OS"] = made["distance"][won].mean()
            rows += [
                lab.plain_row("extra/spt/queries-only", title, name, metric, value, len(labels))
                for metric, value in figures.items()
            ]
    return rows


def _asked(
    lab: Lab, attack: Asking, defence: Defence, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns the attack's images (N, H, W, C), and (N,) each: success, distance, queries, and
    queries that the decoy answered."""
    system = lab.system(defence)
    key = lab.key(
        defence, lab.network(CLASSIFIER), asking=attack, images=cache.digest(images, labels)
    )

    def compute() -> dict[str, np.ndarray]:
        oracle = evasions.evading(NO_EVASION, system)
        before = evasions.begin(
            NO_EVASION, system, len(images), images.shape[1:], queries=attack.queries
        )
        random = jax.random.key(lab.config.seed)
        result = attacks_jax.run(attack.make(), oracle, random, images, labels, oracle_state=before)
        queries = np.minimum(result.queries, attack.queries)
        deceived = own_queries(np.asarray(result.oracle_state.record.deceived), queries)
        return {
            "images": np.asarray(result.images),
            "success": np.asarray(result.success),
            "distance": np.asarray(result.distance),
            "deceived": deceived.sum(axis=0),
            "queries": queries,
        }

    return cache.arrays(lab.config.cache_dir / f"spt-{lab.dataset}-asked-{key}.npz", compute)
