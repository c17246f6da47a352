"""The loop of a CPU: jitted steps called from Python, over the examples that still need them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from attacks_jax._detector_oracle import remembers

# Below so few examples a step costs much the same whether some are dropped or not.
SMALLEST_BATCH = 8
# A smaller batch is compiled anew: what it saves has to be worth a second.
WORTHWHILE_STEPS = 30


def host_loop(step: Callable[[Any], Any], state: Any, steps: int, independent: bool) -> Any:
    """Steps until everybody is done, `steps` times at most.

    Examples that are done are dropped from the batch whenever half of it is: an attack whose
    examples end early takes the time of the steps that they need, not of the slowest example's.
    That asks for independent examples and an oracle without memory.
    """
    has_memory = remembers(state.oracle_state)
    shrinks = independent and not has_memory and _on_one_device(state)
    whole, rows = None, None  # the whole batch's state, and where the examples at hand belong
    known = state.done
    for i in range(steps):
        # Who was done a step ago: to ask about the last step would wait for it. What remembers
        # is asked nothing in vain; others may be, and nothing comes of it.
        done = np.asarray(state.done if has_memory else known)
        if done.all():
            break
        size = _shrunk(len(done), int((~done).sum()))
        if shrinks and size < len(done) and steps - i >= WORTHWHILE_STEPS:
            order = np.argsort(done, kind="stable")[:size]  # those to go on with come first
            whole = state if whole is None else _put(whole, rows, state)
            rows = order if rows is None else rows[order]
            state = _take(whole, rows)
        known = state.done
        state = step(state)
    return state if whole is None else _put(whole, rows, state)


def _shrunk(size: int, unfinished: int) -> int:
    """The size halved as long as everybody unfinished fits: few sizes, so few compilations."""
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
