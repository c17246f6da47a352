"""Checks command-line options beyond their types. A ValueError names the expected and the given
value. tyro prints it before the program starts its work.

    checks.counts(self, "images", "epochs")  # in a configuration's __post_init__
"""

from typing import Any

SEEDS = 2**32  # jax.random.key uses the lowest 32 bits, so 2**32 would equal seed 0
MOST = 2**31 - 1  # the largest int32


def seeds(*given: int) -> None:
    for seed in given:
        if not 0 <= seed < SEEDS:
            raise ValueError(f"expected a seed from 0 to {SEEDS - 1}, got {seed}")


def counts(config: Any, *names: str, least: int = 1, most: int = MOST) -> None:
    """Checks that counts are in [least, most]. None stands for a default and passes."""
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")
        if value > most:
            raise ValueError(f"expected {name} of at most {most}, got {value}")


def above_zero(config: Any, *names: str, most: float) -> None:
    """Checks that numbers are in (0, most]. NaN fails. None stands for a default and passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value <= most:
            raise ValueError(f"expected {name} in (0, {most:g}], got {value}")


def different(config: Any, *names: str) -> None:
    """Checks that tuples have no element twice."""
    for name in names:
        values = getattr(config, name)
        if len(set(values)) < len(values):
            raise ValueError(f"expected each of {name} once, got {' '.join(map(str, values))}")


def some(config: Any, *names: str) -> None:
    """Checks that tuples are not empty and have no element twice."""
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"expected at least one of {name}, got none")
    different(config, *names)
