"""Checks at the library's edge: said once, in words that name what came."""

import jax
import jax.numpy as jnp
import numpy as np


def is_traced(*arrays) -> bool:
    return any(isinstance(a, jax.core.Tracer) for a in arrays)


def describe(images) -> str:
    """'float32 (28, 28) with min 0.0, max 255.0', as far as it can be known."""
    text = f"{getattr(images, 'dtype', type(images).__name__)} {tuple(np.shape(images))}"
    if is_traced(images) or not np.size(images) or not hasattr(images, "dtype"):
        return text
    return f"{text} with min {float(images.min()):.6g}, max {float(images.max()):.6g}"


def check_batch(images, labels, bounds) -> tuple[jax.Array, jax.Array]:
    """Returns (images, labels) as arrays, or raises ValueError.

    Traced values can be checked for shape and type only.
    """
    low, high = bounds
    expected = f"expected images (B, H, W, C) float32 in [{low:g}, {high:g}]"
    if np.ndim(images) != 4 or getattr(images, "dtype", None) != np.float32:
        raise ValueError(f"{expected}, got {describe(images)}")
    if not is_traced(images) and images.size:
        lowest, highest = float(images.min()), float(images.max())
        if not (low <= lowest and highest <= high):  # false for NaN too
            raise ValueError(f"{expected}, got {describe(images)}")
    labels = jnp.asarray(labels)
    if labels.shape != images.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"expected labels ({images.shape[0]},) of an integer type,"
            f" got {labels.dtype} {labels.shape}"
        )
    return jnp.asarray(images), labels


def check_bounds(bounds) -> tuple[float, float]:
    low, high = (float(b) for b in bounds)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"expected bounds (low, high) with low < high, got {tuple(bounds)}")
    return low, high
