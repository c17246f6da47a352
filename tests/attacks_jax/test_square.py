"""Square Attack: its ball, its squares, its schedule and its windows, and that it finds."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.square import _pattern, square
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (6, 5, 3)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
IMAGES = toys.some_images(0, 6, SHAPE)
LABELS = np.argmax(LOGITS(IMAGES), -1)
ORACLE = attacks_jax.stateless(LOGITS)


def run(oracle=ORACLE, labels=LABELS, images=IMAGES, **options):
    attack = square(**({"num_steps": 50} | options))
    return attacks_jax.run(attack, oracle, KEY, images, labels, loop="compiled")


def asked(steps, **options):
    """The images that a run asks about, one after the other, of an oracle that nobody fools; it
    likes each less than the last, so that every change is kept."""
    images = jnp.full((1, *SHAPE), 0.5)

    def oracle(state, images):
        count, seen = state
        logits = jnp.stack([100.0 - count, jnp.zeros(())])[None]
        return (count + 1, seen.at[count].set(images[0])), logits

    attack = square(num_steps=steps, **options)
    state = (jnp.int32(0), jnp.zeros((steps + 2, *SHAPE)))
    result = attacks_jax.run(
        attack, oracle, KEY, images, np.array([0]), oracle_state=state, loop="compiled"
    )
    return np.asarray(result.oracle_state[1][1:-1]) - 0.5


def test_linf_every_pixel_is_at_a_corner_of_the_ball_or_the_bounds():
    result = run(eps=0.1)
    corners = np.clip(IMAGES[None] + np.array([-0.1, 0.1])[:, None, None, None, None], 0, 1)
    attacked = np.abs(corners - np.asarray(result.images)).min(0)
    assert attacked.max() < 1e-6
    assert np.all(result.distance <= 0.1 + 1e-6)


def test_l2_stays_in_the_ball():
    result = run(eps=0.7, norm="l2")
    norms = np.linalg.norm((np.asarray(result.images) - IMAGES).reshape(6, -1), axis=1)
    np.testing.assert_allclose(result.distance, norms, rtol=1e-5)
    assert np.all(norms <= 0.7 * (1 + 1e-5)) and norms.max() > 0.6


def test_linf_begins_with_stripes_and_each_change_is_one_square():
    images = asked(40, eps=0.1, p_init=0.5)
    assert np.all(images[0] == images[0][:1])  # the same in every row
    sides = []
    for before, after in pairwise(images):
        rows, cols, _ = np.nonzero(before != after)
        assert len(rows)  # no question twice
        sides.append(max(np.ptp(rows), np.ptp(cols)) + 1)
        assert len(np.unique(after[rows, cols], axis=0)) == 1  # in one colour
    assert sides[0] <= round(np.sqrt(0.5 * 30)) and max(sides) > 1
    assert np.all(np.array(sides[-10:]) == 1)  # the schedule ends with single pixels


def test_a_narrow_image_has_its_tiles_too():
    image = np.full((1, 32, 4, 1), 0.5, np.float32)
    oracle = attacks_jax.stateless(lambda x: x.reshape(len(x), -1)[:, :2] * 0)
    result = run(oracle, np.array([0]), image, eps=0.3, norm="l2", num_steps=3)
    assert np.isfinite(result.images).all()


def test_l2_uses_the_whole_ball_in_every_question():
    images = asked(40, eps=0.8, norm="l2", p_init=0.5)
    np.testing.assert_allclose(np.sqrt((images**2).sum((1, 2, 3))), 0.8, rtol=1e-4)
    assert all(np.any(a != b) for a, b in pairwise(images))


def test_the_pattern_of_the_paper():
    """Eq. 2 by hand for a window of 5: a hill of 2 x 5 over a hollow of 3 x 5."""
    hill = np.full((2, 5), 1 / 9)
    hill[:, 1:4] += 1 / 4
    hill[1, 2] += 1
    hollow = np.full((3, 5), 1 / 9)
    hollow[:, 1:4] += 1 / 4
    hollow[1, 2] += 1
    expected = np.concatenate([hill / np.linalg.norm(hill), -hollow / np.linalg.norm(hollow)])
    pattern = _pattern(*np.ogrid[:5, :5], 5, 9)
    np.testing.assert_allclose(pattern, expected / np.linalg.norm(expected), atol=1e-6)


def test_more_queries_and_larger_balls_find_more():
    hard = run(eps=0.02)
    assert run(eps=0.3).success.sum() > hard.success.sum()
    loss = attacks_jax.margin
    clean = loss(LOGITS(IMAGES), LABELS, IMAGES)
    assert np.all(loss(LOGITS(hard.images), LABELS, IMAGES) > clean)  # its best effort


def test_another_loss_takes_the_place_of_the_margin():
    def constant(logits, labels, images):
        return 0.0 * logits[:, 0]

    blind = run(eps=0.02, loss=constant)  # keeps the stripes, and what wins by chance
    assert blind.success.sum() <= run(eps=0.02).success.sum()


def test_targeted_reaches_targets():
    result = run(eps=0.4, labels=(LABELS + 1) % 4, targeted=True, num_steps=100)
    assert result.success.mean() > 0.5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_of_radius_zero_moves_nothing(norm):
    result = run(eps=0.0, norm=norm)
    np.testing.assert_array_equal(result.images, IMAGES)
    assert not result.success.any()


@pytest.mark.parametrize(
    "options", [{"eps": -0.1}, {"norm": "l1"}, {"num_steps": 0}, {"p_init": 0.0}, {"p_init": 1.5}]
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        square(**options)
