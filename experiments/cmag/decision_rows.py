"""Compares decisions on the same scores: a threshold per score, the combined p-value, each score
alone, and all scores but one."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from cmag_jax import cmag
from cmag_jax.cmag.combined_p_value import rarity, tails
from experiments.cmag.detection_rows import FPRS
from experiments.pipeline.detectors import FittedDetector, Scores
from experiments.runtime.results import Row

Decider = Callable[[Scores], Scores]  # scores -> the values that thresholds apply to


def by_rarity(system: FittedDetector) -> bool:
    """Returns whether the system decides by the combined p-value of its scores."""
    return getattr(system.config, "decision", "any") == "rarity"


def apart(system: FittedDetector) -> FittedDetector:
    """Returns the system without its combination step: it returns each score separately."""
    if not by_rarity(system):
        return system
    config = dataclasses.replace(system.config, decision="any")
    params = dataclasses.replace(system.params, config=config, tails=None)
    return dataclasses.replace(system, params=params, key=f"{system.key}, scores apart")


def rows(
    dataset: str,
    system: FittedDetector,
    held_out: Scores,
    test: Scores,
    attacked: Mapping[tuple[str, float | None], Scores],
) -> Iterator[Row]:
    """Yields the share of images that a system with several scores flags, for both decisions.

    If it decides by the combined p-value, also for each score alone and for all the others. Every
    decision is calibrated on the same images.

    Args:
      held_out: the scores of `apart(system)` on held-out clean images, each (N,).
      test: the scores on other clean images.
      attacked: (attack, strength) -> the scores on successful adversarial examples.
    """
    if len(held_out) == 1:
        return
    deciders = {"extra/decision": {"any": _each, "rarity": _together(held_out)}}
    if by_rarity(system):
        deciders["extra/scores"] = dict(_alone_and_without(held_out))
    seen = {("none", None): test, **attacked}
    scores = {what: found for what, found in seen.items() if len(next(iter(found.values())))}
    for table, of_table in deciders.items():
        for name, decide in of_table.items():
            clean = decide(held_out)
            decided = {what: decide(found) for what, found in scores.items()}
            for fpr in FPRS[:2]:
                limits = cmag.calibrate(clean, fpr=fpr)
                for (attack, strength), found in decided.items():
                    flags = np.asarray(cmag.detect(found, limits))
                    metric, value = f"flagged:{name}@fpr={fpr:g}", round(float(flags.mean()), 6)
                    yield Row(
                        table, dataset, system.name, attack, strength, metric, value, len(flags)
                    )


def _each(scores: Scores) -> Scores:
    return scores


def _only(name: str) -> Decider:
    return lambda scores: {name: scores[name]}


def _together(held_out: Scores) -> Decider:
    """Returns a decider by the combined p-value of only these scores on held-out images."""
    of = tails(held_out)
    return lambda scores: {"rarity": np.asarray(rarity({k: scores[k] for k in held_out}, of))}


def _alone_and_without(held_out: Scores) -> Iterator[tuple[str, Decider]]:
    """Yields (name, decider): each score alone, and all the others combined without it."""
    for name in held_out:
        yield f"{name} alone", _only(name)
    for name in held_out:
        others = {other: values for other, values in held_out.items() if other != name}
        yield f"without {name}", _together(others)
