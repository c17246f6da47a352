"""How long things take, measured turn and turn about: what else the machine does hits all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

# Threads of the last competitor may spin on for a while and slow whoever comes next.
SETTLE_SECONDS = 0.05


def interleaved(
    competitors: Mapping[str, Callable[[], Any]], repeats: int, *, limit: float = float("inf")
) -> tuple[dict[str, float], dict[str, float]]:
    """(seconds of the first call, median seconds of the later ones), by name. Whoever's first call
    takes longer than `limit` seconds is not called again: its first call is all there is."""
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
    """Seconds that a call takes, until its arrays are there."""
    time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
