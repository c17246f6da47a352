"""Checks of the arguments of public functions. Messages name the expected and the given value."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_images(
    images, image_shape: tuple[int, ...] | None = None, *, at_least: int = 0, what: str = "images"
) -> None:
    """Raises ValueError unless images are (B, H, W, C) float32 in [0, 1], and B is at least
    `at_least`. For traced images only shape and type are checked."""
    shape = ", ".join(map(str, image_shape or "HWC"))
    expected = f"expected {what} (B, {shape}) float32 in [0, 1]"
    if getattr(images, "dtype", None) == np.float32 and np.ndim(images) == 4:
        right_shape = image_shape is None or np.shape(images)[1:] == tuple(image_shape)
        values = value_range(images)
        in_range = values is None or 0 <= values[0] <= values[1] <= 1  # NaN is in no interval
        if right_shape and in_range:
            if at_least and len(images) < at_least:
                raise ValueError(f"expected at least {at_least} {what}, got {len(images)}")
            return
    raise ValueError(f"{expected}, got {describe(images)}")


def check_same_images(a: Any, b: Any) -> None:
    """Raises ValueError unless both are images (..., H, W, C) of the same shape, of a floating
    type, in [0, 1]."""
    for images in (a, b):
        if not hasattr(images, "dtype") or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"expected images (..., H, W, C) of floats, got {describe(images)}")
        values = value_range(images)
        in_range = values is None or 0 <= values[0] <= values[1] <= 1
        if np.ndim(images) < 3 or not in_range:
            raise ValueError(f"expected images (..., H, W, C) in [0, 1], got {describe(images)}")
    if np.shape(a) != np.shape(b):
        raise ValueError(f"expected images of one shape, got {np.shape(a)} and {np.shape(b)}")


def check_counts(config: Any, *names: str) -> None:
    """Raises ValueError unless these options are whole numbers from 1 to 2**31 - 1."""
    for name in names:
        value = getattr(config, name)
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1, got {value!r}")
        if value >= 2**31:
            raise ValueError(f"expected {name} of at most {2**31 - 1}, got {value}")


def check_above_zero(config: Any, *names: str) -> None:
    """Raises ValueError unless these options are finite and above 0."""
    for name in names:
        value = check_number(config, name)
        if not 0 < value < math.inf:
            raise ValueError(f"expected a finite {name} above 0, got {value}")


def check_number(config: Any, name: str) -> float:
    """Returns the option as a float, or raises ValueError unless it is one number."""
    value = getattr(config, name)
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"expected {name} to be a number, got {value!r}")
    return float(value)


def check_sequence(config: Any, *names: str) -> None:
    """Raises ValueError unless these options are lists or tuples."""
    for name in names:
        if not isinstance(getattr(config, name), list | tuple):
            raise ValueError(f"expected {name} to be a tuple, got {getattr(config, name)!r}")


def value_range(array: Any) -> tuple[float, float] | None:
    """(lowest, highest) value, NaN if the array contains one; None if values are unknown."""
    real = getattr(getattr(array, "dtype", None), "kind", "") in tuple("biuf")
    if (
        not real
        or isinstance(array, jax.core.Tracer)
        or not isinstance(array, jax.Array | np.ndarray | np.generic)
    ):
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


def of_none(function: Callable[[jax.Array], Any], images: Any) -> Any:
    """The output of a function of images for an empty batch. No network runs, since many can't run
    on an empty batch. Each leaf of the output must start with the batch axis."""
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    shapes = jax.eval_shape(function, one)
    return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape[1:]), leaf.dtype), shapes)
