"""Checks at the library's edge: said once, in words that name what came."""

import jax
import jax.numpy as jnp
import numpy as np


def is_traced(*arrays) -> bool:
    return any(isinstance(a, jax.core.Tracer) for a in arrays)


def value_range(array) -> tuple[float, float] | None:
    """(lowest, highest) value, NaN where there is one; None where it can't be known."""
    if is_traced(array) or not hasattr(array, "dtype") or not array.size:
        return None
    with jax.ensure_compile_time_eval():  # also of a constant inside somebody's jit
        return array.min().item(), array.max().item()


def describe(images) -> str:
    """'float32 (28, 28) with min 0.0, max 255.0', as far as it can be known."""
    text = f"{getattr(images, 'dtype', type(images).__name__)} {tuple(np.shape(images))}"
    values = value_range(images)
    return f"{text} with min {values[0]:.6g}, max {values[1]:.6g}" if values else text


def check_batch(images, labels, bounds) -> tuple[jax.Array, jax.Array]:
    """Returns (images, labels) as arrays, or raises ValueError.

    Traced values can be checked for shape and type only.
    """
    low, high = bounds
    expected = f"expected images (B, H, W, C) float32 in [{low:g}, {high:g}]"
    if np.ndim(images) != 4 or getattr(images, "dtype", None) != np.float32:
        raise ValueError(f"{expected}, got {describe(images)}")
    values = value_range(images)
    if values and not (low <= values[0] and values[1] <= high):  # NaN is in no interval
        raise ValueError(f"{expected}, got {describe(images)}")
    labels = jnp.asarray(labels)
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"expected labels ({images.shape[0]},) of an integer type,"
            f" got {labels.dtype} {labels.shape}"
        )
    return jnp.asarray(images), labels.astype(jnp.int32)


def check_classes(labels: jax.Array, logits_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the oracle gives (B, K) logits and the labels are in [0, K)."""
    if len(logits_shape) != 2 or logits_shape[0] != len(labels):
        raise ValueError(f"expected an oracle with logits ({len(labels)}, K), got {logits_shape}")
    classes = logits_shape[1]
    values = value_range(labels)
    if values and not 0 <= values[0] <= values[1] < classes:
        raise ValueError(f"expected labels in [0, {classes}), got {values[0]} to {values[1]}")


def check_bounds(bounds) -> tuple[float, float]:
    low, high = (float(b) for b in bounds)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"expected bounds (low, high) with low < high, got {tuple(bounds)}")
    return low, high


def check_key(key) -> None:
    """Raises ValueError unless it is one typed key."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or jnp.shape(key):
        got = f"{key.dtype} {jnp.shape(key)}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"expected one typed key, jax.random.key(seed), got {got}")


def check_positive(*, or_zero: bool = False, **options) -> None:
    """Raises ValueError for an option that is not one finite number above zero (or zero).

    Traced values are left unchecked.
    """
    for name, value in options.items():
        if is_traced(value):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float | np.generic | jax.Array):
            raise ValueError(f"expected {name} to be a number, got {value!r}")
        if np.ndim(value):
            raise ValueError(f"expected {name} to be one number, got shape {np.shape(value)}")
        if not (0 <= float(value) < np.inf and (value or or_zero)):
            expected = "0 or above" if or_zero else "a number above 0"
            raise ValueError(f"expected {name} to be {expected}, got {value}")


def check_counts(*, or_zero: bool = False, **options) -> None:
    """Raises ValueError for an option that is not a whole number above zero (or zero)."""
    check_positive(or_zero=or_zero, **options)
    for name, value in options.items():
        if not isinstance(value, int | np.integer):
            raise ValueError(f"expected {name} to be a whole number, got {value!r}")


def check_choice(**options) -> None:
    """Raises ValueError for an option (value, allowed values) that is none of those allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            among = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"expected {name} to be one of {among}, got {value!r}")
