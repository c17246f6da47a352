"""From scores to the rows of the tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from cmag_jax import cmag
from experiments import paper_values
from experiments.results import Row

Scores = dict[str, np.ndarray]  # score -> (N,)

FPRS = (0.05, 0.01)  # the false-positive rates that thresholds are calibrated to


@dataclass(frozen=True)
class Scored:
    """One attack's outcome, as a detector scores it; only successful examples are scored."""

    attack: str
    strength: float
    scores: Scores  # of the successful examples
    success_rate: float
    mean_distance: float  # of the successful examples, in the attack's norm; nan without any
    attempts: int

    @property
    def n(self) -> int:
        return len(self.scores["ssim"])


def thresholds(train: Scores, validation: Scores) -> dict[str, dict[str, float]]:
    """The paper's rule on the training scores, and FPR calibration on held-out ones."""
    paper = {"paper": cmag.calibrate(train, rule="worst-training-example")}
    return paper | {f"fpr={fpr:g}": cmag.calibrate(validation, fpr=fpr) for fpr in FPRS}


def rows(
    dataset: str,
    validation: Scores,
    test: Scores,
    attacks: list[Scored],
    limits: dict[str, dict[str, float]],
    trained_on: int,
    accuracies: dict[str, tuple[float, int]],
) -> Iterator[Row]:
    """Every figure of a CMAG run.

    Args:
      validation, test: scores of clean images. The test set is scored whole, misclassified
        images included.
      limits: what `thresholds` returned.
      trained_on: the number of training images, which the paper's rule looks at.
      accuracies: split -> (the victim's accuracy, images).
    """

    def row(table, metric, value, n, attack="none", strength=None, paper=None):
        return Row(
            table, dataset, "CMAG", attack, strength, metric, round(float(value), 6), n, paper
        )

    for split, (value, n) in accuracies.items():
        yield row("extra/victim", f"accuracy:{split}", value, n)
    clean = len(test["ssim"])
    for rule, limit in limits.items():
        yield row("extra/fpr", _metric("fpr", rule), _flagged(test, limit), clean)

    ssim_limit = 1 - limits["paper"]["ssim"]
    paper = paper_values.CMAG_SSIM_THRESHOLD.get(dataset)
    yield row("cmag/6", "threshold_ssim", ssim_limit, trained_on, paper=paper)
    yield row("cmag/6", "mean_ssim", 1 - test["ssim"].mean(), clean)
    paper = paper_values.CMAG_L2_LEGITIMATE.get(dataset)
    yield row("cmag/7", "mean_l2", test["l2"].mean(), clean, paper=paper)

    detection = paper_values.detection_table(dataset)
    for made in attacks:
        at = {"attack": made.attack, "strength": made.strength}
        yield row("extra/attack", "attack_success_rate", made.success_rate, made.attempts, **at)
        if not made.n:
            continue  # nothing was adversarial: there is no rate to give
        yield row("extra/attack", "mean_distance", made.mean_distance, made.n, **at)
        for rule, limit in limits.items():
            printed = (
                _paper(paper_values.CMAG_DETECTION, dataset, made) if rule == "paper" else None
            )
            rate = _flagged(made.scores, limit)
            yield row(detection, _metric("detection_rate", rule), rate, made.n, paper=printed, **at)
        for name in ("any", *test):
            metric = "auroc" if name == "any" else f"auroc:{name}"
            positives, negatives = pooled(made.scores, test, validation, name)
            yield row("extra/auroc", metric, auroc(positives, negatives), made.n, **at)
        printed = _paper(paper_values.CMAG_SSIM, dataset, made)
        mean_ssim = 1 - made.scores["ssim"].mean()
        yield row("cmag/6", "mean_ssim", mean_ssim, made.n, paper=printed, **at)
        printed = _paper(paper_values.CMAG_L2, dataset, made)
        yield row("cmag/7", "mean_l2", made.scores["l2"].mean(), made.n, paper=printed, **at)


def pooled(
    adversarial: Scores, clean: Scores, validation: Scores, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """One number an image, adversarial and clean: the score `name`, or "any" for the decision
    over all of them, which thresholds every score at the same rank among validation images."""
    if name != "any":
        return adversarial[name], clean[name]
    return cmag.combine(adversarial, validation), cmag.combine(clean, validation)


def auroc(positives: np.ndarray, negatives: np.ndarray) -> float:
    return roc_auc_score(*_labelled(positives, negatives))


def roc(positives: np.ndarray, negatives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(false-positive rates, true-positive rates)."""
    fpr, tpr, _ = roc_curve(*_labelled(positives, negatives))
    return fpr, tpr


def _labelled(positives, negatives):
    truth = np.repeat([1, 0], [len(positives), len(negatives)])
    return truth, np.concatenate([positives, negatives])


def _flagged(scores: Scores, limit: dict[str, float]) -> float:
    return float(np.mean(cmag.detect(scores, limit)))


def _metric(kind: str, rule: str) -> str:
    """detection_rate@paper, tpr@fpr=0.05, fpr@paper, fpr@fpr=0.05."""
    return f"{'tpr' if kind == 'detection_rate' and rule != 'paper' else kind}@{rule}"


def _paper(table: dict[str, dict], dataset: str, made: Scored) -> float | None:
    return table.get(dataset, {}).get((made.attack, made.strength))
