"""What the decision is worth: the same scores with a threshold for each, and by their rarity."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from cmag_jax import cmag
from cmag_jax.rarity import rarity, tails
from experiments.evaluation import FPRS
from experiments.results import Row
from experiments.systems import Scores, System

Measure = Callable[[np.ndarray], Scores]


def apart(system: System) -> System:
    """The system as it scores before it decides: each of its scores by itself."""
    if getattr(system.config, "decision", "any") == "any":
        return system
    config = dataclasses.replace(system.config, decision="any")
    params = dataclasses.replace(system.params, config=config, tails=None)
    return dataclasses.replace(system, params=params, key=f"{system.key}, scores apart")


def rows(
    dataset: str,
    system: System,
    measure: Measure,
    validation: np.ndarray,
    test: np.ndarray,
    attacked: Mapping[tuple[str, float | None], np.ndarray],
) -> Iterator[Row]:
    """What a system of several scores flags by either decision, calibrated on the same images.

    Args:
      measure: the scores of `apart(system)`.
      validation: held-out clean images (N, H, W, C).
      test: clean images.
      attacked: (attack, strength) -> successful adversarial examples.
    """
    held_out = measure(validation)
    if len(held_out) == 1:
        return
    of = tails(held_out)

    def each(scores: Scores) -> Scores:
        return scores

    def together(scores: Scores) -> Scores:
        return {"rarity": np.asarray(rarity(scores, of))}

    seen = {("none", None): test, **attacked}
    scores = {what: measure(images) for what, images in seen.items() if len(images)}
    for decision, decided in (("any", each), ("rarity", together)):
        for fpr in FPRS[:2]:
            limits = cmag.calibrate(decided(held_out), fpr=fpr)
            for (attack, strength), found in scores.items():
                value = round(float(np.mean(cmag.detect(decided(found), limits))), 6)
                metric = f"flagged:{decision}@fpr={fpr:g}"
                n = len(seen[attack, strength])
                yield Row(
                    "extra/decision", dataset, system.name, attack, strength, metric, value, n
                )
