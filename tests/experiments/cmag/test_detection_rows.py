"""From scores to rows: by hand, on a detector of one score."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from experiments.cmag import detection_rows
from experiments.cmag.detection_rows import Attack, Clean, Scored

SYSTEM = SimpleNamespace(name="CMAG")
LIMITS = {"paper": {"l2": 9.0}, "fpr=0.05": {"l2": 5.0}}


def rows(clean: Clean, attacks: list[Scored]) -> dict[tuple, float]:
    made = detection_rows.rows("mnist", SYSTEM, clean, attacks, LIMITS)
    return {(row.table, row.metric, row.attack, row.strength): row.value for row in made}


@pytest.fixture(name="clean")
def _clean():
    ten = {"l2": np.arange(10.0)}  # 6, 7, 8 and 9 are above 5
    right = np.array([True] * 8 + [False] * 2)
    return Clean(None, ten, ten, right, {0.02: {"l2": np.arange(10.0) + 1}})


@pytest.fixture(name="attack")
def _attack():
    """Four images: three fooled, of which two are flagged; the fourth is let through."""
    success = np.array([True, True, True, False])
    attack = Attack("FGSM", 0.1, success, ~success, 0.1)
    return Scored(attack, {"l2": np.array([4.0, 6.0, 10.0, 1.0])})


def test_rates_are_over_the_successful(clean, attack):
    found = rows(clean, [attack])
    at = ("FGSM", 0.1)
    assert found["cmag/3", "tpr@fpr=0.05", *at] == pytest.approx(2 / 3, abs=1e-6)
    assert found["cmag/3", "detection_rate@paper", *at] == pytest.approx(1 / 3, abs=1e-6)


def test_false_positives_on_clean_noisy_and_misclassified_images(clean, attack):
    found = rows(clean, [attack])
    assert found["extra/fpr", "fpr@fpr=0.05", "none", None] == 0.4
    assert found["extra/fpr", "fpr@fpr=0.05", "noise", 0.02] == 0.5
    assert found["extra/fpr", "fpr@fpr=0.05", "misclassified", None] == 1.0
    assert found["extra/fpr", "fpr@paper", "none", None] == 0


def test_accuracy_of_what_is_let_through(clean, attack):
    """Of the attacked, the first (fooled) and the fourth (not); of the clean, six, all right."""
    found = rows(clean, [attack])
    assert found["extra/let-through", "accuracy_all@fpr=0.05", "FGSM", 0.1] == 0.5
    assert found["extra/let-through", "accuracy_all@fpr=0.05", "none", None] == 1.0


def test_what_scores_fewer_images_is_judged_on_those(clean, attack):
    two = Scored(attack.attack, {"l2": np.array([4.0, 6.0])})
    assert two.n == 2
    assert rows(clean, [two])["cmag/3", "tpr@fpr=0.05", "FGSM", 0.1] == 0.5


def test_an_attack_without_success_has_no_rates(clean, attack):
    never = Attack("FGSM", 0.1, np.zeros(4, bool), np.ones(4, bool), float("nan"))
    found = rows(clean, [Scored(never, attack.of_all)])
    assert not [key for key in found if key[0] in ("cmag/3", "extra/auroc")]
    assert found["extra/let-through", "accuracy_all@fpr=0.05", "FGSM", 0.1] == 1.0


def test_other_attacks_have_a_table_of_their_own(clean, attack):
    other = Scored(Attack("PGD", 0.1, *(getattr(attack.attack, f) for f in ("success", "right")),
                          0.1), attack.of_all)  # fmt: skip
    assert ("extra/other-attacks", "tpr@fpr=0.05", "PGD", 0.1) in rows(clean, [other])


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30),
       st.lists(st.integers(0, 5), min_size=2, max_size=30))  # fmt: skip
def test_auroc_is_scikit_learn_s(positives, negatives):
    positives, negatives = np.array(positives, float), np.array(negatives, float)
    truth = np.repeat([1, 0], [len(positives), len(negatives)])
    value, low, high = detection_rows.auroc(positives, negatives)
    expected = roc_auc_score(truth, np.concatenate([positives, negatives]))
    assert value == pytest.approx(expected)
    assert 0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 1


def test_delong_s_interval_covers_the_truth_as_often_as_it_says():
    """Normal scores a standard deviation apart: the area is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        _, low, high = detection_rows.auroc(rng.normal(1, 1, 60), rng.normal(0, 1, 80))
        covered.append(low <= 0.7602 <= high)
    assert 0.91 <= np.mean(covered) <= 0.98
