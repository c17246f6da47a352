"""Measures CMAG's reconstructions: tables 6 and 7, and figures 4 to 6 (the ablation) as numbers."""

import dataclasses
from collections.abc import Callable, Iterator

import jax.numpy as jnp
import numpy as np

from cmag_jax import cmag, global_ssim
from experiments.cmag import paper_values
from experiments.datasets import Dataset
from experiments.pipeline import detectors
from experiments.pipeline.attack_runs import Attacked, AttackSpec
from experiments.pipeline.detectors import FittedDetector
from experiments.runtime.results import Row

ABLATION_IMAGES = 1000  # at most, per attack and of clean images
Errors = dict[str, np.ndarray]  # "ssim": 1 - SSIM(x, x'), "l2": ||x - x'||; (N,)
Measure = Callable[[np.ndarray], Errors]


def errors_of_gr(system: FittedDetector) -> FittedDetector:
    """Returns the system with GR's two errors of section 3.4 as its only scores."""
    if system.config.scores == ("ssim", "l2"):
        return system
    config = dataclasses.replace(system.config, scores=("ssim", "l2"), decision="any")
    params = dataclasses.replace(system.params, config=config, usual=None, tails=None)
    return dataclasses.replace(system, params=params, key=f"{system.key}, errors of GR")


def tables_6_and_7(
    data: Dataset, system: FittedDetector, attacked: dict[AttackSpec, Attacked], measure: Measure
) -> Iterator[Row]:
    """Yields GR's mean SSIM and l2 error on clean test images and on successful adversarial ones.

    Also yields the smallest SSIM of a training image, which is the paper's threshold.
    """
    ours = system.name == "CMAG"  # the paper's values hold only for CMAG

    def row(table, metric, value, n, paper, attack="none", strength=None):
        value, paper = round(float(value), 6), paper if ours else None
        return Row(table, data.name, system.name, attack, strength, metric, value, n, paper)

    lowest = 1 - measure(data.train.images)["ssim"].max()
    printed = paper_values.CMAG_SSIM_THRESHOLD.get(data.name)
    yield row("cmag/6", "threshold_ssim", lowest, len(data.train), printed)
    of_test = measure(data.test.images)
    yield row("cmag/6", "mean_ssim", 1 - of_test["ssim"].mean(), len(data.test), None)
    printed = paper_values.CMAG_L2_LEGITIMATE.get(data.name)
    yield row("cmag/7", "mean_l2", of_test["l2"].mean(), len(data.test), printed)
    for spec, made in attacked.items():
        strength = (spec.name, spec.strength)
        if spec.name not in paper_values.ATTACKS or not made.success.any():
            continue
        of_attacked = measure(made.adversarial)
        n = int(made.success.sum())
        printed = paper_values.CMAG_SSIM.get(data.name, {}).get(strength)
        yield row("cmag/6", "mean_ssim", 1 - of_attacked["ssim"].mean(), n, printed, *strength)
        printed = paper_values.CMAG_L2.get(data.name, {}).get(strength)
        yield row("cmag/7", "mean_l2", of_attacked["l2"].mean(), n, printed, *strength)


def with_average(system: FittedDetector, data: Dataset, *, seed: int, cache_dir) -> FittedDetector:
    """Returns CMAG with GR trained on the weighted average of FMR and LR (figure 4).

    FMR and LR are the networks of `system`.
    """
    config = dataclasses.replace(system.config, combination="average")
    same = {name: getattr(system.params, name) for name in ("fmr", "lr")}
    return detectors.fit(
        "CMAG", config, data, system.victim, seed=seed, cache_dir=cache_dir, given=same
    )


def ablation(
    dataset: str, variants: dict[str, FittedDetector], clean: np.ndarray, attacked: dict
) -> Iterator[Row]:
    """Yields the mean SSIM and l2 norm between images and each module's reconstructions.

    Args:
      variants: name -> a CMAG.
      clean: test images.
      attacked: spec -> Attacked; only the successful examples count.
    """
    kinds = {("none", None): clean[:ABLATION_IMAGES]}
    for spec, made in attacked.items():
        if spec.name in paper_values.ATTACKS and made.success.any():
            kinds[spec.name, spec.strength] = made.adversarial[:ABLATION_IMAGES]
    for name, system in variants.items():
        for (attack, strength), images in kinds.items():
            seen = cmag.reconstruct(system.victim.features_and_logits, system.params, images)
            for module in ("lr", "fmr", "gr"):
                rebuilt = getattr(seen, module)
                norms = np.linalg.norm(
                    (images - np.asarray(rebuilt)).reshape(len(images), -1), axis=1
                )
                figures = {
                    f"mean_ssim:{module}": float(
                        np.mean(global_ssim(jnp.asarray(images), rebuilt))
                    ),
                    f"mean_l2:{module}": float(norms.mean()),
                }
                for metric, value in figures.items():
                    yield Row(
                        "extra/ablation", dataset, name, attack, strength, metric,
                        round(value, 6), len(images),
                    )  # fmt: skip
