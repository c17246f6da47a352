"""Checks at the library's edge: said once, in words that name what came."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_traced(*arrays: Any) -> bool:
    return any(isinstance(a, jax.core.Tracer) for a in arrays)


def check_images(images: Any, rank: int) -> None:
    """Raises ValueError unless images are float32 in [0, 1] of the rank. Traced images can be
    checked for shape and type only."""
    expected = {
        3: "an image (H, W, C)",
        4: "images (B, H, W, C)",
        5: "images (B, N, H, W, C), N of each client,",
    }[rank]
    dtype, shape = getattr(images, "dtype", None), tuple(np.shape(images))
    came = f"{dtype or type(images).__name__} {shape}"
    right = len(shape) == rank and dtype == np.float32
    if right and not is_traced(images) and 0 not in shape:
        with jax.ensure_compile_time_eval():  # also of a constant inside somebody's jit
            low, high = images.min().item(), images.max().item()
        right = 0 <= low <= high <= 1  # NaN is in no interval
        came += f" with min {low:.6g}, max {high:.6g}"
    if not right:
        raise ValueError(f"expected {expected} float32 in [0, 1], got {came}")


def check_shape(image_shape: Any) -> tuple[int, int, int]:
    """(H, W, C) as a tuple of ints, or ValueError."""
    shape = tuple(image_shape) if np.ndim(image_shape) == 1 else ()
    if len(shape) != 3 or not all(isinstance(n, int | np.integer) and n > 0 for n in shape):
        raise ValueError(f"expected an image shape (H, W, C), got {image_shape!r}")
    height, width, channels = (int(n) for n in shape)
    return height, width, channels


def check_same_shape(image: Any, stored: tuple[int, ...]) -> None:
    """Raises ValueError unless an image has the shape that the memory was made for."""
    if np.shape(image) != tuple(stored):
        raise ValueError(f"expected an image {tuple(stored)}, as at init, got {np.shape(image)}")


def check_key(key: Any) -> None:
    """Raises ValueError unless it is one typed key."""
    typed = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or jnp.shape(key):
        got = f"{key.dtype} {jnp.shape(key)}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(f"expected one typed key, jax.random.key(seed), got {got}")


def check_finite(**options: Any) -> None:
    """Raises ValueError for an option that is not one finite number. Traced ones are let pass."""
    for name, value in options.items():
        if is_traced(value):
            continue
        numeric = isinstance(value, int | float | np.generic | jax.Array)
        if isinstance(value, bool) or not numeric or np.ndim(value) or not np.isfinite(value):
            raise ValueError(f"expected {name} to be one finite number, got {value!r}")


def check_positive(*, or_zero: bool = False, **options: Any) -> None:
    """Raises ValueError for an option that is not one finite number above zero (or zero)."""
    check_finite(**options)
    for name, value in options.items():
        if not is_traced(value) and not (value > 0 or (or_zero and value == 0)):
            expected = "0 or above" if or_zero else "a number above 0"
            raise ValueError(f"expected {name} to be {expected}, got {value}")


def check_counts(*, or_zero: bool = False, **options: Any) -> None:
    """Raises ValueError for an option that is not a whole number above zero (or zero)."""
    check_positive(or_zero=or_zero, **options)
    for name, value in options.items():
        if not is_traced(value) and not isinstance(value, int | np.integer):
            raise ValueError(f"expected {name} to be a whole number, got {value!r}")


def check_choice(**options: tuple[Any, tuple[Any, ...]]) -> None:
    """Raises ValueError for an option (value, allowed values) that is none of those allowed."""
    for name, (value, allowed) in options.items():
        if value not in allowed:
            among = ", ".join(repr(choice) for choice in allowed)
            raise ValueError(f"expected {name} to be one of {among}, got {value!r}")
