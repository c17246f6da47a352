"""What the options of a command line may be, beyond their types. A ValueError says what was
expected and what came; tyro prints it, before anything runs.

    checks.counts(self, "images", "epochs")  # in a configuration's __post_init__
"""

from typing import Any

SEEDS = 2**32  # jax.random.key takes a seed's lowest 32 bits, so that 2**32 would be seed 0 again
MOST = 2**31 - 1  # what int32 counts


def seeds(*given: int) -> None:
    for seed in given:
        if not 0 <= seed < SEEDS:
            raise ValueError(f"expected a seed from 0 to {SEEDS - 1}, got {seed}")


def counts(config: Any, *names: str, least: int = 1, most: int = MOST) -> None:
    """Whole numbers; those that are None are left to their defaults."""
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")
        if value > most:
            raise ValueError(f"expected {name} of at most {most}, got {value}")


def above_zero(config: Any, *names: str, most: float) -> None:
    """Numbers in (0, most]; NaN is in no interval, and None is left to its default."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value <= most:
            raise ValueError(f"expected {name} in (0, {most:g}], got {value}")


def different(config: Any, *names: str) -> None:
    """Tuples in which nothing stands twice."""
    for name in names:
        values = getattr(config, name)
        if len(set(values)) < len(values):
            raise ValueError(f"expected each of {name} once, got {' '.join(map(str, values))}")


def some(config: Any, *names: str) -> None:
    """Tuples that hold something, and nothing twice."""
    for name in names:
        if not getattr(config, name):
            raise ValueError(f"expected at least one of {name}, got none")
    different(config, *names)
