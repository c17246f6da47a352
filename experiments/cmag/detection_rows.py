"""Turns scores into table rows: detection rates, false-positive rates, AUROC, accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_curve

from cmag_jax import cmag
from experiments.cmag import paper_values
from experiments.pipeline.detectors import FittedDetector, Scores, Thresholds
from experiments.runtime.results import Row

FPRS = (0.05, 0.01, 0.001)  # the false-positive rates that thresholds are calibrated to
NORMAL_95 = 1.96  # standard errors on each side of a 95% interval


@dataclass(frozen=True)
class Attack:
    """The outcome of an attack on N images."""

    name: str
    strength: float
    success: np.ndarray  # (N,) bool
    right: np.ndarray  # (N,) bool: whether the victim classifies the attacked image correctly
    mean_distance: float  # of successful examples, in the attack's norm; nan without any


@dataclass(frozen=True)
class Scored:
    """An attack's outcome with the scores of one detector."""

    attack: Attack
    of_all: Scores  # (n,): of the first n <= N attacked images, successful or not

    @property
    def scores(self) -> Scores:
        """Scores of the successful examples; detection rates are measured on these."""
        return {name: values[self._success] for name, values in self.of_all.items()}

    @property
    def n(self) -> int:
        return int(self._success.sum())

    @property
    def right(self) -> np.ndarray:
        return self.attack.right[: len(self._success)]

    @property
    def _success(self) -> np.ndarray:
        return self.attack.success[: len(next(iter(self.of_all.values())))]


@dataclass(frozen=True)
class Clean:
    """The scores of one detector on clean images."""

    training: Scores | None  # None unless the system's paper uses them
    validation: Scores
    test: Scores  # misclassified images included
    right: np.ndarray  # (n,) bool: whether the victim classifies the test image correctly
    noisy: dict[float, Scores]  # standard deviation of the noise -> noisy test images


def thresholds(system: FittedDetector, clean: Clean) -> dict[str, Thresholds]:
    """Returns thresholds by the system's paper, and by FPR calibration on held-out images."""
    paper = {"paper": system.paper_thresholds(clean.training, clean.validation)}
    images = _count(clean.validation)
    return paper | {
        f"fpr={fpr:g}": cmag.calibrate(clean.validation, fpr=fpr)
        for fpr in FPRS
        if fpr * images >= 1  # skip rates below one image
    }


def victim_rows(
    dataset: str, accuracies: dict[str, tuple[float, int]], attacks: list[Attack]
) -> Iterator[Row]:
    """Yields the rows of the victim alone: accuracy, attack success rate, mean distance.

    Args:
      accuracies: split -> (accuracy, number of images).
    """
    for split, (value, n) in accuracies.items():
        yield Row("extra/victim", dataset, "victim", "none", None, f"accuracy:{split}", value, n)
    for made in attacks:

        def row(metric, value, n, made=made):
            value = round(float(value), 6)
            table = "extra/attack"
            return Row(table, dataset, "victim", made.name, made.strength, metric, value, n)

        yield row("attack_success_rate", made.success.mean(), len(made.success))
        if made.success.any():
            yield row("mean_distance", made.mean_distance, int(made.success.sum()))


