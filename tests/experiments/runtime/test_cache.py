"""The cache: keys that change with what determines them, and files that are whole or absent."""

import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from experiments.runtime import cache
from experiments.victims import VictimConfig


def test_a_key_changes_with_every_field_and_with_nothing_else():
    base = cache.key(victim=VictimConfig(), seed=0)
    assert base == cache.key(seed=0, victim=VictimConfig())
    assert base != cache.key(victim=VictimConfig(), seed=1)
    assert base != cache.key(victim=VictimConfig(epochs=6), seed=0)


def test_a_digest_tells_values_types_and_shapes_apart():
    zeros = np.zeros((2, 3), np.float32)
    digests = {
        cache.digest(zeros),
        cache.digest(zeros + 1),
        cache.digest(zeros.astype(np.int32)),
        cache.digest(zeros.reshape(3, 2)),
    }
    assert len(digests) == 4


def test_arrays_are_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        stored = cache.arrays(tmp_path / "deep" / "x.npz", compute)
        assert stored["a"].tolist() == [0, 1, 2]
    assert len(calls) == 1


def test_a_write_that_fails_leaves_nothing_and_what_was_there_before(tmp_path):
    path = tmp_path / "x"
    path.write_text("before")

    def fail(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.write_atomically(path, fail)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_programs_left_is_swept_up_and_what_living_ones_write_is_not(tmp_path):
    deep = tmp_path / "attack-FGSM"
    dead, young = deep / ".partial-dead", deep / ".partial-young"
    for folder in (dead, young):
        folder.mkdir(parents=True)
    (dead / "half").write_bytes(b"half")
    minute_ago = (time.time() - 60,) * 2
    os.utime(dead, minute_ago)

    def write(temporary):
        os.utime(temporary.parent, minute_ago)  # it has been at work for a minute
        cache.sweep(tmp_path)
        temporary.touch()

    cache.write_atomically(deep / "x", write)
    assert {path.name for path in deep.iterdir()} == {"x", ".partial-young"}


@pytest.mark.parametrize("size", [0, 1, 100, 200, 400])
def test_a_truncated_file_is_computed_anew_with_a_warning_that_names_it(tmp_path, size):
    path = tmp_path / "x.npz"
    fresh = {"a": np.arange(30), "b": np.ones((2, 3), np.float32)}
    cache.arrays(path, lambda: fresh)
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.warns(UserWarning, match=f"{path} is damaged .* computed anew"):
        healed = cache.arrays(path, lambda: fresh)
    assert healed["a"].tolist() == list(range(30))
    assert cache.arrays(path, never).keys() == fresh.keys()  # it is whole again


def test_every_zeroed_or_flipped_stretch_is_noticed_or_harmless(tmp_path):
    path = tmp_path / "x.npz"
    fresh = {"a": np.arange(30), "b": np.ones((2, 3), np.float32)}
    cache.arrays(path, lambda: fresh)
    whole = path.read_bytes()
    calls = []

    def compute():
        calls.append(1)
        return fresh

    for at in range(0, len(whole), 7):
        for damage in (bytes(7), bytes(255 - byte for byte in whole[at : at + 7])):
            path.write_bytes(whole[:at] + damage + whole[at + 7 :])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = cache.arrays(path, compute)
            assert found.keys() == fresh.keys()
            for name, values in fresh.items():
                np.testing.assert_array_equal(found[name], values)
    assert len(calls) > 100


def test_a_missing_or_an_added_member_is_noticed(tmp_path):
    path = tmp_path / "x.npz"
    cache.arrays(path, lambda: {"a": np.arange(3), "b": np.arange(2)})
    with np.load(path) as stored:
        digest = stored["digest of all"]
    for members in ({"a": np.arange(3)}, {"a": np.arange(3), "b": np.arange(2), "c": np.zeros(1)}):
        np.savez(path, **members, **{"digest of all": digest})
        with pytest.warns(UserWarning, match="damaged"):
            assert cache.arrays(path, lambda: {"a": np.zeros(1)}).keys() == {"a"}
    np.savez(path, a=np.arange(3))  # without a digest
    with pytest.warns(UserWarning, match="damaged"):
        cache.arrays(path, lambda: {"a": np.zeros(1)})


def test_a_file_that_cannot_be_read_is_not_taken_for_a_damaged_one(tmp_path):
    (tmp_path / "x.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        cache.arrays(tmp_path / "x.npz", never)


def never():
    raise AssertionError("computed again")


def test_programs_that_write_the_same_folder_at_once_do_each_other_no_harm(tmp_path):
    """Each replaces the other's folder again and again; what is there is always a whole one."""

    def write(temporary):
        temporary.mkdir()
        for name in ("one", "two"):
            (temporary / name).write_text(name)

    def replace(_):
        for _ in range(50):
            cache.write_atomically(tmp_path / "x", write)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(replace, range(4)))
    assert {path.name for path in tmp_path.iterdir()} == {"x"}
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"one", "two"}


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    for name in ("old", "new"):

        def write(temporary, name=name):
            temporary.mkdir()
            (temporary / name).touch()

        cache.write_atomically(tmp_path / "x", write)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["new"]
