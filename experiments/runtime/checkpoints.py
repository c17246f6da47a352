"""Saves pytrees with Orbax, each with a digest of its leaves. Orbax alone reads a flipped bit as
another weight."""

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

SPARE_BYTES = 2**20  # for Orbax's own files


def save(path: Path, tree: Any) -> None:
    """Writes the folder `path`, which must not exist yet."""
    path.mkdir(parents=True)
    _check_room(path, tree)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((path / "tree").absolute(), tree)
    (path / "digest.json").write_text(json.dumps({"digest": cache.digest_of_tree(tree)}))


def load(path: Path, like: Any) -> Any:
    """Returns the tree in `path`; `like` has the same structure, shapes and types.

    Raises:
      DataError: the tree is missing, damaged, or of another structure.
    """
    try:
        expected = json.loads((path / "digest.json").read_text())["digest"]
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore((path / "tree").absolute(), here(like))
        _check_like(tree, like)
        found = cache.digest_of_tree(tree)
    except MemoryError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many types for damage
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path} is missing, damaged or of another network ({what})") from error
    if found != expected:
        raise DataError(f"{path} is damaged: its values are not those that were saved")
    return tree


def once(path: Path, like: Any, compute: Callable[[], Any]) -> Any:
    """Returns the tree in `path`.

    Computes and writes it if it is missing or, with a warning, damaged.
    """
    if path.exists():
        try:
            return load(path, like)
        except DataError as error:
            cache.warn_of_damage(path, error)
    tree = compute()
    cache.write_atomically(path, lambda temporary: save(temporary, tree))
    return tree


class Steps:
    """The newest states of a training, one folder each, named by the number of finished epochs.

    Each state is written elsewhere and then moved. Two programs can therefore train the same
    network with one cache; each trains it fully.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tree: Any) -> None:
        """Saves the state, and removes earlier ones."""
        path = self.folder / str(step)
        cache.write_atomically(path, lambda temporary: save(temporary, tree))
        for other in self._numbered():
            if other < step:
                shutil.rmtree(self.folder / str(other), ignore_errors=True)

    def latest(self, like: Any) -> tuple[int, Any] | None:
        """Returns (step, state) of the newest readable state, or None.

        It skips unreadable states with a warning.
        """
        for step in sorted(self._numbered(), reverse=True):
            path = self.folder / str(step)
            try:
                return step, load(path, like)
            except DataError as error:
                if path.exists():  # a program that is further on may have removed it
                    cache.warn_of_damage(path, error)
        return None

    def _numbered(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]


def _check_room(path: Path, tree: Any) -> None:
    """Raises OSError if the disk has no room for the tree.

    Orbax itself writes in threads, which print their errors as tracebacks.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    if shutil.disk_usage(path).free < 2 * size + SPARE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def here(like: Any) -> Any:
    """Returns the shapes and types of `like`, on this process's first device.

    A checkpoint records the device that it was saved from, which may be on another machine.
    """
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def leaf(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    return jax.tree.map(leaf, like)


def _check_like(tree: Any, like: Any) -> None:
    """Raises ValueError if Orbax returned the stored shape or type, not the requested one."""
    for found, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            raise ValueError(
                f"expected {wanted.dtype} {wanted.shape}, got {found.dtype} {found.shape}"
            )
