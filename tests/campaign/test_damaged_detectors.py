"""A saved detector, damaged in more than a hundred ways, file by file.

Each damage has to be refused by name, or to be harmless: the same weights and thresholds are
loaded. Printed: how many were refused, harmless, ended in a traceback, and how many were silent,
with other weights or thresholds.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.datasets import DataError
from experiments.pipeline import detector_io
from experiments.pipeline.detector_io import Detector
from tests.experiments.pipeline import saved_detector

pytestmark = pytest.mark.slow
FLIPS = 6  # of a bit, in each file


def same(one: Detector, other: Detector) -> bool:
    """Whether all that decides on an image is the same, to the last bit."""
    left, right = ((d.victim, d.params) for d in (one, other))
    return (
        one.thresholds == other.thresholds
        and jax.tree.structure(left) == jax.tree.structure(right)
        and all(
            np.asarray(a).tobytes() == np.asarray(b).tobytes()
            for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
        )
    )


def flipped(place: float, bit: int) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        damaged = bytearray(content)
        damaged[int(place * len(damaged))] ^= 1 << bit
        return bytes(damaged)

    return flip


def damages(folder: Path, other: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """(what it is, what does it) of every file; `other` is a detector of the same networks."""
    rng = np.random.default_rng(0)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(file.relative_to(folder)), file.read_bytes()
        changes: dict[str, Callable[[bytes], bytes]] = {
            "emptied": lambda content: b"",
            "half": lambda content: content[: len(content) // 2],
            "one byte short": lambda content: content[:-1],
            "zeroed": lambda content: bytes(len(content)),
            "twice": lambda content: content * 2,
        }
        for _ in range(FLIPS):
            place, bit = rng.uniform(), int(rng.integers(8))
            changes[f"bit {bit} at {place:.3f} flipped"] = flipped(place, bit)
        for what, change in changes.items():
            yield f"{name} {what}", partial(file.write_bytes, change(content))
        yield f"{name} deleted", file.unlink
        twin = other / name
        if twin.exists():
            yield f"{name} of another", partial(shutil.copy, twin, file)
    for path in sorted(path for path in folder.rglob("*") if path.is_dir()):
        name = str(path.relative_to(folder))
        yield f"{name}/ deleted", partial(shutil.rmtree, path)
        if (other / name).exists():

            def swap(path=path, twin=other / name):
                shutil.rmtree(path)
                shutil.copytree(twin, path)

            yield f"{name}/ of another", swap


def test_no_damage_is_loaded_as_another_detector(tmp_path, capsys):
    folder = saved_detector.save(tmp_path / "run")
    other = saved_detector.save(tmp_path / "other", seed=1)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    saved = detector_io.load(tmp_path / "run")
    assert not same(saved, detector_io.load(tmp_path / "other"))
    found, wrong = Counter(), []
    for what, damage in list(damages(folder, other)):
        damage()
        try:
            kind = "harmless" if same(detector_io.load(tmp_path / "run"), saved) else "silent"
            said = ""
        except DataError as error:
            kind, said = "refused", str(error)
            if str(folder) not in said:
                kind = "nameless"
        except Exception as error:
            kind, said = "traceback", repr(error)[:300]
        found[kind] += 1
        if kind not in ("refused", "harmless"):
            wrong.append((what, kind, said))
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
    with capsys.disabled():
        print(f"\n{sum(found.values())} damages: {dict(found)}")
        for one in wrong:
            print(*one)
    assert not wrong
