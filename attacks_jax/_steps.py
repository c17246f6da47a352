"""`steps`: an iterator over the states of an attack, for programs that monitor it."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from attacks_jax._base import Attack, Images, Labels, Oracle, OracleState
from attacks_jax._checks import check_batch, check_counts, check_key
from attacks_jax._run import init_state, ready


def steps(
    attack: Attack,
    oracle: Oracle,
    key: jax.Array,
    images: Images | np.ndarray,
    labels: Labels | np.ndarray,
    *,
    oracle_state: OracleState = (),
    num_steps: int | None = None,
    donate: bool = False,
) -> Iterator[Any]:
    """Yields the state before the first step, and the state after each step.

        for state in attacks_jax.steps(attack, oracle, key, images, labels):
            print(state.done.mean())

    The whole batch takes part in every step. The iterator ends when every example is done, or when
    the attack has no more steps. `run` returns the result of the last state. If an attack keeps
    the best image of its steps, `run` returns that image, while `images` of a state is the latest.

    Args:
      attack, oracle, key, images, labels, oracle_state: as for `run`, with at least one image.
      num_steps: the largest number of steps, in place of the attack's own. One compilation then
        serves any number of steps. For attacks of one stage only.
      donate: reuse the memory of a state for the next one. Do not use a state after requesting the
        next one: JAX raises an error.

    Yields:
      The attack's state, a pytree with `done` (B,) bool and, in most attacks, `images`
      (B, H, W, C), `queries` (B,) and `oracle_state`.

    Raises:
      ValueError: the errors of `run`; no images; `num_steps` for an attack of several stages.
    """
    check_key(key)
    images, labels = check_batch(images, labels, attack.bounds)
    if not images.shape[0]:
        raise ValueError("expected at least one image, got none")
    stages = attack.stages
    if num_steps is not None:
        check_counts(num_steps=num_steps)
        if len(stages) > 1:
            raise ValueError(f"expected num_steps for one stage alone, got {len(stages)} stages")
        stages = (num_steps,)
    step = _donated_step if donate else _step
    return _steps(step, stages, *ready(attack, oracle), oracle_state, key, images, labels)


def _steps(step, stages, attack, oracle, oracle_state, key, images, labels) -> Iterator[Any]:
    state = init_state(attack, oracle, oracle_state, key, images, labels)
    yield state
    for stage, count in enumerate(stages):
        if stage:
            state = _next_stage(attack, oracle, state)
        for _ in range(count):
            if np.asarray(state.done).all():
                break
            state = step(attack, oracle, state)
            yield state


@jax.jit
def _next_stage(attack, oracle, state):
    return attack.next_stage(oracle, state)


def _one_step(attack, oracle, state):
    return attack.step(oracle, state)


_step = jax.jit(_one_step)
_donated_step = jax.jit(_one_step, donate_argnums=2)
