"""What the decision is worth, and each score: the same scores with a threshold for each, by their
rarity, each alone, and all but one."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from cmag_jax import cmag
from cmag_jax.rarity import rarity, tails
from experiments.evaluation import FPRS
from experiments.results import Row
from experiments.systems import Scores, System

Decider = Callable[[Scores], Scores]  # scores -> what thresholds are put to


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
    deciders = {"any": _each, "rarity": _together(held_out)}
    yield from _flagged("extra/decision", dataset, system, deciders, held_out, test, attacked)


def each_score(
    dataset: str,
    system: System,
    held_out: Scores,
    test: Scores,
    attacked: Mapping[tuple[str, float | None], Scores],
) -> Iterator[Row]:
    """What each score of a system that decides by rarity is worth: alone, and what all others flag
    together without it. Arguments as those of `rows`."""
    if getattr(system.config, "decision", "any") == "any":
        return
    deciders = {f"{name} alone": _only(name) for name in held_out}
    for name in held_out:
        others = {other: values for other, values in held_out.items() if other != name}
        deciders[f"without {name}"] = _together(others)
    yield from _flagged("extra/scores", dataset, system, deciders, held_out, test, attacked)


def _each(scores: Scores) -> Scores:
    return scores


def _only(name: str) -> Decider:
    return lambda scores: {name: scores[name]}


def _together(held_out: Scores) -> Decider:
    """By the rarity of these scores, and of no others, among held-out images."""
    of = tails(held_out)
    return lambda scores: {"rarity": np.asarray(rarity({k: scores[k] for k in held_out}, of))}


def _flagged(
    table: str,
    dataset: str,
    system: System,
    deciders: dict[str, Decider],
    held_out: Scores,
    test: Scores,
    attacked: Mapping[tuple[str, float | None], Scores],
) -> Iterator[Row]:
    seen = {("none", None): test, **attacked}
    scores = {what: found for what, found in seen.items() if len(next(iter(found.values())))}
    for name, decided in deciders.items():
        for fpr in FPRS[:2]:
            limits = cmag.calibrate(decided(held_out), fpr=fpr)
            for (attack, strength), found in scores.items():
                value = round(float(np.mean(cmag.detect(decided(found), limits))), 6)
                metric, n = f"flagged:{name}@fpr={fpr:g}", len(next(iter(found.values())))
                yield Row(table, dataset, system.name, attack, strength, metric, value, n)
