"""Attacks a victim's test images, chunk by chunk, keeping what is done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import attacks_jax
from experiments import cache, progress
from experiments.datasets import Split
from experiments.victims import Victim, predict

# Raise it when a change of attacks_jax makes adversarial examples made before it another thing.
VERSION = 1
KEPT = ("images", "success", "distance", "queries")  # of an attacks_jax.Result


@dataclass(frozen=True)
class AttackSpec:
    """An attack by its name, its strength as the tables print it, and its other options."""

    name: str  # "FGSM" or "CW-l2"
    strength: float  # eps or confidence
    options: tuple[tuple[str, float | int | bool], ...] = ()

    def make(self) -> attacks_jax.Attack:
        options: dict[str, Any] = dict(self.options)
        if self.name == "FGSM":
            return attacks_jax.fgsm(eps=self.strength, **options)
        if self.name == "CW-l2":
            return attacks_jax.carlini_wagner_l2(confidence=self.strength, **options)
        raise ValueError(f"expected an attack among FGSM and CW-l2, got {self.name!r}")

    @property
    def title(self) -> str:
        return f"{self.name} {self.strength:g}"


@dataclass(frozen=True)
class Attacked:
    """What became of N images: arrays with one leading axis."""

    clean: np.ndarray  # (N, H, W, C)
    labels: np.ndarray  # (N,)
    images: np.ndarray  # (N, H, W, C)
    success: np.ndarray  # (N,) bool
    distance: np.ndarray  # (N,)
    queries: np.ndarray  # (N,)

    @property
    def adversarial(self) -> np.ndarray:
        """The successful examples, which detection rates are measured on."""
        return self.images[self.success]


def choose(victim: Victim, split: Split, count: int, *, seed: int) -> Split:
    """`count` images of the split (fewer where there are fewer) that the victim classifies
    rightly, drawn without replacement."""
    rows = np.flatnonzero(predict(victim, split.images) == split.labels)
    rows = np.random.default_rng(seed).permutation(rows)[:count]
    return Split(split.images[rows], split.labels[rows])


def attack(
    spec: AttackSpec, victim: Victim, split: Split, *, chunk: int, seed: int, cache_dir: Path
) -> Attacked:
    """Attacks the split's images; chunks that were attacked before are read from the cache."""
    if not len(split):
        raise ValueError("expected images to attack, got none: the victim classifies none rightly")
    digest = cache.digest(split.images, split.labels)
    key = cache.key(
        attack=spec, victim=victim.key, images=digest, chunk=chunk, seed=seed, version=VERSION
    )
    oracle = attacks_jax.stateless(victim.logits)
    folder = cache_dir / f"attack-{spec.name}-{spec.strength:g}-{key}"
    chunk, parts = min(chunk, len(split)), []
    with progress.bar(len(split), spec.title, "images") as bar:
        for start in range(0, len(split), chunk):
            rows = slice(start, start + chunk)

            def compute(rows=rows, start=start):
                random = jax.random.fold_in(jax.random.key(seed), start)
                # The last chunk is filled up with repeats, so that all have one shape and the
                # attack compiles once.
                padded = np.resize(np.arange(len(split))[rows], chunk)
                result = attacks_jax.run(
                    spec.make(), oracle, random, split.images[padded], split.labels[padded]
                )
                size = len(split.labels[rows])
                return {name: np.asarray(getattr(result, name))[:size] for name in KEPT}

            parts.append(cache.arrays(folder / f"{start:06d}.npz", compute))
            bar.update(len(split.labels[rows]))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Attacked(clean=split.images, labels=split.labels, **joined)
