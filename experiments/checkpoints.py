"""Pytrees on disk, with Orbax."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until what is inside is done: Orbax saves in an event loop of its own, in which
    an interrupt can get lost."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    interrupts: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt


def save(path: Path, tree: Any) -> None:
    with uninterrupted(), ocp.StandardCheckpointer() as checkpointer:
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
