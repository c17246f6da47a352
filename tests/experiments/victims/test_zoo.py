"""The zoo: what is kept is what its JSON says, in digest and in accuracy."""

import json
import os
import shutil

import numpy as np
import pytest

from experiments import datasets, victims
from experiments.datasets import DataError
from experiments.victims import zoo

NAMES = sorted(path.stem for path in zoo.FOLDER.glob("*.npz"))


def test_there_is_a_zoo_and_every_network_in_it_has_a_recipe():
    assert NAMES and set(NAMES) <= set(zoo.RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_loads_and_says_what_it_was_trained_by(name):
    victim = zoo.load(name)
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    assert np.isfinite(victim.logits(images)).all()
    facts = json.loads((zoo.FOLDER / f"{name}.json").read_text())
    assert facts["training"]["command"].startswith("python -m experiments")
    assert facts["dataset"] == zoo.RECIPES[name][0]


def test_a_network_comes_back_as_it_was_saved_and_a_damaged_one_does_not(tmp_path):
    variables = zoo.load(NAMES[0]).params
    zoo.save(NAMES[0], variables, {"dataset": "cifar10"}, tmp_path)
    images = np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    again, first = zoo.load(NAMES[0], tmp_path), zoo.load(NAMES[0])
    np.testing.assert_array_equal(again.logits(images), first.logits(images))

    path = tmp_path / f"{NAMES[0]}.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    some = next(iter(arrays))
    np.savez_compressed(path, **arrays | {some: arrays[some] + 1})
    with pytest.raises(DataError, match="damaged"):
        zoo.load(NAMES[0], tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=f"{path} is damaged"):
        zoo.load(NAMES[0], tmp_path)


def test_an_unknown_name_is_told_what_there_is(tmp_path):
    with pytest.raises(DataError, match=NAMES[0]):
        zoo.load("mnist-resnet")
    with pytest.raises(DataError, match="none"):
        zoo.load(NAMES[0], tmp_path)


def test_a_json_that_is_gone_is_named(tmp_path):
    shutil.copy(zoo.FOLDER / f"{NAMES[0]}.npz", tmp_path)
    with pytest.raises(DataError, match=f"{NAMES[0]}.json"):
        zoo.load(NAMES[0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_network_s_accuracy_is_what_its_json_says(name):
    manual = datasets.default_manual_dir(datasets.default_data_dir())
    if not (os.environ.get("MANUAL_DIR") or manual.exists()):
        pytest.skip("needs CIFAR-10")
    data = datasets.load("cifar10")
    facts = json.loads((zoo.FOLDER / f"{name}.json").read_text())
    some = datasets.sample(data.test, 1000, np.random.default_rng(0))
    error = (facts["accuracy"]["test"] * (1 - facts["accuracy"]["test"]) / len(some)) ** 0.5
    assert victims.accuracy(zoo.load(name), some) == pytest.approx(
        facts["accuracy"]["test"], abs=3 * error
    )
