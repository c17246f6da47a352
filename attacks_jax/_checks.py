"""Checks of the arguments of public functions. Each error message describes the wrong value."""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np


def is_traced(*arrays) -> bool:
    return any(isinstance(a, jax.core.Tracer) for a in arrays)


def value_range(array: Any) -> tuple[float, float] | None:
    """Returns (lowest, highest) value, both NaN if any value is NaN, or None if unknown."""
    real = getattr(getattr(array, "dtype", None), "kind", "") in tuple("biuf")
    if not real or is_traced(array) or not isinstance(array, jax.Array | np.ndarray | np.generic):
        return None
    if not array.size:
        return None
    with jax.ensure_compile_time_eval():  # for constants inside a caller's jit
        return array.min().item(), array.max().item()


def digits(value: float) -> str:
    """Formats a pixel value with enough digits to identify it in float32, for example 1.0000001."""
    number = np.float32(value)
    return f"{value:g}" if number == np.float32(f"{value:g}") else str(number)


def describe(thing: Any, depth: int = 1) -> str:
    """Returns a text like 'float32 (28, 28) with min 0.0, max 255.0', as far as known."""
    if isinstance(thing, tuple | list | dict):
        inner = list(thing.values() if isinstance(thing, dict) else thing)[: 4 * depth]
        of = ", ".join(describe(one, 0) for one in inner)
        return f"{type(thing).__name__} of {of or 'nothing'}" if depth else type(thing).__name__
    if not hasattr(thing, "dtype"):
        return f"{type(thing).__name__} {str(thing)[:40]}"
    text, values = f"{thing.dtype} {tuple(np.shape(thing))}", value_range(thing)
    return f"{text} with min {digits(values[0])}, max {digits(values[1])}" if values else text


def check_batch(images, labels, bounds) -> tuple[jax.Array, jax.Array]:
    """Returns (images, labels) as arrays, or raises ValueError.

    For traced values, only shape and type are checked.
    """
    low, high = bounds
    expected = f"expected images (B, H, W, C) float32 in [{low:g}, {high:g}]"
    if getattr(images, "dtype", None) != np.float32 or np.ndim(images) != 4:
        raise ValueError(f"{expected}, got {describe(images)}")
    values = value_range(images)
    if values and not (low <= values[0] and values[1] <= high):  # NaN is in no interval
        raise ValueError(f"{expected}, got {describe(images)}")
    return jnp.asarray(images), check_labels(labels, len(images))


def check_labels(labels: Any, count: int | None = None) -> jax.Array:
    """Returns integer labels (count,) as int32. Raises ValueError for others, and outside int32."""
    expected = f"expected labels ({'B' if count is None else count},) of an integer type"
    if not hasattr(labels, "dtype"):
        try:
            labels = np.asarray(labels)
        except ValueError:  # lists of unequal length
            raise ValueError(f"{expected}, got {describe(labels)}") from None
    right = np.ndim(labels) == 1 and count in (None, len(labels))
    if not right or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{expected}, got {describe(labels)}")
    values = value_range(labels)
    if values and not -(2**31) <= values[0] <= values[1] < 2**31:
        raise ValueError(f"expected labels in [0, K), got {values[0]} to {values[1]}")
    return jnp.asarray(labels).astype(jnp.int32)


def check_answer(answer: Any, count: int) -> tuple[Any, jax.Array]:
    """Returns (state, logits float32) of an oracle's answer about `count` images.

    Raises ValueError if the answer is not a state and logits of a floating type.
    """
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise ValueError(
            "expected an oracle that answers (state, logits (B, K)), got"
            f" {describe(answer)}; `stateless(f)` makes an oracle of a classifier f"
        )
    state, logits = answer
    if not hasattr(logits, "dtype") or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"expected an oracle with logits ({count}, K) of a floating type,"
            f" got {describe(logits)}"
        )
    return state, logits.astype(jnp.float32)


@contextlib.contextmanager
def impure_in_words() -> Iterator[None]:
    """Turns Flax's error for a network that changes its variables into a ValueError with advice."""
    try:
        yield
    except (flax.errors.TraceContextError, flax.errors.ModifyScopeVariableError) as error:
        raise ValueError(
            "expected a network that is a pure function, got one that changes its own variables:"
            " put it in evaluation mode (nnx: module.eval(); Linen: train=False, or"
            f" use_running_average=True). Flax says: {error}"
        ) from error


def check_classes(labels: jax.Array, logits_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the oracle returns (B, K) logits and the labels are in [0, K)."""
    if len(logits_shape) != 2 or logits_shape[0] != len(labels):
        raise ValueError(f"expected an oracle with logits ({len(labels)}, K), got {logits_shape}")
    classes = logits_shape[1]
    values = value_range(labels)
    if values and not 0 <= values[0] <= values[1] < classes:
        raise ValueError(f"expected labels in [0, {classes}), got {values[0]} to {values[1]}")


def check_bounds(bounds) -> tuple[float, float]:
    numbers = int | float | np.integer | np.floating
    pair = isinstance(bounds, tuple | list | np.ndarray) and len(bounds) == 2
    if not pair or not all(isinstance(bound, numbers) for bound in bounds):
        raise ValueError(f"expected bounds (low, high) with low < high, got {bounds!r}")
    low, high = (float(bound) for bound in bounds)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"expected bounds (low, high) with low < high, got {tuple(bounds)}")
    return low, high


def in_pixels(bounds: tuple[float, float], **options: tuple[Any, Any]) -> list:
    """Returns the values of options in pixel units, each given as (value or None, default).

    The defaults are for pixels in [0, 1].

    Raises:
      ValueError: bounds other than (0, 1), and an option without a value.
    """
    if tuple(bounds) != (0.0, 1.0):
        for name, (given, default) in options.items():
            if given is None:
                raise ValueError(
                    f"expected {name}, in units of the pixels, with bounds {tuple(bounds)}:"
                    f" its default of {default:g} is for (0, 1)"
                )
    return [default if given is None else given for given, default in options.values()]


def check_key(key) -> None:
    """Raises ValueError unless `key` is one typed key."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or jnp.shape(key):
        got = f"{key.dtype} {jnp.shape(key)}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"expected one typed key, jax.random.key(seed), got {got}")


def check_positive(*, or_zero: bool = False, **options) -> None:
    """Raises ValueError unless each option is one finite number above zero (or zero).

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
    """Raises ValueError unless each option is an integer above zero (or zero) that fits int32."""
    check_positive(or_zero=or_zero, **options)
    for name, value in options.items():
        if not isinstance(value, int | np.integer):
            raise ValueError(f"expected {name} to be a whole number, got {value!r}")
        if value >= 2**31:
            raise ValueError(f"expected {name} of at most {2**31 - 1}, got {value}")


def check_choice(**options) -> None:
    """Raises ValueError unless each option, given as (value, allowed values), is allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            among = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"expected {name} to be one of {among}, got {value!r}")
