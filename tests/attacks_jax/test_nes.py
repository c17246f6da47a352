"""NES: its ball, its estimate of a gradient that is known, and what it does with its queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.nes import nes
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
W = np.random.default_rng(1).normal(size=16).astype(np.float32)


def linear(images):
    """Two classes, and decisions that a ball of some radius turns."""
    lead = (images.reshape(images.shape[0], -1) - 0.5) @ W + 2.5
    return jnp.stack([lead / 4, -lead / 4], axis=-1)


IMAGES = 0.5 + 0.2 * (toys.some_images(0, 4, SHAPE) - 0.5)
LABELS = np.zeros(4, int)


def run(oracle=linear, labels=LABELS, images=IMAGES, **options):
    attack = nes(**({"eps": 0.4, "sigma": 0.01, "samples": 20, "step_size": 0.02} | options))
    oracle = attacks_jax.stateless(oracle)
    return attacks_jax.run(attack, oracle, KEY, images, labels, loop="compiled")


def test_follows_the_gradient_of_a_linear_classifier():
    """With many samples the signs of the larger weights are known."""
    result = run(num_steps=401, samples=400, loss=attacks_jax.margin)
    moved = np.sign(np.asarray(result.images) - IMAGES).reshape(4, -1)
    sure = np.abs(W) > 0.4
    assert np.all(moved[:, sure] == -np.sign(W[sure]))
    np.testing.assert_allclose(result.distance, 0.02, rtol=1e-5)  # one step


def test_finds_what_is_within_the_ball_and_stops_there():
    needed = (2.5 + (IMAGES.reshape(4, -1) - 0.5) @ W) / np.abs(W).sum()
    eps = float(needed.max()) + 0.1
    result = run(eps=eps, num_steps=1000)
    assert result.success.all() and np.all(result.queries < 1002)
    assert np.all((result.queries - 2) % 21 == 0)  # 20 samples and a look at the iterate
    assert np.all(result.distance <= eps + 1e-6) and np.all(result.distance >= needed)


def test_a_small_ball_is_kept_and_the_best_effort_returned():
    result = run(eps=0.05, num_steps=300)
    assert not result.success.any()
    assert np.all(result.distance <= 0.05 + 1e-6)
    assert np.all(linear(result.images)[:, 0] < linear(IMAGES)[:, 0])


def test_a_longer_run_is_never_worse():
    leads = [linear(run(eps=0.1, num_steps=n).images)[:, 0] for n in (20, 100)]
    np.testing.assert_array_equal(leads[0], linear(IMAGES)[:, 0])  # samples are never returned
    assert np.all(leads[1] < leads[0])


def test_momentum_and_a_loss_of_one_s_own_change_the_way():
    plain = run(num_steps=100, momentum=0.0)
    assert np.any(plain.images != run(num_steps=100, momentum=0.9).images)

    def away(logits, labels, images):
        return logits[:, 0]

    backwards = run(num_steps=100, loss=away)
    assert np.all(linear(backwards.images)[:, 0] > linear(IMAGES)[:, 0])


def test_targeted_goes_for_the_target():
    result = run(eps=1.0, num_steps=1000, labels=1 - LABELS, targeted=True)
    assert result.success.all()


def test_a_flat_loss_moves_nothing():
    result = run(lambda images: jnp.tile(jnp.array([2.0, 1.0]), (len(images), 1)), num_steps=100)
    np.testing.assert_array_equal(result.images, IMAGES)


@pytest.mark.parametrize(
    "options",
    [{"eps": -1.0}, {"samples": 7}, {"momentum": 1.0}, {"momentum": -0.1}, {"sigma": 0.0}],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        nes(**options)
