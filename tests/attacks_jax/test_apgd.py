"""APGD: its schedule as in the paper, its step size by hand, and at least as strong as PGD."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.apgd import checkpoints
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (5, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=5)
ORACLE = attacks_jax.stateless(LOGITS)
IMAGES = toys.some_images(0, 40, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))


def run(attack, labels=LABELS):
    return attacks_jax.run(attack, ORACLE, KEY, IMAGES, labels)


def test_the_checkpoints_are_the_paper_s():
    """p_0 = 0, p_1 = .22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06), of 100 steps."""
    expected, p, before = [], 22, 0
    while p <= 100:
        expected.append(p)
        p, before = p + max(p - before - 3, 6), p
    closes = checkpoints(100)
    assert np.flatnonzero(closes).tolist() == expected
    assert closes[22] == 22 and closes[41] == 19


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_few_steps_have_checkpoints_too(steps):
    assert checkpoints(steps).shape == (steps + 1,)


def test_the_step_is_halved_where_the_loss_oscillates():
    """The loss |x - .5| in a ball of radius .4: steps of .8 jump to and fro over the best."""

    def loss(logits, labels, images):
        return -jnp.abs(images[:, 0, 0, 0] - 0.503)

    def never(images):
        return jnp.stack([jnp.ones(len(images)), jnp.zeros(len(images))], axis=1)

    image = np.full((1, 1, 1, 1), 0.4, np.float32)
    attack = attacks_jax.apgd(eps=0.4, num_steps=100, loss=loss)
    result = attacks_jax.run(attack, attacks_jax.stateless(never), KEY, image, np.array([0]))
    # A fixed step of .8 could not come this near.
    np.testing.assert_allclose(result.images.ravel(), [0.503], atol=0.01)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", [attacks_jax.cross_entropy, attacks_jax.dlr, attacks_jax.margin])
def test_it_stays_in_the_ball_and_is_as_strong_as_pgd(norm, loss):
    eps = {"linf": 0.025, "l2": 0.1}[norm]
    result = run(attacks_jax.apgd(eps=eps, norm=norm, num_steps=40, loss=loss))
    assert np.all(result.distance <= eps * (1 + 1e-5))
    assert result.images.min() >= 0 and result.images.max() <= 1
    pgd = run(attacks_jax.pgd(eps=eps, step_size=eps / 10, num_steps=40, norm=norm))
    assert np.mean(result.success) >= np.mean(pgd.success) - 0.026  # one image
    assert 0.1 < np.mean(result.success) < 0.95  # the budget tells attacks apart


def test_aiming_at_each_class_in_turn_is_as_strong_and_costs_a_round_each():
    untargeted = run(attacks_jax.apgd(eps=0.025, num_steps=20, loss=attacks_jax.dlr))
    aiming = run(attacks_jax.apgd(eps=0.025, num_steps=20, num_targets=4))
    assert np.mean(aiming.success) >= np.mean(untargeted.success)
    failed = ~np.asarray(aiming.success)
    assert np.all(np.asarray(aiming.queries)[failed] == 1 + 4 * 21 + 1)


def test_targeted_reaches_the_target():
    targets = (LABELS + 1) % 5
    result = run(attacks_jax.apgd(eps=0.3, num_steps=40, targeted=True), targets)
    reached = np.argmax(LOGITS(result.images), -1) == targets
    np.testing.assert_array_equal(reached, result.success)
    assert np.mean(result.success) > 0.8


def test_dlr_is_the_paper_s_and_knows_no_scale():
    logits = jnp.array([[4.0, 1.0, 3.0, 2.0]])
    # Label 0: -(4 - 3) / (4 - 2). Label 2: -(3 - 4) / (4 - 2).
    for label, expected in ((0, -0.5), (2, 0.5)):
        value = attacks_jax.dlr(logits, jnp.array([label]), None)
        np.testing.assert_allclose(value, [expected], rtol=1e-6)
        np.testing.assert_allclose(attacks_jax.dlr(9 * logits, jnp.array([label]), None), value)


def test_with_two_classes_dlr_is_the_margin_and_one_target_is_tried():
    logits = jnp.array([[2.0, 0.5]])
    np.testing.assert_allclose(attacks_jax.dlr(logits, jnp.array([0]), None), [-1.5])

    def two(images):
        return LOGITS(images)[:, :2]

    labels = np.asarray(np.argmax(two(IMAGES), -1))
    attack = attacks_jax.apgd(eps=0.02, num_steps=10, num_targets=9)
    result = attacks_jax.run(attack, attacks_jax.stateless(two), KEY, IMAGES, labels)
    assert result.success.any() and np.max(result.queries) == 1 + 11 + 1


def test_targeted_dlr_is_the_paper_s():
    from attacks_jax._losses import targeted_dlr

    logits = jnp.array([[4.0, 1.0, 3.0, 2.0]])
    # -(z_0 - z_3) / (z_1st - (z_3rd + z_4th) / 2) = -(4 - 2) / (4 - 1.5)
    value = targeted_dlr(logits, jnp.array([0]), jnp.array([3]))
    np.testing.assert_allclose(value, [-0.8], rtol=1e-6)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="true labels with num_targets"):
        attacks_jax.apgd(num_targets=3, targeted=True)
    with pytest.raises(ValueError, match="expected norm"):
        attacks_jax.apgd(norm="l1")
