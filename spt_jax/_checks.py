"""Checks of the arguments of public functions. Messages name the value that was given."""

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np


def is_traced(*arrays: Any) -> bool:
    return any(isinstance(a, jax.core.Tracer) for a in arrays)


def check_images(images: Any, rank: int, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Raises ValueError unless images are float32 within the bounds, of this rank. For traced
    images only shape and type are checked."""
    low, high = bounds
    expected = {
        3: "an image (H, W, C)",
        4: "images (B, H, W, C)",
        5: "images (B, N, H, W, C), N of each client,",
    }[rank]
    if getattr(images, "dtype", None) == np.float32 and np.ndim(images) == rank:
        values = value_range(images)
        if values is None or low <= values[0] <= values[1] <= high:  # NaN is in no interval
            return
    raise ValueError(f"expected {expected} float32 in [{low:g}, {high:g}], got {describe(images)}")


def check_floats(*images: Any, what: str = "images (B, H, W, C)") -> None:
    """Raises ValueError unless images (..., H, W, C) have a floating type and, if not traced, are
    finite."""
    for one in images:
        floating = hasattr(one, "dtype") and jnp.issubdtype(one.dtype, jnp.floating)
        values = value_range(one) if floating else None
        if not floating or np.ndim(one) < 3 or (values and not np.isfinite(values).all()):
            raise ValueError(f"expected {what} of finite floats, got {describe(one)}")


def value_range(array: Any) -> tuple[float, float] | None:
    """(lowest, highest) value, NaN if the array contains one; None if values are unknown."""
    real = getattr(getattr(array, "dtype", None), "kind", "") in tuple("biuf")
    if not real or is_traced(array) or not isinstance(array, jax.Array | np.ndarray | np.generic):
        return None
    if not array.size:
        return None
    with jax.ensure_compile_time_eval():  # for constants inside a caller's jit
        return array.min().item(), array.max().item()


def describe(thing: Any, depth: int = 1) -> str:
    """Text such as 'float32 (28, 28) with min 0, max 255', as far as it is known."""
    if isinstance(thing, tuple | list | dict):
        inner = list(thing.values() if isinstance(thing, dict) else thing)[: 4 * depth]
        of = ", ".join(describe(one, 0) for one in inner)
        return f"{type(thing).__name__} of {of or 'nothing'}" if depth else type(thing).__name__
    if not hasattr(thing, "dtype"):
        return f"{type(thing).__name__} {str(thing)[:40]}"
    text, values = f"{thing.dtype} {tuple(np.shape(thing))}", value_range(thing)
    return f"{text} with min {_digits(values[0])}, max {_digits(values[1])}" if values else text


def _digits(value: float) -> str:
    """The number with enough digits to be exact in float32, such as 1.0000001."""
    short = f"{value:g}"
    number = np.float32(value)
    return short if number == np.float32(short) else str(number)


@contextlib.contextmanager
def impure_in_words() -> Iterator[None]:
    """Turns Flax's errors for a network that changes its variables into a ValueError with the
    fix."""
    try:
        yield
    except (flax.errors.TraceContextError, flax.errors.ModifyScopeVariableError) as error:
        raise ValueError(
            "expected a network that is a pure function, got one that changes its own variables:"
            " put it in evaluation mode (nnx: module.eval(); Linen: train=False, or"
            f" use_running_average=True). Flax says: {error}"
        ) from error


def check_shape(image_shape: Any) -> tuple[int, int, int]:
    """Returns (H, W, C) as a tuple of ints, or raises ValueError."""
    shape = tuple(image_shape) if np.ndim(image_shape) == 1 else ()
    if len(shape) != 3 or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
        raise ValueError(f"expected an image shape (H, W, C), got {image_shape!r}")
    height, width, channels = (int(n) for n in shape)
    return height, width, channels


def check_same_shape(image: Any, stored: tuple[int, ...]) -> None:
    """Raises ValueError unless an image has the shape given to `init`."""
    if np.shape(image) != tuple(stored):
        raise ValueError(f"expected an image {tuple(stored)}, as at init, got {np.shape(image)}")


def check_key(key: Any) -> None:
    """Raises ValueError unless the key is one typed key."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or jnp.shape(key):
        got = f"{key.dtype} {jnp.shape(key)}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"expected one typed key, jax.random.key(seed), got {got}")


def check_finite(**options: Any) -> None:
    """Raises ValueError for an option that is not one finite number. Traced values pass."""
    for name, value in options.items():
        if is_traced(value):
            continue
        numeric = isinstance(value, int | float | np.generic | jax.Array)
        if isinstance(value, bool) or not numeric or np.ndim(value) or not np.isfinite(value):
            raise ValueError(f"expected {name} to be one finite number, got {value!r}")


def check_positive(*, or_zero: bool = False, **options: Any) -> None:
    """Raises ValueError for an option that is not one finite number above 0 (`or_zero`: from 0)."""
    check_finite(**options)
    for name, value in options.items():
        if not is_traced(value) and not (value > 0 or (or_zero and value == 0)):
            expected = "0 or above" if or_zero else "a number above 0"
            raise ValueError(f"expected {name} to be {expected}, got {value}")


def check_counts(*, or_zero: bool = False, **options: Any) -> None:
    """Raises ValueError for an option that is not a whole number above 0 (`or_zero`: from 0)."""
    check_positive(or_zero=or_zero, **options)
    for name, value in options.items():
        if is_traced(value):
            continue
        if not isinstance(value, int | np.integer):
            raise ValueError(f"expected {name} to be a whole number, got {value!r}")
        if value >= 2**31:
            raise ValueError(f"expected {name} of at most {2**31 - 1}, got {value}")


def check_choice(**options: tuple[Any, tuple[Any, ...]]) -> None:
    """Raises ValueError for an option (value, allowed values) whose value is not allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            among = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"expected {name} to be one of {among}, got {value!r}")
