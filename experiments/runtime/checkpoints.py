"""Pytrees on disk, with Orbax, each beside a digest of its leaves: Orbax itself reads a flipped bit
as another weight."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.runtime import cache
from experiments.runtime.errors import DataError

SPARE_BYTES = 2**20  # for what Orbax writes beside the values


def save(path: Path, tree: Any) -> None:
    """Writes the folder `path`, which is not there yet."""
    path.mkdir(parents=True)
    _check_room(path, tree)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((path / "tree").absolute(), tree)
    (path / "digest.json").write_text(json.dumps({"digest": cache.digest_of_tree(tree)}))


def load(path: Path, like: Any) -> Any:
    """The tree in `path`; `like` has its structure, shapes and types.

    Raises:
      DataError: it is missing, damaged, or of another structure.
    """
    try:
        expected = json.loads((path / "digest.json").read_text())["digest"]
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore((path / "tree").absolute(), here(like))
        _check_like(tree, like)
        found = cache.digest_of_tree(tree)
    except MemoryError:
        raise
    except Exception as error:  # Orbax and TensorStore raise whatever damage leads them to
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is missing, damaged or of another network ({what})") from error
    if found != expected:
        raise DataError(f"{path} is damaged: its values are not those that were saved")
    return tree


def once(path: Path, like: Any, compute: Callable[[], Any]) -> Any:
    """The tree in `path`, computed and written there the first time, and again, with a warning,
    where it turns out to be damaged."""
    if path.exists():
        try:
            return load(path, like)
        except DataError as error:
            cache.warn_of_damage(path, error)
    tree = compute()
    cache.write_atomically(path, lambda temporary: save(temporary, tree))
    return tree


class Steps:
    """The newest states of a training, a folder each, named by how many epochs are behind it.

    Each is written elsewhere and moved, so that two programs that train the same network on one
    cache do each other no harm: they train it twice.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tree: Any) -> None:
        """Keeps the state, and no earlier one."""
        path = self.folder / str(step)
        cache.write_atomically(path, lambda temporary: save(temporary, tree))
        for other in self._numbered():
            if other < step:
                shutil.rmtree(self.folder / str(other), ignore_errors=True)

    def latest(self, like: Any) -> tuple[int, Any] | None:
        """(step, state) of the newest that can be read; None: of none. Those that can't be read
        are left out with a warning."""
        for step in sorted(self._numbered(), reverse=True):
            path = self.folder / str(step)
            try:
                return step, load(path, like)
            except DataError as error:
                if path.exists():  # another program, that is further on, may have removed it
                    cache.warn_of_damage(path, error)
        return None

    def _numbered(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]


def _check_room(path: Path, tree: Any) -> None:
    """Raises OSError where the disk has no room for the tree. Orbax writes in threads, whose errors
    are printed as tracebacks."""
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    if shutil.disk_usage(path).free < 2 * size + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def here(like: Any) -> Any:
    """Shapes and types to restore by, on this process's first device: a checkpoint remembers the
    device that it was saved from, which may be another machine's."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def leaf(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    return jax.tree.map(leaf, like)


def _check_like(tree: Any, like: Any) -> None:
    """Orbax gives an array of the stored shape or type where it can't give the one asked for."""
    for found, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"expected {wanted.dtype} {wanted.shape}, got {found.dtype} {found.shape}"
            )
