"""Attacks a victim's test images in chunks. The cache keeps each finished chunk."""

import functools
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

import attacks_jax
from experiments import datasets, victims
from experiments.datasets import DataError, Split
from experiments.runtime import cache, progress
from experiments.runtime.batching import Arrays, map_batches
from experiments.victims import Victim, predict

# Raise it when a change of attacks_jax changes the adversarial examples.
VERSION = 1
KEPT = ("images", "success", "distance", "queries")  # of an attacks_jax.Result


# attack, as the tables name it -> (function in attacks_jax, option that is its strength)
MAKERS: dict[str, tuple[str, str]] = {
    "FGSM": ("fgsm", "eps"),
    "CW-l2": ("carlini_wagner_l2", "confidence"),
    "least likely": ("least_likely", "eps"),
    "BIM": ("bim", "eps"),
    "PGD": ("pgd", "eps"),
    "PGD-l2": ("pgd", "eps"),
    "MI-FGSM": ("mifgsm", "eps"),
    "APGD": ("apgd", "eps"),
    "AutoAttack": ("auto_attack", "eps"),
    "DeepFool": ("deepfool", "overshoot"),
    "EAD": ("ead", "confidence"),
    "CW-l0": ("carlini_wagner_l0", "confidence"),
    "CW-linf": ("carlini_wagner_linf", "confidence"),
    "JSMA": ("jsma", "gamma"),
    "few pixels": ("one_pixel", "pixels"),
    "patch": ("patch", "size"),
    "ATN": ("atn", "beta"),
    "NES": ("nes", "eps"),
    "Square": ("square", "eps"),
    "Boundary": ("boundary", "source_step"),
    "HopSkipJump": ("hop_skip_jump", "gamma"),
}
LEARNS = ("patch", "ATN")  # these are first fitted to training images
LEARNS_FROM = 500  # number of training images, drawn from all classes
TARGETED = ("JSMA",)  # towards the class after the image's own


@dataclass(frozen=True)
class AttackSpec:
    """An attack: its name, its strength as the tables print it, and its other options."""

    name: str  # a key of MAKERS
    strength: float  # eps, confidence, ...
    options: tuple[tuple[str, float | int | bool | str], ...] = ()

    def make(self) -> attacks_jax.Attack:
        if self.name not in MAKERS:
            raise ValueError(f"expected an attack among {', '.join(MAKERS)}, got {self.name!r}")
        maker, option = MAKERS[self.name]
        whole = option in ("size", "pixels")
        strength = int(self.strength) if whole else self.strength
        options: dict[str, Any] = {option: strength, **dict(self.options)}
        if self.name in TARGETED:
            options["targeted"] = True
        return getattr(attacks_jax, maker)(**options)

    @property
    def title(self) -> str:
        return f"{self.name} {self.strength:g}"


@dataclass(frozen=True)
class Attacked:
    """The outcome of an attack on N images: arrays with one leading axis."""

    clean: np.ndarray  # (N, H, W, C)
    labels: np.ndarray  # (N,)
    images: np.ndarray  # (N, H, W, C)
    success: np.ndarray  # (N,) bool
    distance: np.ndarray  # (N,)
    queries: np.ndarray  # (N,)

    @property
    def adversarial(self) -> np.ndarray:
        """The successful examples; detection rates are measured on these."""
        return self.images[self.success]


def choose(victim: Victim, split: Split, count: int, *, seed: int) -> Split:
    """Returns `count` images (or fewer) of the split that the victim classifies correctly.

    They are drawn without replacement.
    """
    rows = np.flatnonzero(predict(victim, split.images) == split.labels)
    rows = np.random.default_rng(seed).permutation(rows)[:count]
    return Split(split.images[rows], split.labels[rows])


def attack(
    spec: AttackSpec,
    victim: Victim,
    split: Split,
    *,
    chunk: int,
    seed: int,
    cache_dir: Path,
    training: Split | None = None,
) -> Attacked:
    """Attacks the split's images, or reads finished chunks from the cache.

    The attacks in LEARNS are first fitted to some of the `training` images.
    """
    if not len(split):
        raise DataError(
            "expected images to attack, got none: the victim classifies none rightly; train it for"
            " longer, or at another learning rate"
        )
    digest = cache.digest(split.images, split.labels)
    if spec.name in LEARNS and training is not None:
        digest += cache.digest(training.images, training.labels)
    key = cache.key(
        attack=spec, victim=victim.key, images=digest, chunk=chunk, seed=seed, version=VERSION
    )
    oracle = attacks_jax.stateless(victim.logits)
    folder = cache_dir / f"attack-{spec.name}-{spec.strength:g}-{key}"
    chunk, labels = min(chunk, len(split)), split.labels
    if spec.name in TARGETED:
        labels = (labels + 1) % victims.batched(victim.logits, split.images[:1]).shape[-1]
    ready = functools.cache(partial(_ready, spec, oracle, training, seed))

    def run(rows: np.ndarray) -> Arrays:
        random = jax.random.fold_in(jax.random.key(seed), int(rows[0]))
        result = attacks_jax.run(ready(), oracle, random, split.images[rows], labels[rows])
        return {name: np.asarray(getattr(result, name)) for name in KEPT}

    with progress.bar(len(split), spec.title, "images") as bar:
        joined = map_batches(
            run, len(split), chunk,
            file=lambda start: folder / f"{start:06d}.npz", on_batch=bar.update,
        )  # fmt: skip
    return Attacked(clean=split.images, labels=split.labels, **joined)


def _ready(spec: AttackSpec, oracle: Any, training: Split | None, seed: int) -> attacks_jax.Attack:
    """Returns the attack, fitted to training images if it is in LEARNS."""
    made = spec.make()
    if spec.name not in LEARNS:
        return made
    if training is None:
        raise ValueError(f"expected training images for {spec.name} to learn from, got none")
    some = datasets.sample(training, LEARNS_FROM, np.random.default_rng(seed))
    return attacks_jax.fit(made, oracle, jax.random.key(seed), some.images, some.labels)
