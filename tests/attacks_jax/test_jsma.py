"""JSMA: the pair it takes is the best of all pairs, and what it changes is what it says."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attacks_jax
from attacks_jax._attacks import jsma
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (5, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
IMAGES = 0.5 * toys.some_images(0, 12, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))
TARGETS = (LABELS + 1) % 4


def run(attack, targets=TARGETS, images=IMAGES):
    return attacks_jax.run(attack, attacks_jax.stateless(LOGITS), KEY, images, targets)


def by_hand(gain, relief, movable):
    """The best pair's product by plain trial (eq. 10), 0 where no pair qualifies."""
    best = 0.0
    for p, q in itertools.combinations(np.flatnonzero(movable), 2):
        a, b = gain[p] + gain[q], relief[p] + relief[q]
        if a > 0 and b > 0:
            best = max(best, a * b)
    return best


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), tilt=st.sampled_from([-0.99, -0.9, 0.0, 0.9]))
def test_the_pair_is_the_best_of_all(seed, tilt):
    """Also where gain and relief exclude each other, so that the shortlist can't settle it."""
    rng = np.random.default_rng(seed)
    gain = rng.normal(size=(4, 150)).astype(np.float32)
    relief = (tilt * gain + np.sqrt(1 - tilt**2) * rng.normal(size=gain.shape)).astype(np.float32)
    movable = rng.uniform(size=gain.shape) < 0.8
    first, second, best = jsma.best_pairs(*map(jnp.asarray, (gain, relief, movable)))
    for i in range(4):
        np.testing.assert_allclose(best[i], by_hand(gain[i], relief[i], movable[i]), rtol=1e-4)
        p, q = int(first[i]), int(second[i])
        if best[i] > 0:
            assert p != q and movable[i, p] and movable[i, q]
            product = (gain[i, p] + gain[i, q]) * (relief[i, p] + relief[i, q])
            np.testing.assert_allclose(product, best[i], rtol=1e-4)


def test_a_shortlist_that_can_not_settle_it_is_not_trusted(monkeypatch):
    monkeypatch.setattr(jsma, "SHORTLIST", 2)
    rng = np.random.default_rng(0)
    gain = rng.normal(size=(8, 60)).astype(np.float32)
    relief = -0.99 * gain + 0.1 * rng.normal(size=gain.shape).astype(np.float32)
    movable = np.ones(gain.shape, bool)
    _, _, best = jsma.best_pairs(*map(jnp.asarray, (gain, relief, movable)))
    expected = [by_hand(*rows) for rows in zip(gain, relief, movable, strict=True)]
    np.testing.assert_allclose(best, expected, rtol=1e-4)


def test_two_pixels_a_step_are_saturated_and_no_others_change():
    result = run(attacks_jax.jsma(theta=1.0, gamma=1.0))
    delta = np.asarray(result.images) - IMAGES
    changed = delta != 0
    assert np.all(np.asarray(result.images)[changed] == 1.0)  # theta = 1: up to the bound
    steps = np.asarray(result.queries) - 2  # one look more than steps, and the re-check
    np.testing.assert_array_equal(changed.sum(axis=(1, 2, 3)), 2 * steps)
    np.testing.assert_array_equal(result.distance, 2 * steps)
    assert result.success.any()


def test_the_first_pair_is_the_one_of_the_paper_s_map():
    def logit(x, k):
        return LOGITS(x[None])[0, k]

    jacobian = np.stack(
        [jax.vmap(jax.grad(lambda x, k=k: logit(x, k)))(IMAGES).reshape(12, -1) for k in range(4)]
    )
    result = run(attacks_jax.jsma(theta=0.1, gamma=2.0 / 20))
    for i in range(12):
        gain = jacobian[TARGETS[i], i]
        relief = -(jacobian[:, i].sum(0) - gain)
        chosen = np.flatnonzero((np.asarray(result.images[i]) != IMAGES[i]).ravel())
        best = by_hand(gain, relief, np.ones(20, bool))
        if best > 0:
            p, q = chosen
            product = (gain[p] + gain[q]) * (relief[p] + relief[q])
            np.testing.assert_allclose(product, best, rtol=1e-3)


def test_the_budget_is_a_share_of_the_pixels():
    result = run(attacks_jax.jsma(theta=0.01, gamma=0.3))  # 20 pixels: 3 pairs
    assert not result.success.all()
    failed = ~np.asarray(result.success)
    assert np.all(np.asarray(result.queries)[failed] <= 3 + 2)
    assert np.all(np.asarray(result.distance) <= 6)


def test_a_small_theta_changes_a_pixel_again_until_it_is_saturated():
    result = run(attacks_jax.jsma(theta=0.1, gamma=3.0))
    delta = np.asarray(result.images) - IMAGES
    assert delta.max() > 0.15 and result.images.max() <= 1.0 and delta.min() >= 0


def test_a_negative_theta_darkens():
    result = run(attacks_jax.jsma(theta=-1.0, gamma=1.0), images=1 - IMAGES)
    delta = np.asarray(result.images) - (1 - IMAGES)
    assert delta.max() <= 0 and delta.min() < 0


def test_targets_are_reached_where_it_says_so():
    result = run(attacks_jax.jsma(gamma=1.0))
    reached = np.argmax(LOGITS(result.images), -1) == TARGETS
    np.testing.assert_array_equal(reached, result.success)


def test_untargeted_leaves_the_class():
    result = run(attacks_jax.jsma(gamma=1.0, targeted=False), LABELS)
    assert result.success.all()
    assert np.all(np.argmax(LOGITS(result.images), -1) != LABELS)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="expected theta to be a number other than 0"):
        attacks_jax.jsma(theta=0)
    with pytest.raises(ValueError, match="expected gamma"):
        attacks_jax.jsma(gamma=0.0)
