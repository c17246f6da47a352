"""`steps`: the states that `run` goes through."""

import jax
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import zoo
from tests.attacks_jax.scaled import some

NAMES = ("fgsm", "bim", "carlini_wagner_l2", "deepfool", "nes", "hop_skip_jump")
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", NAMES)
def test_the_last_state_is_what_run_ends_with(name):
    network, images, labels = some((6, 5, 1), 8)
    attack, oracle = zoo.untargeted()[name], attacks_jax.stateless(network)
    states = list(attacks_jax.steps(attack, oracle, KEY, images, labels))
    assert 1 < len(states) <= 1 + sum(attack.stages)
    result = attacks_jax.run(attack, oracle, KEY, images, labels)
    last = attack.result(oracle, states[-1])
    for field in ("images", "success", "distance", "queries"):
        np.testing.assert_allclose(getattr(last, field), getattr(result, field), atol=1e-5)


def test_bim_moves_by_a_step_at_a_time():
    network, images, labels = some((6, 5, 1), 8)
    attack = attacks_jax.bim(eps=0.1, step_size=0.02, num_steps=5)
    states = attacks_jax.steps(attack, attacks_jax.stateless(network), KEY, images, labels)
    moved = [float(np.abs(np.asarray(state.images) - images).max()) for state in states]
    np.testing.assert_allclose(moved, 0.02 * np.arange(len(moved)), atol=1e-6)


def test_a_donated_state_is_gone_when_the_next_is_there():
    network, images, labels = some((6, 5, 1), 8)
    attack = attacks_jax.bim(eps=0.1, step_size=0.02, num_steps=3)
    oracle = attacks_jax.stateless(network)
    kept = list(attacks_jax.steps(attack, oracle, KEY, images, labels))
    donated = attacks_jax.steps(attack, oracle, KEY, images, labels, donate=True)
    for state, same in zip(donated, kept, strict=True):
        np.testing.assert_array_equal(state.images, same.images)
    first = next(states := attacks_jax.steps(attack, oracle, KEY, images, labels, donate=True))
    next(states)
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(first.images)


def test_what_run_refuses_is_refused_at_once():
    network, images, labels = some((6, 5, 1), 8)
    attack, oracle = attacks_jax.fgsm(eps=0.1), attacks_jax.stateless(network)
    with pytest.raises(ValueError, match="expected at least one image, got none"):
        attacks_jax.steps(attack, oracle, KEY, images[:0], labels[:0])
    with pytest.raises(ValueError, match="key"):
        attacks_jax.steps(attack, oracle, 0, images, labels)


def test_the_number_of_steps_may_be_another_than_the_attack_s():
    network, images, labels = some((6, 5, 1), 8)
    oracle = attacks_jax.stateless(network)
    one, five = (attacks_jax.bim(eps=0.1, step_size=0.001, num_steps=n) for n in (1, 5))
    *_, last = attacks_jax.steps(one, oracle, KEY, images, labels, num_steps=5)
    *_, same = attacks_jax.steps(five, oracle, KEY, images, labels)
    np.testing.assert_array_equal(last.images, same.images)
    several = zoo.untargeted()["auto_attack"]
    with pytest.raises(ValueError, match="expected num_steps for one stage alone"):
        attacks_jax.steps(several, oracle, KEY, images, labels, num_steps=5)
