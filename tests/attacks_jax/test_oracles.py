"""Oracles made of classifiers and of other oracles: EOT, BPDA, detectors in the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (5, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
IMAGES = toys.some_images(0, 24, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))


def noisy(key, images):
    """A defence that adds noise to what it sees, enough to drown one answer's gradient."""
    return LOGITS(images + 0.4 * jax.random.normal(key, images.shape))


def test_a_stochastic_oracle_answers_by_its_key_and_never_twice_alike():
    oracle = attacks_jax.stochastic(noisy)
    after, first = oracle(KEY, IMAGES)
    _, second = oracle(after, IMAGES)
    _, again = oracle(KEY, IMAGES)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0.1


def test_eot_is_the_mean_of_its_queries_and_threads_the_state():
    def counting(count, images):
        return count + 1, LOGITS(images) * count

    state, logits = attacks_jax.eot(counting, samples=4)(jnp.array(1.0), IMAGES)
    assert state == 5
    np.testing.assert_allclose(logits, LOGITS(IMAGES) * 2.5, rtol=1e-5)


def test_eot_finds_the_way_through_noise():
    """The direction that lowers the *expected* margin is found better with more samples."""
    oracle = attacks_jax.stochastic(noisy)

    def expected_lead(images):
        keys = jax.random.split(jax.random.key(9), 500)
        logits = jax.vmap(noisy, in_axes=(0, None))(keys, images).mean(0)
        return -attacks_jax.margin(logits, LABELS, images)

    drops = []
    for samples in (1, 32):
        averaged = attacks_jax.eot(oracle, samples=samples)
        attack = attacks_jax.fgsm(eps=0.05)
        result = attacks_jax.run(attack, averaged, KEY, IMAGES, LABELS, oracle_state=KEY)
        drops.append(float(np.mean(expected_lead(IMAGES) - expected_lead(result.images))))
    assert drops[1] > 1.3 * drops[0]


def rounded(images):
    return jnp.round(images * 8) / 8  # its gradient is zero everywhere


def test_bpda_answers_as_the_transformed_and_differentiates_the_substitute():
    plain = attacks_jax.stateless(LOGITS)
    oracle = attacks_jax.bpda(plain, rounded)
    np.testing.assert_array_equal(oracle((), IMAGES)[1], LOGITS(rounded(IMAGES)))
    ours = jax.grad(lambda x: oracle((), x)[1][:, 0].sum())(IMAGES)
    at_rounded = jax.grad(lambda x: LOGITS(x)[:, 0].sum())(rounded(IMAGES))
    np.testing.assert_allclose(ours, at_rounded, rtol=1e-5)
    halved = attacks_jax.bpda(plain, rounded, lambda x: 0.5 * x)
    np.testing.assert_allclose(
        jax.grad(lambda x: halved((), x)[1][:, 0].sum())(IMAGES), at_rounded / 2, rtol=1e-5
    )


def test_bpda_gets_through_where_the_gradient_says_nothing():
    plain = attacks_jax.stateless(lambda x: LOGITS(rounded(x)))
    labels = np.asarray(np.argmax(LOGITS(rounded(IMAGES)), -1))
    attack = attacks_jax.bim(eps=0.2, step_size=0.02, num_steps=15)
    blind = attacks_jax.run(attack, plain, KEY, IMAGES, labels)
    assert not blind.success.any()
    oracle = attacks_jax.bpda(attacks_jax.stateless(LOGITS), rounded)
    seeing = attacks_jax.run(attack, oracle, KEY, IMAGES, labels)
    assert np.mean(seeing.success) > 0.9


def test_a_transformation_outside_of_jax_is_attacked_through_a_callback():
    def outside(images):
        shape = jax.ShapeDtypeStruct(images.shape, images.dtype)
        return jax.pure_callback(lambda x: np.round(np.asarray(x) * 8) / 8, shape, images)

    oracle = attacks_jax.bpda(attacks_jax.stateless(LOGITS), outside)
    result = attacks_jax.run(attacks_jax.bim(eps=0.2), oracle, KEY, IMAGES, LABELS)
    assert result.success.any()


def test_an_adaptive_attack_is_a_loss():
    """The oracle appends a detector's score to the logits; the loss keeps that down."""

    def score(images):  # it looks at the mean of an image
        return 50.0 * jnp.abs(images.mean((1, 2, 3)) - IMAGES.mean((1, 2, 3)))

    def adaptive(logits, labels, images):
        return attacks_jax.margin(logits, labels, images) - score(images)

    oracle = attacks_jax.stateless(LOGITS)
    options = {"eps": 0.1, "step_size": 0.01, "num_steps": 30}
    plain = attacks_jax.run(attacks_jax.bim(**options), oracle, KEY, IMAGES, LABELS)
    hidden = attacks_jax.run(attacks_jax.bim(**options, loss=adaptive), oracle, KEY, IMAGES, LABELS)
    assert np.mean(hidden.success) > 0.8
    assert np.mean(score(hidden.images)) < 0.5 * np.mean(score(plain.images))


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="expected samples"):
        attacks_jax.eot(attacks_jax.stateless(LOGITS), samples=0)
