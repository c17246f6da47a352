"""Attackers who know what they are up against, and attackers who only ask.

Every system that remembers, SPT's and its rivals, under one attack made in many ways: as it is,
with dummies, in turns, in fewer or in longer steps, with noise on each query (and the mean over
it), from several clients; each evasion sized for the defence that it is to evade. Then attacks
without gradients, whose queries are many and alike.

`deceived` is the share of an attack's queries that the classifier did not answer, `noticed` the
share of images with one such query at least. What counts is the success on the original (OS),
beside that on the unprotected classifier.
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

# Table VII's small steps, and enough of them for OSD, which is silent about the first fifty.
STEPS, STEP_SIZE = 60, 3e-4
MARGIN = 1.3  # by which noise and long steps are larger than the threshold asks for
SAMPLES = 3  # of the mean over noise
QUERY_IMAGES, QUERIES = 30, 300


def measure(lab: Lab, folder: Path) -> Measured:
    return Measured(_by_gradients(lab) + _by_queries(lab))


def evasive(lab: Lab, defence: Defence) -> dict[str, Spec]:
    """The attack and its evasions; of one total size, but for noise and long steps."""
    config, options = lab.config, dict(defence.options)
    make = partial(Spec, "MI-FGSM", target=config.target)
    steps, size = config.steps or STEPS, config.step_size or STEP_SIZE
    few = min(config.length + config.patience - 1, steps)  # as many as are never deceived
    alike = 10 ** (-options.get("threshold_db", config.threshold_db) / 20)  # root mean square
    noise = MARGIN * alike / 2**0.5  # of two images: both have it
    found = {
        "as it is": make(steps, size),
        "dummies": make(steps, size, evasion=dummies(lab, defence)),
        "in turns of 4": make(steps, size, turns=4),
        "fewer steps": make(few, steps * size / few),
        "longer steps": make(steps, MARGIN * alike / config.length),
        "noise": make(steps, size, evasion=Evasion(noise=noise)),
        "noise, EOT": make(steps, size, evasion=Evasion(noise=noise, samples=SAMPLES)),
    }
    if defence.kind != "blacklight":  # which has one memory for all clients
        found["3 clients"] = make(steps, size, evasion=Evasion(clients=3))
    return found


def dummies(lab: Lab, defence: Defence) -> Evasion:
    """Against a buffer one dummy as seldom as it helps; against chains as many as wipe them, before
    one is long enough. Against the others, where dummies help nobody, as against the buffer."""
    options = dict(defence.options)
    if defence.kind == "chain":
        return Evasion(dummy_every=options["trigger"], dummies=options["regions"])
    length = options.get("length", lab.config.length)
    patience = options.get("patience", lab.config.patience)
    reset = options.get("reset", "periodic")
    return Evasion(dummy_every=longest_quiet_period(length, patience, reset) or 1)


@functools.cache
def longest_quiet_period(length: int, patience: int, reset: Any) -> int | None:
    """The most queries alike between two dummies with which a buffer deceives nobody; None where
    even every other query has to be a dummy, and it does not help."""
    automaton = spt_jax.buffer(
        jnp.zeros_like, None, length=length, patience=patience, reset=reset, response="random"
    ).automaton
    longest = 3 * (length + patience)
    at = np.arange(20 * longest)
    for period in range(longest, 0, -1):
        dummy = at % (period + 1) == period
        # Dummies are like nothing: the golden section keeps them apart from each other.
        pixels = np.stack([np.where(dummy, at * 0.618 % 1, 0.5), dummy], axis=-1)
        stream = jnp.asarray(pixels[:, None, None, :], jnp.float32)
        if not np.any(_deceived(automaton, stream) & ~dummy):
            return period
    return None


@jax.jit
def _deceived(automaton, stream):
    """(N,) bool: which queries of a stream are the decoy's."""
    return lax.scan(automaton.update, automaton.init(stream.shape[1:]), stream)[1]


def _systems(lab: Lab) -> dict[str, Defence]:
    """The unprotected classifier, then those that remember; chains as the paper sets them for
    attacks that keep to the bounds of pixels."""
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
    """The mean number of queries of an image, dummies included."""
    how, queries = spec.evasion, attacked.queries
    wasted = how.dummies * ((queries - 1) // how.dummy_every) if how.dummy_every else 0
    return float(np.mean(queries + wasted))


@dataclass(frozen=True)
class Asking:
    """An attack run to its end by `attacks_jax.run`, untargeted."""

    name: str  # of the function of attacks_jax
    options: tuple[tuple[str, Any], ...]
    queries: int  # at most

    def make(self) -> attacks_jax.Attack:
        return getattr(attacks_jax, self.name)(**dict(self.options))


# One round of CW: its queries are as many as its steps.
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
    """What an attack made of the images, and how many of its queries were deceived, (N,) each."""
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
