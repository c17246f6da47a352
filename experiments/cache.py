"""What has been computed once is not computed again: results under a name that says what
determines them. Writes are atomic, so a killed program leaves a whole file or none."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SWEEP_AFTER_SECONDS = 3600


def key(**determines: Any) -> str:
    """Twelve hex digits that change with anything given: configs, numbers, strings, tuples."""
    text = json.dumps(determines, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest(*arrays: np.ndarray) -> str:
    """A hash of the arrays' bytes, types and shapes, to be part of a key."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{value!r} can't be part of a cache key")


def arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays in `path` (.npz), computed and written there the first time."""
    if not path.exists():
        values = {name: np.asarray(value) for name, value in compute().items()}
        write_atomically(path, lambda temporary: _save(temporary, values))
    with np.load(path) as stored:
        return dict(stored)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path (which it makes a file or a folder of) and moves what
    it wrote to `path`, replacing what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, ".partial-*")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        temporary = Path(folder) / path.name
        write(temporary)
        if path.is_dir():  # a folder can't be replaced in one move
            os.replace(path, Path(folder) / "old")
        os.replace(temporary, path)


def sweep(folder: Path, pattern: str) -> None:
    """Removes sub-folders that killed programs left half-written: those untouched for an hour,
    since a younger one may belong to a program that is still at work."""
    for leftover in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # somebody else swept it up
            if time.time() - leftover.stat().st_mtime > SWEEP_AFTER_SECONDS:
                shutil.rmtree(leftover)


def _save(path: Path, values: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **values)  # type: ignore[arg-type]
