"""SPT's networks: their shapes, their batch statistics, and the trainings that they are offered."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from experiments import datasets, victims
from experiments.runtime import checkpoints
from experiments.victims import adversarial, networks, training
from experiments.victims.blocks import max_of_neighbours
from experiments.victims.networks import AdversarialConfig, NetworkConfig

ARCHITECTURES = get_args(networks.Architecture)


def toy(count=96, classes=4, size=16, seed=0) -> datasets.Dataset:
    """Images that are bright in the quarter that their class names."""
    rng = np.random.default_rng(seed)

    def split(count):
        labels = rng.integers(0, classes, count).astype(np.int32)
        images = rng.uniform(0, 0.5, (count, size, size, 1)).astype(np.float32)
        half = size // 2
        for image, label in zip(images, labels, strict=True):
            row, column = half * (label // 2), half * (label % 2)
            image[row : row + half, column : column + half] += 0.4
        return datasets.Split(images, labels)

    return datasets.Dataset("toy", split(count), split(40), split(40), classes, f"toy{seed}{count}")


def training_of(architecture="C4", **options) -> NetworkConfig:
    return NetworkConfig(architecture, **{"epochs": 1, "batch_size": 32, **options})


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


@pytest.mark.parametrize("shape", [(28, 28, 1), (33, 30, 3)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("width", ["slim", "full"])
def test_every_network_serves_any_image(architecture, width, shape):
    network = NetworkConfig(architecture, width).make(7)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    feature_maps, logits = jax.eval_shape(network.apply, variables, images)
    embedding = jax.eval_shape(lambda v, x: network.apply(v, x, method="embed"), variables, images)
    assert len(feature_maps.shape) == 4 and min(feature_maps.shape) > 0
    assert logits.shape == (2, 7)
    assert embedding.ndim == 2 and min(embedding.shape) > 0
    assert ("batch_stats" in variables) == (architecture not in ("LeNet", "C4_WO_BN"))


@pytest.mark.parametrize("architecture", ["ResNet", "C4"])  # averaged, and with a hidden layer
def test_an_attacked_image_is_judged_without_its_batch_mates(architecture, tmp_path):
    data = toy()
    victim = victims.get(data, training_of(architecture, epochs=0), seed=0, cache_dir=tmp_path)
    images = data.test.images[:4]
    feature_maps, logits = jax.jit(lambda f, x: f(x))(victim.features_and_logits, images)
    alone = jax.jit(lambda f, x: f(x))(victim.logits, images[:1])
    np.testing.assert_allclose(alone, logits[:1], rtol=1e-4, atol=1e-5)
    assert feature_maps.min() >= 0  # rectified

    last = victim.params["params"]["logits"]
    embedding = jax.jit(lambda f, x: f(x))(victim.embed, images)
    np.testing.assert_allclose(
        embedding @ last["kernel"] + last["bias"], logits, rtol=1e-4, atol=1e-5
    )


def test_an_interrupted_training_ends_as_an_uninterrupted_one_batch_statistics_and_all(
    tmp_path, monkeypatch
):
    data, config = toy(32), training_of("VGG", epochs=2, flip=True, max_shift=1, dropout=0.2)
    whole = victims.get(data, config, seed=0, cache_dir=tmp_path / "whole")
    save = checkpoints.Steps.save

    def save_then_die(self, step, tree):
        save(self, step, tree)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Steps, "save", save_then_die)
        victims.get(data, config, seed=0, cache_dir=tmp_path / "parts")
    same(victims.get(data, config, seed=0, cache_dir=tmp_path / "parts"), whole)

    untrained = dataclasses.replace(config, epochs=0)
    before = victims.get(data, untrained, seed=0, cache_dir=tmp_path).params["batch_stats"]
    after = whole.params["batch_stats"]
    differs = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, after)
    assert all(jax.tree.leaves(differs))  # they were gathered in training


def test_replaced_labels_are_learnt_in_the_place_of_the_true_ones(tmp_path):
    data = toy()
    config = training_of("LeNet", epochs=10, labels="replaced")
    victim = victims.get(data, config, seed=0, cache_dir=tmp_path)
    replaced = datasets.Split(data.test.images, data.classes - 1 - data.test.labels)
    assert victims.accuracy(victim, replaced) > 0.9
    assert victims.accuracy(victim, data.test) < 0.1


def test_an_untrained_network_is_a_function_of_its_seed_and_leaves_nothing_behind(tmp_path):
    data, config = toy(), training_of("LeNet", epochs=0)
    first, again, other = (
        victims.get(data, config, seed=seed, cache_dir=tmp_path) for seed in (0, 0, 1)
    )
    same(first, again)
    assert not np.array_equal(
        first.logits(data.test.images[:1]), other.logits(data.test.images[:1])
    )
    assert not list(tmp_path.iterdir())


def test_adversarial_training_withstands_an_attack_that_plain_training_does_not(tmp_path):
    data = toy(960)
    images, labels = data.test.images, data.test.labels
    robustness = AdversarialConfig(eps=0.1, step_size=0.04, num_steps=4)
    attack = attacks_jax.pgd(eps=0.1, step_size=0.02, num_steps=10)

    def victim_and_survivors(adversarial):
        config = training_of("LeNet", epochs=3, learning_rate=5e-3, adversarial=adversarial)
        victim = victims.get(data, config, seed=0, cache_dir=tmp_path)
        oracle = attacks_jax.stateless(victim.logits)
        result = attacks_jax.run(attack, oracle, jax.random.key(0), images, labels)
        return victim, 1 - float(result.success.mean())

    plain, survivors = victim_and_survivors(None)
    assert victim_and_survivors(robustness)[1] > survivors + 0.3

    # The examples that the training makes, of a network that did not learn from them.
    def loss(images):
        return attacks_jax.cross_entropy(plain.logits(images), labels, images)

    perturb = jax.jit(adversarial.perturb, static_argnames="config")
    perturbed = perturb(jax.random.key(0), plain.logits, images, labels, config=robustness)
    assert np.abs(perturbed - images).max() <= 0.1 + 1e-6
    assert perturbed.min() >= 0 and perturbed.max() <= 1
    assert np.all(loss(perturbed) > loss(images))


def test_what_determines_a_training_is_in_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_train", lambda *_: {})
    variants = (
        {},
        {"architecture": "C4"},
        {"width": "full"},
        {"labels": "replaced"},
        {"flip": True},
        {"adversarial": AdversarialConfig(num_steps=1)},
        {"adversarial": AdversarialConfig(num_steps=2)},
    )
    data, base = toy(32), training_of("LeNet")
    configs = [dataclasses.replace(base, **options) for options in variants]
    keys = {victims.get(data, config, seed=0, cache_dir=tmp_path).key for config in configs}
    assert len(keys) == len(variants)


@pytest.mark.parametrize(
    "options",
    [
        {"architecture": "AlexNet"},
        {"width": "wide"},
        {"labels": "random"},
        {"epochs": -1},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"dropout": 1.0},
        {"max_shift": -1},
    ],
)
def test_a_wrong_config_is_refused(options):
    with pytest.raises(ValueError, match=f"expected .*{next(iter(options))}"):
        NetworkConfig(**{"architecture": "VGG", **options})


def test_a_wrong_adversarial_config_is_refused():
    for options in ({"eps": 0.0}, {"step_size": -1.0}, {"num_steps": 0}):
        with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
            AdversarialConfig(**options)


def test_defaults_are_there_for_every_data_set_and_network():
    for dataset in datasets.NAMES:
        for architecture in ARCHITECTURES:
            for width in ("slim", "full"):
                assert networks.default(architecture, dataset, width).epochs > 0


def test_pooling_of_neighbours_is_max_pooling():
    import flax.linen as nn

    x = np.random.default_rng(0).uniform(size=(2, 7, 5, 3)).astype(np.float32)
    pooled = nn.max_pool(x, (3, 3), (1, 1), padding="SAME")
    np.testing.assert_array_equal(max_of_neighbours(x), pooled)


def test_flipped_images_are_mirrored_or_not():
    images = np.arange(2 * 16, dtype=np.float32).reshape(2, 4, 4, 1).repeat(20, axis=0)
    flipped = np.asarray(training.random_flip(jax.random.key(0), images))
    kept = (flipped == images).all((1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all((1, 2, 3))
    assert np.all(kept ^ mirrored) and 5 < kept.sum() < 35
