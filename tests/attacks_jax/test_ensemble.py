"""Ensembles: each example's worst case, and AutoAttack made of the members that are here."""

import jax
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (5, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
ORACLE = attacks_jax.stateless(LOGITS)
IMAGES = toys.some_images(0, 30, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))


def run(attack):
    return attacks_jax.run(attack, ORACLE, KEY, IMAGES, LABELS)


def l2(result):
    return np.linalg.norm((np.asarray(result.images) - IMAGES).reshape(len(IMAGES), -1), axis=1)


def test_each_example_gets_the_nearest_of_the_successes():
    stops = {"early_stop": True, "num_steps": 20}
    members = [
        attacks_jax.bim(eps=0.3, step_size=0.006, **stops),
        attacks_jax.pgd(eps=0.5, step_size=0.031, norm="l2", random_start=False, **stops),
        attacks_jax.fgsm(eps=0.01),
    ]
    together = run(attacks_jax.ensemble(members, norm="l2"))
    alone = [run(member) for member in members]
    distances = np.stack([np.where(r.success, l2(r), np.inf) for r in alone])
    won = np.any([r.success for r in alone], axis=0)
    np.testing.assert_array_equal(together.success, won)
    np.testing.assert_allclose(np.asarray(together.distance)[won], distances.min(0)[won], rtol=1e-5)
    assert len(set(distances.argmin(0))) > 1  # no member is the nearest everywhere
    queries = sum(np.asarray(r.queries) for r in alone) + 1
    np.testing.assert_array_equal(together.queries, queries)


def test_where_all_fail_the_first_one_s_effort_is_returned():
    weak, weaker = attacks_jax.fgsm(eps=1e-3), attacks_jax.fgsm(eps=1e-4)
    result = run(attacks_jax.ensemble((weak, weaker)))
    failed = ~np.asarray(result.success)
    assert failed.any()
    np.testing.assert_allclose(np.asarray(result.distance)[failed], 1e-3, rtol=1e-3)


def test_a_cascade_spends_only_looks_on_what_is_fooled_already():
    first, second = attacks_jax.fgsm(eps=0.03), attacks_jax.bim(eps=0.03, num_steps=20)
    result = run(attacks_jax.ensemble((first, second), cascade=True))
    early = np.asarray(run(first).success)
    assert 0 < early.mean() < 1
    assert np.all(np.asarray(result.success)[early])
    np.testing.assert_array_equal(
        np.asarray(result.images)[early], np.asarray(run(first).images)[early]
    )
    assert np.mean(result.success) >= np.mean(run(second).success)


def test_ensembles_nest():
    inner = attacks_jax.ensemble((attacks_jax.fgsm(eps=0.03), attacks_jax.deepfool()), norm="l2")
    outer = attacks_jax.ensemble((inner, attacks_jax.bim(eps=0.02)), norm="l2")
    flat = attacks_jax.ensemble((*inner.members, attacks_jax.bim(eps=0.02)), norm="l2")
    np.testing.assert_allclose(run(outer).distance, run(flat).distance, rtol=1e-5)


@pytest.mark.parametrize(
    ("norm", "eps"), [("linf", 0.025), pytest.param("l2", 0.1, marks=pytest.mark.slow)]
)
def test_auto_attack_is_as_strong_as_each_member_within_the_ball(norm, eps):
    attack = attacks_jax.auto_attack(eps=eps, norm=norm, num_steps=15, num_queries=50)
    together = run(attack)
    assert np.all(together.distance <= eps * (1 + 1e-5))
    for member in attack.members:
        assert np.all(together.success >= run(member).success) or (
            # Another key, so that a member's luck may differ on an image or two.
            np.mean(together.success) >= np.mean(run(member).success)
        )
    assert 0 < np.mean(together.success) < 1


def test_attacks_that_can_not_be_together_are_refused():
    with pytest.raises(ValueError, match="at least one attack"):
        attacks_jax.ensemble(())
    with pytest.raises(ValueError, match="all targeted, or none of them"):
        attacks_jax.ensemble((attacks_jax.fgsm(), attacks_jax.fgsm(targeted=True)))
    with pytest.raises(ValueError, match="the same bounds"):
        attacks_jax.ensemble((attacks_jax.fgsm(), attacks_jax.fgsm(eps=0.1, bounds=(-1, 1))))
