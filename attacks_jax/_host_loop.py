"""The loop for CPUs: Python calls a jitted step, and drops examples that are done."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from attacks_jax._detector_oracle import remembers

# For smaller batches, dropping examples saves almost nothing.
SMALLEST_BATCH = 8
# Each batch size needs a compilation of about a second. Fewer steps do not repay it.
WORTHWHILE_STEPS = 30


def host_loop(step: Callable[[Any], Any], state: Any, steps: int, independent: bool) -> Any:
    """Calls `step` until all examples are done, at most `steps` times. Returns the final state.

    When half of the batch is done, those examples are dropped. So an attack takes the time of
    the steps that its examples need, not the time of the slowest example. Dropping requires
    independent examples and a stateless oracle.
    """
    has_memory = remembers(state.oracle_state)
    shrinks = independent and not has_memory and _on_one_device(state)
    whole, rows = None, None  # state of the whole batch, and the current examples' rows in it
    known = state.done
    for i in range(steps):
        # `known` lags one step, so that reading it never blocks. The cost is one superfluous step,
        # which a stateful oracle would record: for it, read the current `done`.
        done = np.asarray(state.done if has_memory else known)
        if done.all():
            break
        size = _shrunk(len(done), int((~done).sum()))
        if shrinks and size < len(done) and steps - i >= WORTHWHILE_STEPS:
            order = np.argsort(done, kind="stable")[:size]  # unfinished examples first
            whole = state if whole is None else _put(whole, rows, state)
            rows = order if rows is None else rows[order]
            state = _take(whole, rows)
        known = state.done
        state = step(state)
    return state if whole is None else _put(whole, rows, state)


def _shrunk(size: int, unfinished: int) -> int:
    """Halves `size` while all unfinished examples fit. Few sizes mean few compilations."""
    while size > SMALLEST_BATCH and (size + 1) // 2 >= unfinished:
        size = (size + 1) // 2
    return size


@jax.jit
def _take(state, rows):
    return jax.tree.map(lambda leaf: leaf[rows], state)


@jax.jit
def _put(whole, rows, part):
    return jax.tree.map(lambda leaf, update: leaf.at[rows].set(update), whole, part)


def _on_one_device(state: Any) -> bool:
    return all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(state))
