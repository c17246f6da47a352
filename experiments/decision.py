"""What the decision is worth: the same scores with a threshold for each, and by their rarity."""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from cmag_jax import cmag
from cmag_jax.rarity import rarity, tails
from experiments.evaluation import FPRS
from experiments.results import Row
from experiments.systems import Scores, System


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
    held_out: Scores,
    test: Scores,
    attacked: Mapping[tuple[str, float | None], Scores],
) -> Iterator[Row]:
    """What a system of several scores flags by either decision, calibrated on the same images.

    Args:
      held_out: the scores of `apart(system)` on clean images that were held out, each (N,).
      test: on other clean images.
      attacked: (attack, strength) -> on successful adversarial examples.
    """
    if len(held_out) == 1:
        return
    of = tails(held_out)

    def each(scores: Scores) -> Scores:
        return scores

    def together(scores: Scores) -> Scores:
        return {"rarity": np.asarray(rarity(scores, of))}

    seen = {("none", None): test, **attacked}
    scores = {what: found for what, found in seen.items() if len(next(iter(found.values())))}
    for decision, decided in (("any", each), ("rarity", together)):
        for fpr in FPRS[:2]:
            limits = cmag.calibrate(decided(held_out), fpr=fpr)
            for (attack, strength), found in scores.items():
                value = round(float(np.mean(cmag.detect(decided(found), limits))), 6)
                metric = f"flagged:{decision}@fpr={fpr:g}"
                n = len(next(iter(found.values())))
                yield Row(
                    "extra/decision", dataset, system.name, attack, strength, metric, value, n
                )
