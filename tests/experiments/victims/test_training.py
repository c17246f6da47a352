"""Victims: trained, kept, resumed, and the same whichever way."""

import dataclasses

import jax
import numpy as np
import pytest

import attacks_jax
from experiments import datasets, victims
from experiments.runtime import checkpoints
from experiments.victims import training

CONFIG = victims.VictimConfig((4, 8), dense=16, epochs=3, batch_size=100, max_shift=1)


@pytest.fixture(scope="module", name="digits")
def _digits():
    return datasets.load("digits")


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_an_interrupted_training_goes_on_and_ends_as_an_uninterrupted_one(
    digits, tmp_path, monkeypatch
):
    whole = victims.get(digits, CONFIG, seed=0, cache_dir=tmp_path / "whole")

    saves = []
    save = checkpoints.Steps.save

    def save_then_die(self, step, tree):
        save(self, step, tree)
        saves.append(step)
        if len(saves) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Steps, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        victims.get(digits, CONFIG, seed=0, cache_dir=tmp_path / "parts")
    resumed = victims.get(digits, CONFIG, seed=0, cache_dir=tmp_path / "parts")
    assert saves == [1, 2, 3]  # the first two epochs were not made again
    same(resumed, whole)


def test_a_trained_victim_is_reused_and_anything_that_determines_it_makes_another(
    digits, tmp_path, monkeypatch
):
    first = victims.get(digits, CONFIG, seed=0, cache_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Steps, "save", None)  # saving would fail
        same(victims.get(digits, CONFIG, seed=0, cache_dir=tmp_path), first)
    keys = {first.key}
    for config, seed in ((dataclasses.replace(CONFIG, epochs=1), 0), (CONFIG, 1)):
        keys.add(victims.get(digits, config, seed=seed, cache_dir=tmp_path).key)
    assert len(keys) == 3


def test_the_victim_is_two_pure_functions_over_one_network(digits, tmp_path):
    victim = victims.get(digits, CONFIG, seed=0, cache_dir=tmp_path)
    images = digits.test.images[:5]
    feature_maps, logits = victim.features_and_logits(images)
    assert feature_maps.shape == (5, 7, 7, 8) and logits.shape == (5, 10)
    np.testing.assert_array_equal(victim.logits(images), logits)
    assert "feature_maps" in victim.params["params"]
    assert feature_maps.min() >= 0  # rectified
    np.testing.assert_array_equal(victims.predict(victim, images), np.argmax(logits, -1))


def test_pooling_is_max_pooling():
    import flax.linen as nn

    from experiments.victims.blocks import max_pool

    x = np.random.default_rng(0).normal(size=(2, 7, 10, 3)).astype(np.float32)
    np.testing.assert_array_equal(max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))


def test_shifted_images_are_shifted_images():
    image = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    seen = set()
    for seed in range(40):
        shifted = np.asarray(training.random_shift(jax.random.key(seed), image, 1))
        moves = [
            (i, j)
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if np.array_equal(shifted[0, 1:-1, 1:-1], image[0, 1 + i : 5 + i, 1 + j : 5 + j])
        ]
        assert len(moves) == 1
        seen |= set(moves)
    assert len(seen) == 9


def test_equation_11_weighs_legitimate_and_attacked_images(tmp_path):
    """With alpha 1 the attacked images count for nothing; with a small one FGSM finds less."""
    data = datasets.load("digits")
    plain = victims.get(data, CONFIG, seed=0, cache_dir=tmp_path)
    options = {f.name: getattr(CONFIG, f.name) for f in dataclasses.fields(CONFIG)}
    attack = victims.AdversarialConfig(eps=0.1, step_size=0.125, num_steps=1)

    def trained(alpha):
        config = victims.HardenedConfig(**options, adversarial=attack, alpha=alpha)
        return victims.get(data, config, seed=0, cache_dir=tmp_path)

    def fooled(victim):
        oracle = attacks_jax.stateless(victim.logits)
        images, labels = data.test.images, victims.predict(victim, data.test.images)
        result = attacks_jax.run(
            attacks_jax.fgsm(eps=0.1), oracle, jax.random.key(0), images, labels
        )
        return float(result.success.mean())

    assert fooled(trained(0.2)) < fooled(plain) - 0.02
    assert fooled(trained(1.0)) == pytest.approx(fooled(plain), abs=0.1)
    with pytest.raises(ValueError, match="alpha"):
        victims.HardenedConfig(alpha=2.0)
