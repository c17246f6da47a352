"""Checkpoints: what is read is what was saved, or an error; a training goes on from whole steps."""

import json
import shutil
import warnings

import jax
import numpy as np
import pytest

from experiments.datasets import DataError
from experiments.runtime import checkpoints

TREE = {"w": np.arange(600, dtype=np.float32).reshape(20, 30), "b": {"c": np.ones(3, np.float32)}}
LIKE = jax.eval_shape(lambda: TREE)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def same(found, wanted=TREE):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_tree_comes_back(tmp_path):
    checkpoints.save(tmp_path / "deep" / "tree", TREE)
    same(checkpoints.load(tmp_path / "deep" / "tree", LIKE))


def test_a_flipped_bit_anywhere_is_an_error_that_names_the_folder_or_harmless(tmp_path):
    path = tmp_path / "tree"
    checkpoints.save(path, TREE)
    random = np.random.default_rng(0)
    refused = 0
    for file in files(path):
        whole = file.read_bytes()
        for at in random.integers(len(whole), size=min(len(whole), 8)):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << random.integers(8)
            file.write_bytes(flipped)
            try:
                same(checkpoints.load(path, LIKE))
            except DataError as error:
                assert str(path) in str(error)
                refused += 1
        file.write_bytes(whole)
    assert refused > 8
    same(checkpoints.load(path, LIKE))


def test_values_that_orbax_reads_happily_are_refused_by_the_digest(tmp_path):
    other = TREE | {"w": TREE["w"] + 1}
    for name, tree in (("a", TREE), ("b", other)):
        checkpoints.save(tmp_path / name, tree)
    shutil.copy(tmp_path / "b" / "digest.json", tmp_path / "a" / "digest.json")
    with pytest.raises(DataError, match="its values are not those that were saved"):
        checkpoints.load(tmp_path / "a", LIKE)


@pytest.mark.parametrize(
    "like",
    [
        {"w": jax.ShapeDtypeStruct((30, 20), np.float32), "b": LIKE["b"]},
        {"w": jax.ShapeDtypeStruct((20, 30), np.float16), "b": LIKE["b"]},
        {"w": LIKE["w"]},
        {"v": LIKE["w"], "b": LIKE["b"]},
    ],
)
def test_another_network_s_tree_is_refused(tmp_path, like):
    checkpoints.save(tmp_path / "tree", TREE)
    with pytest.raises(DataError, match=str(tmp_path)):
        checkpoints.load(tmp_path / "tree", like)


def test_nothing_there_is_an_error_too(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        checkpoints.load(tmp_path / "tree", LIKE)


def test_what_is_computed_once_is_computed_again_when_it_is_damaged(tmp_path):
    path, calls = tmp_path / "tree", []

    def compute():
        calls.append(1)
        return TREE

    for _ in range(2):
        same(checkpoints.once(path, LIKE, compute))
    assert len(calls) == 1
    (path / "digest.json").write_text(json.dumps({"digest": "another"}))
    with pytest.warns(UserWarning, match=f"{path} is damaged"):
        same(checkpoints.once(path, LIKE, compute))
    assert len(calls) == 2
    same(checkpoints.once(path, LIKE, compute))
    assert len(calls) == 2


def test_of_a_training_the_newest_whole_step_counts(tmp_path):
    steps = checkpoints.Steps(tmp_path / "victim")
    assert steps.latest(LIKE) is None
    steps.save(1, TREE)
    later = TREE | {"w": TREE["w"] * 2}
    checkpoints.save(tmp_path / "victim" / "2", later)
    (tmp_path / "victim" / "3.orbax-checkpoint-tmp").mkdir()  # of a killed program
    (tmp_path / "victim" / "3").mkdir()  # a step without anything
    with pytest.warns(UserWarning, match="victim.3 is damaged"):
        step, found = steps.latest(LIKE)
    assert step == 2
    same(found, later)
    shutil.rmtree(tmp_path / "victim" / "2" / "tree")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        step, found = steps.latest(LIKE)
    assert step == 1
    same(found)


def test_an_unreadable_step_is_replaced_and_earlier_ones_go(tmp_path):
    steps = checkpoints.Steps(tmp_path)
    steps.save(1, TREE)
    (tmp_path / "2").mkdir()
    steps.save(2, TREE)
    assert [path.name for path in tmp_path.iterdir()] == ["2"]
    step, found = steps.latest(LIKE)
    assert step == 2
    same(found)
