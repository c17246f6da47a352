"""Theorem 1's terms, by hand on reconstructions of a pixel or three, and of a CMAG."""

import jax
import numpy as np
import pytest

from cmag_jax import CMAGConfig, cmag
from experiments.cmag import theorem
from experiments.pipeline.attack_runs import Attacked, AttackSpec


def images(*pixels) -> np.ndarray:
    """Images of one row each."""
    return np.array(pixels, np.float32)[:, None, :, None]


def attacked(clean: np.ndarray, perturbations: np.ndarray, success) -> Attacked:
    unused = np.zeros(len(clean))
    return Attacked(clean, unused, clean + perturbations, np.array(success), unused, unused)


def values(error, made: Attacked) -> dict[str, float]:
    rows = theorem.rows("mnist", "CMAG", error, {AttackSpec("FGSM", 0.1): made})
    return {row.metric: row.value for row in rows}


def keeps_the_first_pixel(u: np.ndarray) -> np.ndarray:
    """Of a reconstruction that is linear, so that the proof's first step is exact."""
    return np.where(np.arange(u.shape[2])[:, None] == 0, 0, -u)


def test_a_linear_reconstruction_by_hand():
    clean = images([0.5, 0.1, 0.0], [0.5, 0.2, 0.0], [0.5, 0.0, 0.35])
    perturbations = images([0.2, 0.3, 0.0], [0.0, -0.3, 0.1], [0.0, 0.0, 0.0])
    made = attacked(clean, perturbations, [True, True, False])
    rows = list(
        theorem.rows("mnist", "CMAG", keeps_the_first_pixel, {AttackSpec("FGSM", 0.1): made})
    )
    # e1: .1, .2, and .35 of the image that was not fooled; e2: .3, .316; reached: .4, .141.
    assert {row.metric: row.value for row in rows} == pytest.approx(
        {
            "max_e1": 0.35,
            "min_e2": 0.3,
            "share_assumption_constants": 0,
            "median_linearity_gap": 0,
            "mean_e1": 0.15,
            "mean_e2": (0.3 + 0.1**0.5) / 2,
            "share_assumption": 0.5,  # .3 > 2 * .1, but .316 < 2 * .2
            "share_conclusion": 0.5,  # .4 >= .1, but .141 < .2
            "share_conclusion_constant": 0.5,  # .4 >= .35, but .141 < .35
            "share_triangle_bound": 1,
            "share_conclusion_given_assumption": 1,
            "e2_of_zero": 0,
        },
        abs=1e-6,
    )
    assert {row.table for row in rows} == {"extra/theorem1"}
    sizes = {row.metric: row.n for row in rows}
    assert (sizes["max_e1"], sizes["mean_e2"]) == (3, 2)
    assert sizes["share_conclusion_given_assumption"] == 1
    paper = {row.metric: row.paper for row in rows if row.paper}
    assert paper == {"mean_e1": 3.165, "mean_e2": 9.469}


def test_the_assumption_can_hold_and_the_conclusion_fail():
    """Negative values are rebuilt badly, as of no image; the adversarial image has none."""

    def error(u):
        return np.where(u < 0, -2 * u, 0.1 * u)

    measured = values(error, attacked(images([0.5]), images([-0.3]), [True]))
    assert measured["share_assumption_constants"] == measured["share_assumption"] == 1
    assert measured["share_conclusion"] == measured["share_conclusion_given_assumption"] == 0
    # reached .02; were it linear, .05 + .6; the bound .6 - .05.
    assert measured["median_linearity_gap"] == pytest.approx(0.63 / 0.02, rel=1e-5)
    assert measured["share_triangle_bound"] == 0


def test_where_the_assumption_never_holds_nothing_is_said_of_what_follows():
    made = attacked(images([0.5, 0.5]), images([0.1, 0.1]), [True])
    measured = values(keeps_the_first_pixel, made)
    assert measured["share_assumption"] == 0
    assert "share_conclusion_given_assumption" not in measured


def test_an_attack_without_success_has_no_rows():
    made = attacked(images([0.5, 0.5]), images([0.1, 0.1]), [False])
    assert set(values(keeps_the_first_pixel, made)) == {"e2_of_zero"}
    assert not list(theorem.rows("mnist", "CMAG", keeps_the_first_pixel, {}))


def test_the_error_of_a_cmag_is_its_score_and_takes_perturbations(monkeypatch):
    monkeypatch.setattr(theorem, "BATCH", 4)

    def victim(x):
        return x[:, ::4, ::4], 1000 * x[:, 0, :4, 0]

    rng = np.random.default_rng(0)
    clean = rng.random((10, 8, 8, 1), np.float32)
    small = CMAGConfig(fmr_width=4, lr_width=4, gr_width=4)
    shapes = jax.eval_shape(lambda key: cmag.init(key, victim, clean, small), jax.random.key(0))
    # Any weights will do, and Flax's take seconds to draw.
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    error = theorem.reconstruction_error(victim, params)
    norms = np.linalg.norm(error(clean).reshape(10, -1), axis=1)
    np.testing.assert_allclose(norms, cmag.score(victim, params, clean)["l2"], rtol=1e-5)

    perturbations = clean - clean[::-1]  # below 0, where `cmag.score` would refuse them
    assert perturbations.min() < 0 and error(perturbations).shape == clean.shape
    np.testing.assert_allclose(error(perturbations)[3:5], error(perturbations[3:5]), atol=1e-6)
