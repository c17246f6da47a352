"""Checks theorem 1 of CMAG (section 4.3) on fitted detectors and real attacks.

For the whole reconstruction phi(f(.)), the theorem assumes constants e1 and e2 with

    ||phi(f(x)) - x|| <= e1 for clean images x,
    ||phi(f(eps)) - eps|| >= e2 for adversarial perturbations eps,    e2 > 2 e1,

and concludes ||phi(f(x + eps)) - (x + eps)|| >= e1. The first step of the proof
sets the error of x + eps to the sum of the errors of x and of eps, as if networks were linear.
Without this step the conclusion does not follow. This module measures the step, the assumption and
the conclusion.
"""

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

from cmag_jax import CMAGParams, cmag
from cmag_jax.victim import Victim, ready
from experiments.cmag import paper_values
from experiments.pipeline.attack_runs import Attacked, AttackSpec
from experiments.runtime.batching import Arrays, map_batches
from experiments.runtime.results import Row

TABLE = "extra/theorem1"
BATCH = 500  # images per batch; no result depends on it

Error = Callable[[np.ndarray], np.ndarray]  # u (N, H, W, C) -> phi(f(u)) - u, of the same shape


def rows(
    dataset: str, system: str, error: Error, attacked: Mapping[AttackSpec, Attacked]
) -> Iterator[Row]:
    """Yields `check` for every attack with a success, and the error of a zero perturbation.

    Args:
      error: u (N, H, W, C) -> phi(f(u)) - u, also for perturbations, with values in [-1, 1].
      attacked: the outcome of each attack.
    """
    for spec, made in attacked.items():
        if not made.success.any():
            continue
        # Section 4.3 says that table 7 has errors of perturbations; its title says of examples.
        paper = (
            {}
            if system != "CMAG"
            else {
                "mean_e1": paper_values.CMAG_L2_LEGITIMATE.get(dataset),
                "mean_e2": paper_values.CMAG_L2.get(dataset, {}).get((spec.name, spec.strength)),
            }
        )
        for metric, (value, n) in check(error, made.clean, made.images, made.success).items():
            at = (spec.name, spec.strength, metric, round(value, 6), n, paper.get(metric))
            yield Row(TABLE, dataset, system, *at)
    for made in attacked.values():
        # If this is above 2 e1 already, the assumption says little about perturbations.
        nothing = float(_norms(error(np.zeros_like(made.clean[:1])))[0])
        yield Row(TABLE, dataset, system, "none", None, "e2_of_zero", round(nothing, 6), 1)
        break


def check(
    error: Error, clean: np.ndarray, images: np.ndarray, success: np.ndarray
) -> dict[str, tuple[float, int]]:
    """Returns the theorem's terms for the successful ones among N attacked images.

    Both readings of e1 and e2 count. Per image: e1(x) = ||phi(f(x)) - x|| and
    e2(eps) = ||phi(f(eps)) - eps||. As constants: the largest e1(x) of all N clean images and the
    smallest e2(eps). Shares are over images, except `share_assumption_constants`, which is 0 or 1.

    Args:
      error: u (N, H, W, C) -> phi(f(u)) - u.
      clean, images: (N, H, W, C), before and after the attack.
      success: (N,) bool, with at least one True.

    Returns:
      metric -> (value, number of images measured).
    """
    of_clean = error(clean)
    largest_e1 = _norms(of_clean).max()
    of_clean, x, adversarial = of_clean[success], clean[success], images[success]
    of_perturbation = error(adversarial - x)
    e1, e2, reached = _norms(of_clean), _norms(of_perturbation), _norms(error(adversarial))
    if_linear = _norms(of_clean + of_perturbation)

    assumption, conclusion = e2 > 2 * e1, reached >= e1
    of_each = {
        "mean_e1": e1,
        "mean_e2": e2,
        "share_assumption": assumption,
        "share_conclusion": conclusion,
        # A threshold at the worst clean image needs this one.
        "share_conclusion_constant": reached >= largest_e1,
        "share_triangle_bound": reached >= e2 - e1,
    }
    if assumption.any():
        of_each["share_conclusion_given_assumption"] = conclusion[assumption]
    gap = np.abs(reached - if_linear) / np.maximum(reached, np.finfo(np.float32).tiny)
    return {
        "max_e1": (float(largest_e1), len(clean)),
        "min_e2": (float(e2.min()), len(e2)),
        "share_assumption_constants": (float(e2.min() > 2 * largest_e1), len(e2)),
        "median_linearity_gap": (float(np.median(gap)), len(e2)),
    } | {metric: (float(np.mean(values)), len(values)) for metric, values in of_each.items()}


def reconstruction_error(victim: Victim, params: CMAGParams) -> Error:
    """Returns the `error` of a fitted CMAG: u -> GR's reconstruction of u, minus u.

    u (N, H, W, C) is float32, with any values.
    """
    victim = ready(victim)

    def error(u: np.ndarray) -> np.ndarray:
        def of_rows(rows: np.ndarray) -> Arrays:
            return {"error": np.asarray(_rebuild(victim, params, u[rows])) - u[rows]}

        return map_batches(of_rows, len(u), BATCH)["error"]

    return error


# Under jit, only shape and type are checked, so a perturbation passes as an image.
_rebuild = jax.jit(lambda victim, params, u: cmag.reconstruct(victim, params, u).gr)


def _norms(errors: np.ndarray) -> np.ndarray:
    """Returns each image's l2 norm (N,)."""
    return np.sqrt(np.sum(np.square(errors), axis=(1, 2, 3)))
