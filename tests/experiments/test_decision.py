"""What the decision is worth: on scores whose rates are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from experiments import decision

RNG = np.random.default_rng(0)


def measure(images):
    """Three scores, independent on clean images."""
    return dict(zip("abc", images.T, strict=True))


def test_the_same_scores_are_judged_by_either_decision():
    clean, test, attacked = (RNG.normal(size=(20_000, 3)) for _ in range(3))
    system = SimpleNamespace(name="MagNet")
    kinds = {("FGSM", 0.1): measure(attacked + 2), ("FGSM", 0.2): measure(attacked[:0])}
    rows = list(decision.rows("mnist", system, measure(clean), measure(test), kinds))
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
    system = SimpleNamespace(name="feature squeezing")
    one = decision.rows("mnist", system, scores, scores, {})
    assert not list(one)
