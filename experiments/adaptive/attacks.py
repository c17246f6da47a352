"""Attacks on a victim behind a detector. The cache keeps each finished attack."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

import attacks_jax
from experiments.adaptive.attacked_detector import Detector
from experiments.adaptive.config import Config
from experiments.datasets import Split
from experiments.pipeline.detectors import slug
from experiments.runtime import cache
from experiments.runtime.batching import Arrays, map_batches
from experiments.victims import Victim, predict

# Raise it when a change of attacks_jax or of this package changes the attacked images.
VERSION = 1
AttackName = Literal["PGD", "APGD", "selective PGD", "orthogonal PGD", "CW-l2"]
IN_A_BALL: tuple[AttackName, ...] = ("APGD", "selective PGD", "orthogonal PGD")  # adaptive
MODES: dict[AttackName, Literal["selective", "orthogonal"]] = {
    "selective PGD": "selective",
    "orthogonal PGD": "orthogonal",
}
KEPT = ("images", "success", "distance")  # of an attacks_jax.Result
CW_ROUNDS = 5  # rounds of the search over c
ROUNDS = 2  # random starts of APGD; likeliest wrong classes that the others target
# Selective and orthogonal PGD: the first step as a share of eps, the last as a share of the first,
# and momentum. Chosen on validation images of MNIST. There, steps of one length stall just above
# CMAG+'s threshold, and a single target class is often not the easiest to hide.
STEP, LAST_STEP, MOMENTUM = 0.2, 0.01, 0.75
SMALLEST_BATCH = 8  # `attacks_jax` halves its batches down to this; smaller ones save no time


@dataclass(frozen=True)
class Made:
    """The outcome of an attack on N images."""

    images: np.ndarray  # (N, H, W, C)
    success: np.ndarray  # (N,) bool: whether the attack reached its goal
    distance: np.ndarray  # (N,) in the attack's norm


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
    """Attacks the split's images, or reads the outcome from the cache.

    Args:
      rows: indices of the images to attack; the others stay unchanged. All by default.
      detector: the detector to evade. None for zero-knowledge PGD, which continues after the victim
        is fooled.
      eps: radius of the l-infinity ball, for all but CW.
      fpr: the false-positive rate that the detector is calibrated to.
      steps: number of steps; the configuration's by default.
    """
    steps = steps or config.steps
    rows = np.arange(len(split)) if rows is None else rows
    chosen = Split(split.images[rows], split.labels[rows])
    # The detector's answers depend only on these.
    against = detector and [detector.system.key, detector.thresholds(fpr), detector.margin]
    key = cache.key(
        attack=name, eps=eps, steps=steps, step_size=config.step_size, seed=config.seed,
        victim=victim.key, detector=against, images=cache.digest(chosen.images, chosen.labels),
        version=VERSION, **({"way": [ROUNDS, STEP, LAST_STEP, MOMENTUM]} if name in MODES else {}),
    )  # fmt: skip
    folder = config.cache_dir / f"adaptive-{slug(name)}-{eps:g}-{key}"
    wanted: Any = detector and detector.wanted(fpr)
    attack = _make(name, wanted, eps=eps, step_size=config.step_size * eps, num_steps=steps)
    n = len(split)
    made = Made(split.images.copy(), np.zeros(n, bool), np.zeros(n))
    if not len(chosen):
        return made
    size = _batch(min(config.batch, n), len(chosen))

    def of_rows(rows: np.ndarray) -> Arrays:
        images, labels = chosen.images[rows], chosen.labels[rows]
        random = jax.random.key(config.seed)
        if name in MODES:
            return _towards_each(attack, victim, random, images, labels)
        oracle: Any = attacks_jax.stateless(victim.logits)
        state: Any = ()
        if wanted is not None:
            oracle = attacks_jax.guarded(oracle, wanted)
            state = attacks_jax.guarded_state(labels)
        result = attacks_jax.run(attack, oracle, random, images, labels, oracle_state=state)
        return {name: np.asarray(getattr(result, name)) for name in KEPT}

    found = map_batches(
        of_rows, len(chosen), size, file=lambda start: folder / f"{size}-{start:06d}.npz"
    )
    for field, values in vars(made).items():
        values[rows] = found[field]
    return made


def _batch(size: int, count: int) -> int:
    """Returns the size, halved while `count` images fit: few shapes, so few compilations."""
    while size > SMALLEST_BATCH and (size + 1) // 2 >= count:
        size = (size + 1) // 2
    return size


def _make(
    name: AttackName, wanted: Any, *, eps: float, step_size: float, num_steps: int
) -> attacks_jax.Attack:
    """Returns the attack. `wanted`: the detector function that it evades, or None."""
    steps = max(num_steps // ROUNDS, 1)
    if name in MODES:
        return attacks_jax.evading_pgd(
            detector=wanted, mode=MODES[name], eps=eps, step_size=STEP * eps,
            final_step=LAST_STEP, decay=MOMENTUM, num_steps=steps, random_start=True, targeted=True,
        )  # fmt: skip
    # The margin's gradient does not fade where the detector is sure, as cross-entropy's does.
    if name == "APGD":
        return attacks_jax.apgd(loss=attacks_jax.margin, eps=eps, num_steps=steps, restarts=ROUNDS)
    if name == "PGD":
        return attacks_jax.pgd(
            loss=attacks_jax.margin, eps=eps, step_size=step_size, num_steps=num_steps
        )
    return attacks_jax.carlini_wagner_l2(
        num_steps=max(num_steps // CW_ROUNDS, 1), binary_search_steps=CW_ROUNDS,
        step_size=0.05, initial_const=1.0,
    )  # fmt: skip


def _towards_each(
    attack: Any, victim: Victim, key: jax.Array, images: np.ndarray, labels: np.ndarray
) -> dict[str, np.ndarray]:
    """Runs selective or orthogonal PGD towards the likeliest wrong classes, one after the other.

    Returns the first image that reaches the goal, or else the least flagged one that fools the
    victim.
    """
    oracle = attacks_jax.stateless(victim.logits)
    logits = np.array(victim.logits(images))
    logits[np.arange(len(labels)), labels] = -np.inf
    likeliest = np.argsort(-logits, axis=1)
    found, content = images, np.zeros(len(images), bool)
    least = np.full(len(images), np.inf)
    for rank in range(min(ROUNDS, logits.shape[1] - 1)):
        # Finished examples target their current class, so that they stay unchanged.
        aims = np.where(content, predict(victim, found), likeliest[:, rank])
        starts = np.where(content[:, None, None, None], found, images)
        result = attacks_jax.run(attack, oracle, jax.random.fold_in(key, rank), starts, aims)
        made = np.asarray(result.images)
        flagged = np.where(
            predict(victim, made) != labels, np.asarray(attack.detector(made)), np.inf
        )
        better = ~content & (flagged < least)
        found = np.where(better[:, None, None, None], made, found)
        least = np.where(better, flagged, least)
        content |= np.asarray(result.success)
    change = np.abs(found - images).max(axis=(1, 2, 3))
    return {"images": found, "success": content, "distance": change}
