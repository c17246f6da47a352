"""What the decision is worth, and each score: the same scores with a threshold for each, by their
rarity, each alone, and all but one."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from cmag_jax import cmag
from cmag_jax.cmag.combined_p_value import rarity, tails
from experiments.cmag.detection_rows import FPRS
from experiments.pipeline.detectors import FittedDetector, Scores
from experiments.runtime.results import Row

Decider = Callable[[Scores], Scores]  # scores -> what thresholds are put to


def by_rarity(system: FittedDetector) -> bool:
    """Whether the system decides by how rare its scores are together."""
    return getattr(system.config, "decision", "any") == "rarity"


def apart(system: FittedDetector) -> FittedDetector:
    """The system as it scores before it decides: each of its scores by itself."""
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
    """What a system of several scores flags by either decision, and, where it decides by rarity,
    by each score alone and by all the others, calibrated on the same images.

    Args:
      held_out: the scores of `apart(system)` on clean images that were held out, each (N,).
      test: on other clean images.
      attacked: (attack, strength) -> on successful adversarial examples.
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
    """By the rarity of these scores, and of no others, among held-out images."""
    of = tails(held_out)
    return lambda scores: {"rarity": np.asarray(rarity({k: scores[k] for k in held_out}, of))}


def _alone_and_without(held_out: Scores) -> Iterator[tuple[str, Decider]]:
    """What each score is worth: alone, and what all others say together without it."""
    for name in held_out:
        yield f"{name} alone", _only(name)
    for name in held_out:
        others = {other: values for other, values in held_out.items() if other != name}
        yield f"without {name}", _together(others)
