"""Several scores as one: against shares counted one by one, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmag_jax.cmag.combined_p_value import ORDER, rarity, tails

RNG = np.random.default_rng(0)


def legitimate(count=20_000, names="abc"):
    return {name: RNG.normal(size=count).astype(np.float32) for name in names}


def test_it_is_the_mean_of_the_shares_of_order_minus_three_tenths():
    clean, found = legitimate(), legitimate(500)
    shares = [np.mean(clean[name][:, None] >= found[name], axis=0) for name in clean]
    shares = np.maximum(np.stack(shares), 1 / 20_000)
    expected = -np.log(np.mean(shares**ORDER, axis=0) ** (1 / ORDER))
    np.testing.assert_allclose(rarity(found, tails(clean)), expected, atol=0.2, rtol=0.03)


def test_one_score_alone_is_minus_the_logarithm_of_its_share():
    clean = {"a": np.arange(1000.0)}
    found = rarity({"a": jnp.asarray([-5.0, 500, 990])}, tails(clean))
    np.testing.assert_allclose(found, [0, np.log(2), np.log(100)], rtol=0.05, atol=1e-6)


def test_two_scores_a_little_high_are_rarer_than_one():
    of = tails(legitimate(names="ab"))
    one, two = rarity({"a": jnp.asarray([2.0, 2.0]), "b": jnp.asarray([0.0, 2.0])}, of)
    assert two > one + 0.5


def test_it_finds_what_thresholds_for_each_miss():
    """Six scores, of which an attack moves two: more are found at the same false-positive rate."""
    names = "abcdef"
    clean, held_out, attacked = (legitimate(20_000, names) for _ in range(3))
    for name in "ab":
        attacked[name] += 2.0
    of = tails(clean)
    limit = np.quantile(rarity(held_out, of), 0.99)
    together = np.mean(rarity(attacked, of) > limit)
    highest = np.max(list(held_out.values()), axis=0)
    apart = np.mean(np.max(list(attacked.values()), axis=0) > np.quantile(highest, 0.99))
    assert together > apart + 0.05


@given(
    scores=st.lists(st.floats(-12, 12, width=32), min_size=3, max_size=3),
    more=st.floats(0.0625, 30, width=32),
    which=st.integers(0, 2),
)
def test_it_rises_with_every_score(scores, more, which):
    of = tails({name: np.linspace(-10, 10, 300) for name in "abc"})
    below = dict(zip("abc", jnp.asarray(scores)[:, None], strict=True))
    above = below | {"abc"[which]: below["abc"[which]] + more}
    low, high = rarity(below, of)[0], rarity(above, of)[0]
    assert high >= low >= 0
    if scores[which] > -10 and max(scores) < 9:  # a share of nothing drowns all others
        assert high > low


@pytest.mark.parametrize("count", [2, 40, 5000])
def test_a_score_that_is_always_the_same_has_a_share_and_a_slope(count):
    of = tails({"a": np.zeros(count), "b": np.linspace(0, 1, count)})

    def total(x):
        return rarity({"a": x, "b": x}, of).sum()

    x = jnp.asarray([-1.0, 0.0, 0.5, 2.0, 1e6])
    assert np.isfinite(total(x)) and np.isfinite(jax.grad(total)(x)).all()


def test_no_image_depends_on_another():
    of, found = tails(legitimate()), legitimate(7)
    alone = [rarity({name: s[i : i + 1] for name, s in found.items()}, of)[0] for i in range(7)]
    np.testing.assert_allclose(rarity(found, of), alone, rtol=1e-5)
