"""A cache on disk. The name of a result contains a key of all that determines it.

Writes are atomic, so a killed program leaves a complete file or none. Reads check the digest that
is stored with the data.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

PARTIAL = ".partial-"  # prefix of temporary folders
SWEEP_AFTER_SECONDS = 3600
YOUNG_SECONDS = 10
REPLACE_ATTEMPTS = 20
DIGEST = "digest of all"  # the member of an .npz that checks the others


def key(**determines: Any) -> str:
    """Returns twelve hex digits that depend on all arguments: configs, numbers, strings, tuples."""
    text = json.dumps(determines, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest(*arrays: np.ndarray) -> str:
    """Returns a hash of the arrays' bytes, types and shapes, for use in a key."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def digest_of_tree(tree: Any) -> str:
    """Returns a hash of every leaf's value, in order, and of its place in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = key(paths=[jax.tree_util.keystr(path) for path, _ in leaves])
    return f"{paths}-{digest(*(_as_numpy(leaf) for _, leaf in leaves))}"


def _as_numpy(leaf: Any) -> np.ndarray:
    is_key = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{value!r} can't be part of a cache key")


def arrays(path: Path, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Returns the arrays in `path` (.npz).

    Computes and writes them if the file is missing or, with a warning, damaged.
    """
    if path.exists():
        try:
            return _load(path)
        except (PermissionError, IsADirectoryError):
            raise
        except Exception as error:  # zipfile, zlib and NumPy raise many types for damage
            warn_of_damage(path, error)
    values = {name: np.asarray(value) for name, value in compute().items()}
    write_atomically(path, lambda temporary: _save(temporary, values))
    return values


def warn_of_damage(path: Path, error: Exception) -> None:
    what = " ".join(str(error).split()) or type(error).__name__
    warnings.warn(f"{path} is damaged ({what}); computed anew", stacklevel=3)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path, and moves the new file or folder to `path`.

    It replaces what was there. Two programs may write the same path at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=path.parent, prefix=PARTIAL) as folder,
        _locked(Path(folder)),
    ):
        temporary = Path(folder) / path.name
        write(temporary)
        _replace(temporary, path, Path(folder))


def _replace(temporary: Path, path: Path, folder: Path) -> None:
    """Moves the file or folder to `path`.

    One move can't replace a folder, so the old folder is moved away first. In between, another
    program may put a new one there, or take the old one.
    """
    for attempt in itertools.count():
        if path.is_dir():
            with contextlib.suppress(FileNotFoundError):
                os.replace(path, folder / f"old-{attempt}")
        try:
            return os.replace(temporary, path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == REPLACE_ATTEMPTS:
                raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Marks a temporary folder as in use by a lock. The system frees it when the process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: only age protects it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path, pattern: str = f"**/{PARTIAL}*") -> None:
    """Removes sub-folders that dead programs left half-written.

    It keeps folders of `write_atomically` that are locked, or so young that their program may not
    have locked them yet. It removes other folders, and those on a file system without locks, after
    an hour without changes.
    """
    for leftover in folder.glob(pattern):
        with contextlib.suppress(
            FileNotFoundError, NotADirectoryError
        ):  # another program removed it
            age = time.time() - leftover.stat().st_mtime
            ours = leftover.name.startswith(PARTIAL)
            if age > SWEEP_AFTER_SECONDS or (ours and age > YOUNG_SECONDS and _is_free(leftover)):
                shutil.rmtree(leftover)


def _is_free(folder: Path) -> bool:
    """Returns whether locks work here and no process holds one on the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _save(path: Path, values: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, **values, **{DIGEST: np.array(_of_all(values))})  # type: ignore[arg-type]


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        values = dict(stored)
    if str(values.pop(DIGEST, "missing")) != _of_all(values):
        raise ValueError("its arrays are not those that its digest was taken of")
    return values


def _of_all(values: dict[str, np.ndarray]) -> str:
    """Returns a digest of the arrays and their names."""
    each = {name: digest(values[name]) for name in sorted(values)}
    return key(**{"digests": each})
