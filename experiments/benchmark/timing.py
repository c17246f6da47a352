"""Measures times in turns, so that other load on the machine affects all competitors equally."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# The last competitor's threads may keep spinning for a while and slow the next one.
SETTLE_SECONDS = 0.05


def interleaved(
    competitors: Mapping[str, Callable[[], Any]], repeats: int, *, limit: float = float("inf")
) -> tuple[dict[str, float], dict[str, float]]:
    """Returns (seconds of the first call, median seconds of the later calls), by name.

    A competitor whose first call takes longer than `limit` seconds is not called again. Its first
    call then counts as its median.
    """
    first = {name: seconds(call) for name, call in competitors.items()}
    later: dict[str, list[float]] = {
        name: [first[name]] if first[name] > limit else [] for name in competitors
    }
    for _ in range(repeats):
        for name, call in competitors.items():
            if first[name] <= limit:
                later[name].append(seconds(call))
    return first, {name: statistics.median(values) for name, values in later.items()}


def seconds(call: Callable[[], Any]) -> float:
    """Returns the seconds that a call takes, until its arrays are ready."""
    time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
