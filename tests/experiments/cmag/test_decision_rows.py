"""What the decision is worth: on scores whose rates are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments.cmag import decision_rows

RNG = np.random.default_rng(0)


def measure(images):
    """Three scores, independent on clean images."""
    return dict(zip("abc", images.T, strict=True))


def test_the_same_scores_are_judged_by_either_decision():
    clean, test, attacked = (RNG.normal(size=(20_000, 3)) for _ in range(3))
    system = SimpleNamespace(name="MagNet", config=SimpleNamespace())
    kinds = {("FGSM", 0.1): measure(attacked + 2), ("FGSM", 0.2): measure(attacked[:0])}
    rows = list(decision_rows.rows("mnist", system, measure(clean), measure(test), kinds))
    found = {(row.metric, row.strength): row.value for row in rows}
    for rule in ("any", "rarity"):
        assert found[f"flagged:{rule}@fpr=0.05", None] == pytest.approx(0.05, abs=0.01)
    threshold = np.quantile(clean.max(axis=1), 0.99)
    expected = np.mean((attacked + 2).max(axis=1) > threshold)
    assert found["flagged:any@fpr=0.01", 0.1] == pytest.approx(expected, abs=0.01)
    assert found["flagged:rarity@fpr=0.01", 0.1] > expected + 0.05
    assert not any(strength == 0.2 for _, strength in found)  # nothing was adversarial
    assert {row.n for row in rows} == {20_000}


def test_of_one_score_there_is_nothing_to_say():
    scores = {"l1": RNG.normal(size=100)}
    system = SimpleNamespace(name="feature squeezing", config=SimpleNamespace())
    one = decision_rows.rows("mnist", system, scores, scores, {})
    assert not list(one)


def test_each_score_is_judged_alone_and_the_others_without_it():
    """Only "a" tells anything of the attack: alone it finds what a normal quantile says, the others
    no more than they let false alarms be."""
    clean, test, attacked = (RNG.normal(size=(20_000, 3)) for _ in range(3))
    attacked[:, 0] += 2
    system = SimpleNamespace(name="CMAG+", config=SimpleNamespace(decision="rarity"))
    kinds = {("FGSM", 0.1): measure(attacked)}
    of_both = decision_rows.rows("mnist", system, measure(clean), measure(test), kinds)
    rows = [row for row in of_both if row.table != "extra/decision"]
    found = {(row.metric, row.strength): row.value for row in rows}
    for name in "abc":
        for kind in (f"{name} alone", f"without {name}"):
            assert found[f"flagged:{kind}@fpr=0.05", None] == pytest.approx(0.05, abs=0.01)
    # P(Z + 2 > 1.645) = P(Z > -.355)
    assert found["flagged:a alone@fpr=0.05", 0.1] == pytest.approx(0.639, abs=0.02)
    assert found["flagged:without a@fpr=0.05", 0.1] == pytest.approx(0.05, abs=0.01)
    assert found["flagged:without b@fpr=0.05", 0.1] > 0.4
    assert {row.table for row in rows} == {"extra/scores"}


def test_of_a_system_with_a_threshold_for_each_score_it_is_said_elsewhere():
    scores = measure(RNG.normal(size=(100, 3)))
    system = SimpleNamespace(name="CMAG", config=SimpleNamespace(decision="any"))
    rows = list(decision_rows.rows("mnist", system, scores, scores, {}))
    assert rows and not [row for row in rows if row.table != "extra/decision"]
