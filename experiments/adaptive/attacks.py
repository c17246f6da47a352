"""Attacks on a victim behind a detector, each run once and kept."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

import attacks_jax
from experiments import cache
from experiments.adaptive.config import Config
from experiments.adaptive.detectors import Detector
from experiments.datasets import Split
from experiments.systems import slug
from experiments.victims import Victim

# Raise it when a change of attacks_jax or of this package makes images made before it others.
VERSION = 1
AttackName = Literal["PGD", "selective PGD", "orthogonal PGD", "CW-l2"]
IN_A_BALL: tuple[AttackName, ...] = ("PGD", "selective PGD", "orthogonal PGD")
MODES: dict[AttackName, Literal["selective", "orthogonal"]] = {
    "selective PGD": "selective",
    "orthogonal PGD": "orthogonal",
}
KEPT = ("images", "success", "distance", "queries")  # of an attacks_jax.Result
CW_ROUNDS = 5  # of the search over c
SMALLEST_BATCH = 8  # below which nothing is saved: `attacks_jax` halves its batches down to this


@dataclass(frozen=True)
class Made:
    """What became of N images."""

    images: np.ndarray  # (N, H, W, C)
    success: np.ndarray  # (N,) bool: whether the attacker was content
    distance: np.ndarray  # (N,) in the attack's norm
    queries: np.ndarray  # (N,)

    def within(self, steps: int) -> np.ndarray:
        """(N,) bool: with which the attacker was content after at most so many steps, fewer than
        he had by two at least, or all. Attacks that stop early tell: they ask about the clean
        image, about the image after each step, and twice about the one that they return."""
        return self.success & (self.queries <= steps + 4)


def run(
    config: Config,
    name: AttackName,
    victim: Victim,
    detector: Detector | None,
    split: Split,
    *,
    rows: np.ndarray | None = None,
    eps: float = 0.0,
    fpr: float = 0.05,
    steps: int | None = None,
) -> Made:
    """Attacks the split's images, or reads from the cache what came of it.

    Args:
      rows: those that are attacked; the others stay as they are. All by default.
      detector: the one that is to be evaded; None for PGD of one who knows of none, and goes on
        when the victim is fooled.
      eps: the ball's, for all but CW.
      fpr: what the detector is calibrated to.
      steps: the configuration's by default.
    """
    steps = steps or config.steps
    rows = np.arange(len(split)) if rows is None else rows
    chosen = Split(split.images[rows], split.labels[rows])
    # What the detector answers hangs on nothing else.
    against = detector and [detector.system.key, detector.thresholds(fpr), detector.margin]
    key = cache.key(
        attack=name, eps=eps, steps=steps, step_size=config.step_size, seed=config.seed,
        victim=victim.key, detector=against, images=cache.digest(chosen.images, chosen.labels),
        version=VERSION,
    )  # fmt: skip
    folder = config.cache_dir / f"adaptive-{slug(name)}-{eps:g}-{key}"
    attack, oracle, guards = _make(
        name, victim, detector and detector.wanted(fpr),
        eps=eps, step_size=config.step_size * eps, num_steps=steps,
    )  # fmt: skip
    size, parts = _batch(min(config.batch, len(split)), len(chosen)), []
    for start in range(0, len(chosen), size):

        def compute(start=start):
            # The last batch is filled up with repeats: one shape, one compilation.
            rows = np.resize(np.arange(len(chosen))[start : start + size], size)
            images, labels = chosen.images[rows], chosen.labels[rows]
            state = attacks_jax.guarded_state(labels) if guards else ()
            random = jax.random.key(config.seed)
            result = attacks_jax.run(attack, oracle, random, images, labels, oracle_state=state)
            return {name: np.asarray(getattr(result, name)) for name in KEPT}

        stored = cache.arrays(folder / f"{size}-{start:06d}.npz", compute)
        parts.append({name: values[: len(chosen) - start] for name, values in stored.items()})
    n = len(split)
    made = Made(split.images.copy(), np.zeros(n, bool), np.zeros(n), np.zeros(n, int))
    if parts:
        for field, values in vars(made).items():
            values[rows] = np.concatenate([part[field] for part in parts])
    return made


def _batch(size: int, count: int) -> int:
    """The size, halved as often as `count` images fit: few shapes, so few compilations."""
    while size > SMALLEST_BATCH and (size + 1) // 2 >= count:
        size = (size + 1) // 2
    return size


def _make(
    name: AttackName, victim: Victim, flagged: Any, **ball: Any
) -> tuple[attacks_jax.Attack, attacks_jax.Oracle, bool]:
    """(attack, what it asks, whether that is a guarded oracle)"""
    oracle = attacks_jax.stateless(victim.logits)
    if name in MODES:  # which ask the detector by themselves
        return attacks_jax.evading_pgd(detector=flagged, mode=MODES[name], **ball), oracle, False
    knows = flagged is not None
    oracle = attacks_jax.guarded(oracle, flagged) if knows else oracle
    if name == "PGD":
        # The margin's gradient does not fade where the detector is sure, as cross-entropy's does.
        attack = attacks_jax.pgd(loss=attacks_jax.margin, early_stop=knows, **ball)
    else:
        attack = attacks_jax.carlini_wagner_l2(
            num_steps=max(ball["num_steps"] // CW_ROUNDS, 1), binary_search_steps=CW_ROUNDS,
            step_size=0.05, initial_const=1.0,
        )  # fmt: skip
    return attack, oracle, knows
