"""Pytrees on disk, with Orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


def save(path: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)


def load(path: Path, like: Any) -> Any:
    """The tree in `path`; `like` has its structure, shapes and types."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), here(like))


def here(like: Any) -> Any:
    """Shapes and types to restore by, on this process's first device: a checkpoint remembers the
    device that it was saved from, which may be another machine's."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def leaf(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    return jax.tree.map(leaf, like)
