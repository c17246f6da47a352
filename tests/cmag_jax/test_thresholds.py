"""Thresholds: algorithm 2, and calibration to a false-positive rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cmag_jax import cmag

ARRAYS = st.integers(1, 60).flatmap(
    # Few distinct values: ties are what goes wrong.
    lambda n: hnp.arrays(np.float32, (2, n), elements=st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7]))
)


def test_worst_training_example_is_algorithm_2():
    scores = {"ssim": np.array([0.1, 0.3, 0.2]), "l2": np.array([5.0, 1.0, 4.0])}
    thresholds = cmag.calibrate(scores, rule="worst-training-example")
    assert thresholds == {"ssim": 0.3, "l2": 5.0}
    # No training example is flagged; exceeding any one threshold is enough.
    assert not np.any(cmag.detect(scores, thresholds))
    news = {"ssim": np.array([0.31, 0.0, 0.3]), "l2": np.array([0.0, 5.1, 5.0])}
    assert cmag.detect(news, thresholds).tolist() == [True, True, False]


def test_fpr_on_one_score_is_its_quantile():
    scores = {"a": np.arange(100.0)}
    assert cmag.calibrate(scores, fpr=0.05) == {"a": 94.0}  # 95..99 are flagged
    assert cmag.calibrate(scores, fpr=0.0) == {"a": 99.0}


@given(scores=ARRAYS, fpr=st.floats(0, 0.99))
def test_the_share_flagged_is_at_most_the_nominal_one_and_no_lower_level_would_do(scores, fpr):
    named = {"a": scores[0], "b": scores[1]}
    thresholds = cmag.calibrate(named, fpr=fpr)
    flagged = np.mean(cmag.detect(named, thresholds))
    assert flagged <= fpr + 1e-6
    ordered = {name: np.sort(values) for name, values in named.items()}
    for level in range(scores.shape[1]):
        lower = {name: float(values[level]) for name, values in ordered.items()}
        if all(lower[name] < thresholds[name] for name in lower):
            assert np.mean(cmag.detect(named, lower)) > fpr - 1e-6


@given(clean=ARRAYS, fpr=st.floats(0, 0.99))
def test_combine_orders_images_as_the_thresholds_do(clean, fpr):
    named = {"a": clean[0], "b": clean[1]}
    flags = np.asarray(cmag.detect(named, cmag.calibrate(named, fpr=fpr)))
    combined = cmag.combine(named, named)
    if flags.any() and not flags.all():
        assert combined[flags].min() > combined[~flags].max()


def test_beyond_all_clean_images_who_is_further_is_higher():
    clean = {"a": np.array([0.0, 1.0, 3.0]), "b": np.array([0.0, 10.0, 20.0])}
    news = {"a": np.array([3.0, 4.0, 0.0, 5.0]), "b": np.array([20.0, 0.0, 35.0, 0.0])}
    # Spreads are 2 and 10: half a one beyond, one and a half, one.
    combined = cmag.combine(news, clean)
    assert combined[0] < 1 < combined[1] < combined[3] < combined[2] < 2
    np.testing.assert_allclose(combined[1:], [2 - 1 / 1.5, 2 - 1 / 2.5, 2 - 1 / 2])


def test_an_image_without_a_score_is_flagged():
    """A victim that answers NaN is no reason to let its image through."""
    scores = {"a": np.array([0.0, np.nan, 0.0, np.nan]), "b": np.array([0.0, 0.0, 2.0, np.nan])}
    assert cmag.detect(scores, {"a": 1.0, "b": 1.0}).tolist() == [False, True, True, True]
    assert cmag.combine(scores, {"a": np.arange(3.0), "b": np.arange(3.0)}).argmax() in (1, 3)


def test_two_scores_share_the_false_positives_between_them():
    rng = np.random.default_rng(0)
    clean = {"a": rng.normal(size=5000), "b": rng.normal(size=5000)}
    fresh = {"a": rng.normal(size=5000), "b": rng.normal(size=5000)}
    flagged = np.mean(cmag.detect(fresh, cmag.calibrate(clean, fpr=0.05)))
    assert 0.04 < flagged < 0.06


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({"a": np.zeros(3)}, {}, "either fpr or rule"),
        ({"a": np.zeros(3)}, {"fpr": 0.1, "rule": "worst-training-example"}, "either fpr or rule"),
        ({"a": np.zeros(3)}, {"rule": "best"}, "worst-training-example"),
        ({"a": np.zeros(3)}, {"fpr": 1.0}, r"fpr in \[0, 1\), got 1.0"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, {"fpr": 0.1}, "one shape"),
        ({"a": np.zeros(0)}, {"fpr": 0.1}, "at least one"),
        ({}, {"fpr": 0.1}, "one shape"),
        ({"a": np.array([1.0, np.nan])}, {"fpr": 0.1}, "NaN or infinity"),
    ],
)
def test_nonsense_is_refused_in_words(scores, options, message):
    with pytest.raises(ValueError, match=message):
        cmag.calibrate(scores, **options)


def test_scores_of_unequal_length_and_none_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(B,\), got \{'a': \(1,\), 'b': \(2,\)\}"):
        cmag.detect({"a": np.zeros(1), "b": np.zeros(2)}, {"a": 0.0, "b": 0.0})
    with pytest.raises(ValueError, match=r"expected the scores \[\]"):
        cmag.detect({}, {})
    with pytest.raises(ValueError, match=r"expected the scores \['a'\], got \['b'\]"):
        cmag.combine({"b": np.zeros(1)}, {"a": np.zeros(1)})


def test_scores_without_their_thresholds_are_refused():
    with pytest.raises(ValueError, match=r"\['a'\].*got \['b'\]"):
        cmag.detect({"b": np.zeros(1)}, {"a": 0.0})
