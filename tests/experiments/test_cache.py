"""The cache: keys that change with what determines them, and files that are whole or absent."""

import os
import time

import numpy as np
import pytest

from experiments import cache
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


def test_what_killed_programs_left_is_swept_up(tmp_path):
    old, young = tmp_path / ".partial-old", tmp_path / ".partial-young"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    cache.write_atomically(tmp_path / "x", lambda temporary: temporary.touch())
    assert not old.exists() and young.exists()


def test_a_folder_takes_the_place_of_a_folder(tmp_path):
    for name in ("old", "new"):

        def write(temporary, name=name):
            temporary.mkdir()
            (temporary / name).touch()

        cache.write_atomically(tmp_path / "x", write)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["new"]