def rows(
    dataset: str,
    system: FittedDetector,
    clean: Clean,
    attacks: list[Scored],
    limits: dict[str, Thresholds],
) -> Iterator[Row]:
    """Yields the rows of one system: how well it detects, and its cost on clean images."""

    def row(table, metric, value, n, attack="none", strength=None, paper=None):
        value = round(float(value), 6)
        return Row(table, dataset, system.name, attack, strength, metric, value, n, paper)

    wrong = {name: values[~clean.right] for name, values in clean.test.items()}
    for rule, limit in limits.items():
        metric = f"fpr@{rule}"
        yield row("extra/fpr", metric, _flagged(clean.test, limit), len(clean.right))
        for sd, scores in clean.noisy.items():
            at = {"attack": "noise", "strength": sd}
            yield row("extra/fpr", metric, _flagged(scores, limit), _count(scores), **at)
        if _count(wrong):
            at = {"attack": "misclassified"}
            yield row("extra/fpr", metric, _flagged(wrong, limit), _count(wrong), **at)
        passed = ~_flags(clean.test, limit)
        if rule != "paper" and passed.any():
            right = clean.right[passed].mean()
            yield row("extra/let-through", f"accuracy_all@{rule}", right, int(passed.sum()))

    for made in attacks:
        at = {"attack": made.attack.name, "strength": made.attack.strength}
        of_paper = made.attack.name in paper_values.ATTACKS
        table = paper_values.detection_table(dataset) if of_paper else "extra/other-attacks"
        for rule, limit in limits.items():
            passed = ~_flags(made.of_all, limit)
            if rule != "paper" and passed.any():
                right = made.right[passed].mean()
                yield row(
                    "extra/let-through", f"accuracy_all@{rule}", right, int(passed.sum()), **at
                )
            if not made.n:
                continue  # without adversarial examples there is no rate
            printed = _printed(dataset, system.name, made.attack) if rule == "paper" else None
            metric = "detection_rate@paper" if rule == "paper" else f"tpr@{rule}"
            yield row(table, metric, _flagged(made.scores, limit), made.n, paper=printed, **at)
        if not made.n:
            continue
        for name in ("any", *clean.test):
            positives, negatives = pooled(made.scores, clean.test, clean.validation, name)
            value, low, high = auroc(positives, negatives)
            metric = "auroc" if name == "any" else f"auroc:{name}"
            yield row("extra/auroc", metric, value, made.n, **at)
            if name == "any":
                yield row("extra/auroc", "auroc:95%-low", low, made.n, **at)
                yield row("extra/auroc", "auroc:95%-high", high, made.n, **at)


def pooled(
    adversarial: Scores, clean: Scores, validation: Scores, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns one number per image, for adversarial and for clean images: the score `name`.

    "any" stands for the decision over all scores, which thresholds every score at the same rank
    among validation images.
    """
    if len(clean) == 1:
        (name,) = clean
    if name != "any":
        return adversarial[name], clean[name]
    return cmag.combine(adversarial, validation), cmag.combine(clean, validation)


def auroc(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float, float]:
    """Returns (area under the ROC curve, low end, high end) with DeLong's 95% interval.

    See DeLong, DeLong and Clarke-Pearson (1988). The area is the probability that a positive ranks
    above a negative; ties count half.
    """
    of_positives = _share_below(negatives, positives)
    of_negatives = 1 - _share_below(positives, negatives)
    area = float(of_positives.mean())
    variance = sum(v.var(ddof=1) / len(v) for v in (of_positives, of_negatives) if len(v) > 1)
    margin = NORMAL_95 * float(np.sqrt(variance))
    return area, max(area - margin, 0.0), min(area + margin, 1.0)


def _share_below(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    ordered = np.sort(reference)
    below, not_above = (np.searchsorted(ordered, values, side=s) for s in ("left", "right"))
    return (below + not_above) / 2 / len(reference)


def roc(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (false-positive rates, true-positive rates)."""
    truth = np.repeat([1, 0], [len(positives), len(negatives)])
    fpr, tpr, _ = roc_curve(truth, np.concatenate([positives, negatives]))
    return fpr, tpr


def _flags(scores: Scores, limit: Thresholds) -> np.ndarray:
    return np.asarray(cmag.detect(scores, limit))


def _flagged(scores: Scores, limit: Thresholds) -> float:
    return float(np.mean(_flags(scores, limit)))


def _count(scores: Scores) -> int:
    return len(next(iter(scores.values())))


def _printed(dataset: str, system: str, attack: Attack) -> float | None:
    table = paper_values.DETECTION.get(system, {}).get(dataset, {})
    return table.get((attack.name, attack.strength))
