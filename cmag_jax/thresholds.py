"""Thresholds from the scores of clean images, and flags from scores and thresholds.

Scores are a dict of arrays (N,); higher is more adversarial. Thresholds are a dict with the same
names. All detectors share these functions.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax._checks import describe

Scores = Mapping[str, jax.Array | np.ndarray]  # name -> (N,)
Thresholds = dict[str, float]
TINY = 1e-12  # smallest spread, for a score that is the same for most clean images


def calibrate(
    clean_scores: Scores,
    *,
    fpr: float | None = None,
    rule: Literal["worst-training-example"] | None = None,
) -> Thresholds:
    """Thresholds from the scores of clean images. Exactly one of `fpr` and `rule` is given.

    Args:
      clean_scores: the scores of clean images, each (N,).
      fpr: the largest false-positive rate, in [0, 1). All thresholds have the same rank among the
        clean scores: the lowest rank at which at most `fpr` of these images exceed *any*
        threshold. Use held-out images, not the detector's training images.
      rule: "worst-training-example" is CMAG's algorithm 2: the largest score of each kind over the
        training images (Thr_SSIM is then 1 minus the smallest SSIM).

    Raises:
      ValueError: no images; scores that are not finite or of unequal length; both or none of `fpr`
        and `rule`.
    """
    arrays = _arrays(clean_scores)
    if (fpr is None) == (rule is None):
        raise ValueError(f"expected either fpr or rule, got fpr={fpr!r} and rule={rule!r}")
    if fpr is None:
        if rule != "worst-training-example":
            raise ValueError(f"expected rule 'worst-training-example', got {rule!r}")
        return {name: float(values.max()) for name, values in arrays.items()}
    check_rate(fpr=fpr)

    worst = _worst_rank(arrays, arrays)
    allowed = int(np.floor(fpr * len(worst) + 1e-9))  # 1e-9: 0.29 * 100 is just below 29
    # At most `allowed` images have a worst rank above `level`.
    level = np.sort(worst)[len(worst) - 1 - allowed]
    return {name: float(np.sort(values)[level]) for name, values in arrays.items()}


def check_rate(**rates: Any) -> None:
    """Raises ValueError unless each is a number in [0, 1)."""
    for name, rate in rates.items():
        number = isinstance(rate, int | float | np.generic) and not isinstance(rate, bool)
        if not number or not 0 <= rate < 1:
            raise ValueError(f"expected {name} in [0, 1), got {rate!r}")


def detect(scores: Scores, thresholds: Mapping[str, float]) -> jax.Array:
    """Flags (B,) bool: True where *any* score exceeds its threshold (CMAG, section 3.4) or is NaN.
    An image on which the victim fails to return numbers must not be accepted.

    Raises:
      ValueError: different names of scores and thresholds; no thresholds; scores of unequal shape.
    """
    _check_mapping("scores", scores)
    _check_mapping("thresholds", thresholds)
    if not thresholds or scores.keys() != thresholds.keys():
        raise ValueError(
            f"expected the scores {sorted(thresholds)} of the thresholds, got {sorted(scores)}"
        )
    for name in thresholds:
        if not _is_number(thresholds[name], rank=0):
            came = describe(thresholds[name])
            raise ValueError(f"expected a number as the threshold of {name!r}, got {came}")
        if not _is_number(scores[name]):
            raise ValueError(f"expected scores (B,) of {name!r}, got {describe(scores[name])}")
    shapes = {name: jnp.shape(scores[name]) for name in thresholds}
    if len(set(shapes.values())) != 1:
        raise ValueError(f"expected scores of one shape (B,), got {shapes}")
    flags = [~(jnp.asarray(scores[name]) <= thresholds[name]) for name in thresholds]
    return jnp.any(jnp.stack(flags), axis=0)


def combine(scores: Scores, clean_scores: Scores) -> np.ndarray:
    """Combines several scores into one (B,) in [0, 2), with the ROC curve of `calibrate(fpr=...)`
    and `detect`.

    The value is the share of clean images with a lower score, maximised over the scores. If a score
    exceeds all clean ones, the value is at least 1. It then grows with the distance beyond them, in
    units of the distance from the median to the highest clean score.

    Raises:
      ValueError: as `calibrate`; scores with other names.
    """
    reference = _arrays(clean_scores)
    _check_mapping("scores", scores)
    if scores.keys() != reference.keys():
        raise ValueError(f"expected the scores {sorted(reference)}, got {sorted(scores)}")
    arrays = {name: np.asarray(values) for name, values in scores.items()}
    _check_numbers(arrays)
    share = _worst_rank(arrays, reference) / len(next(iter(reference.values())))
    beyond = [
        (arrays[name] - values.max()) / max(values.max() - np.median(values), TINY)
        for name, values in reference.items()
    ]
    excess = np.maximum(np.nan_to_num(np.max(beyond, axis=0), nan=np.inf), 0.0)
    return share + 1 - 1 / (1 + excess)


def _worst_rank(scores: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> np.ndarray:
    """(B,) int: the smallest r, from 0, such that no score exceeds the r-th smallest reference
    score of its name; the reference's size if some score exceeds all of them."""
    ranks = [np.searchsorted(np.sort(reference[k]), scores[k], side="left") for k in reference]
    return np.max(ranks, axis=0)


def _is_number(value: Any, rank: int | None = None) -> bool:
    """Whether the value is an array of real numbers, or one number, of this rank."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return rank in (None, 0)
    dtype = getattr(value, "dtype", None)
    real = dtype is not None and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )
    return real and rank in (None, np.ndim(value))


def _check_mapping(what: str, scores: Any) -> None:
    if not isinstance(scores, Mapping):
        raise ValueError(f"expected {what} as a dict from name to value, got {describe(scores)}")


def _arrays(clean_scores: Scores) -> dict[str, np.ndarray]:
    """The scores as checked NumPy arrays. Raises ValueError as `calibrate`."""
    _check_mapping("clean_scores", clean_scores)
    arrays = {name: np.asarray(values) for name, values in clean_scores.items()}
    _check_numbers(arrays)
    _check(arrays)
    return arrays


def _check_numbers(arrays: dict[str, np.ndarray]) -> None:
    for name, values in arrays.items():
        if not _is_number(values):
            raise ValueError(f"expected scores that are numbers, got {name!r} {describe(values)}")


def _check(arrays: dict[str, np.ndarray]) -> None:
    shapes = {name: values.shape for name, values in arrays.items()}
    if not shapes or len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"expected scores of one shape (N,), got {shapes}")
    if not next(iter(arrays.values())).size:
        raise ValueError("expected the scores of at least one clean image, got none")
    check_finite(arrays)


def check_finite(scores: Scores) -> None:
    """Raises ValueError if a score is NaN or infinite."""
    for name, values in scores.items():
        wrong = int(np.sum(~np.isfinite(np.asarray(values))))
        if wrong:
            raise ValueError(
                f"expected finite scores, got {name!r} with NaN or infinity for {wrong} of"
                f" {len(values)} images"
            )
