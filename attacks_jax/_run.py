"""`run` and `fit`: they check the input, choose a loop, and drive an attack's steps."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from attacks_jax._base import Attack, Images, Labels, Oracle, OracleState, Result
from attacks_jax._checks import (
    check_answer,
    check_batch,
    check_classes,
    check_counts,
    check_key,
    impure_in_words,
    is_traced,
)
from attacks_jax._host_loop import host_loop
from attacks_jax._pinned import as_partial, pinned
from attacks_jax._success import rounded
from attacks_jax._trainable import Learning

Loop = Literal["auto", "host", "compiled"]


def run(
    attack: Attack,
    oracle: Oracle,
    key: jax.Array,
    images: Images | np.ndarray,
    labels: Labels | np.ndarray,
    *,
    oracle_state: OracleState = (),
    loop: Loop = "auto",
    round_to: int | None = None,
) -> Result:
    """Runs an attack to its end.

    The result of an example does not depend on the rest of the batch, unless the oracle's answer
    does. So a large set can be attacked in chunks.

    Args:
      attack: the attack to run, as `fgsm(...)` or `carlini_wagner_l2(...)` returns it.
      oracle: the model to attack; `stateless(logits_fn)` for a plain classifier.
      key: a typed key (`jax.random.key`); attacks without randomness ignore it.
      images: (B, H, W, C) float32 within the attack's bounds.
      labels: (B,) int, the true classes, or the target classes of a targeted attack.
      oracle_state: the oracle's state before the first query.
      loop: "host" calls a jitted step from Python. "compiled" is one `lax.while_loop`. "auto"
        is "host" on a CPU, where XLA runs convolutions inside a compiled loop several times slower
        (jax-ml/jax issue 12868). Elsewhere, and inside `jit`, "auto" is "compiled".
      round_to: the highest level of the image file, 255 for 8 bits. The images are rounded at the
        end, and `success` means that the rounded images are adversarial. Costs one query. Attacks
        that end on the decision boundary lose many successes by rounding.

    Raises:
      ValueError: images or labels of the wrong shape, type or range, an oracle whose logits are
        not (B, K), an unknown loop.
    """
    check_key(key)
    if round_to is not None:
        check_counts(round_to=round_to)
    images, labels = check_batch(images, labels, attack.bounds)
    if not images.shape[0]:  # many networks can't be called on an empty batch
        none = jnp.zeros(0, jnp.float32)
        return Result(images, none.astype(bool), none, none.astype(jnp.int32), oracle_state)
    attack, oracle = ready(attack, oracle)
    final = _final_state(attack, oracle, oracle_state, key, images, labels, loop)
    result = _result(attack, oracle, final)
    if round_to is None:
        return result
    return _rounded(attack, oracle, result, images, labels, levels=round_to)


def fit(
    attack: Any,
    oracle: Oracle,
    key: jax.Array,
    images: Images | np.ndarray,
    labels: Labels | np.ndarray,
    *,
    oracle_state: OracleState = (),
    loop: Loop = "auto",
) -> Any:
    """Trains an attack that learns (`patch`, `atn`) on some images, to run it on others.

    Args: the same as for `run`, with at least one image.

    Returns:
      The attack with its training result in `.trained`. It makes no further steps: `run` applies
      it to each example, independently of the rest of the batch.

    Raises:
      ValueError: the errors of `run`; an attack that does not learn; no images.
    """
    if not isinstance(attack, Learning):
        raise ValueError(
            f"expected an attack that learns (patch, atn), got {type(attack).__name__}"
        )
    check_key(key)
    images, labels = check_batch(images, labels, attack.bounds)
    if not images.shape[0]:
        raise ValueError("expected at least one image to learn from, got none")
    attack, oracle = ready(attack, oracle)
    return attack.learnt(_final_state(attack, oracle, oracle_state, key, images, labels, loop))


def ready(attack: Any, oracle: Any) -> tuple[Any, Partial]:
    """Returns the attack and the oracle in the form that `jit` takes."""
    return pinned(attack), Partial(_in_float32, pinned(as_partial(oracle, "oracle")))


def init_state(attack, oracle, oracle_state, key, images, labels):
    """Returns the attack's state before its first step. Attack and oracle come from `ready`."""
    _check_oracle(oracle, oracle_state, images, labels)
    return _init(attack, oracle, oracle_state, key, images, labels)


def _check_oracle(oracle, oracle_state, images, labels) -> None:
    with impure_in_words():
        answer = _query.eval_shape(oracle, oracle_state, images)
    check_classes(labels, answer[1].shape)


def _final_state(attack, oracle, oracle_state, key, images, labels, loop):
    """Returns the attack's state after all its steps."""
    _check_oracle(oracle, oracle_state, images, labels)
    traced = is_traced(key, *jax.tree.leaves((attack, oracle, images, labels, oracle_state)))
    if loop not in ("auto", "host", "compiled"):
        raise ValueError(f"expected loop 'auto', 'host' or 'compiled', got {loop!r}")
    if loop == "auto":
        loop = "host" if jax.default_backend() == "cpu" and not traced else "compiled"
    if loop == "compiled":
        return _drive_compiled(attack, oracle, oracle_state, key, images, labels)
    if traced:
        raise ValueError("loop='host' can't run inside jit, vmap or grad; use loop='compiled'")
    return _drive(attack, oracle, oracle_state, key, images, labels)


def _drive(attack, oracle, oracle_state, key, images, labels):
    """Makes every step as one call of a jitted function, and returns the final state."""
    state = _init(attack, oracle, oracle_state, key, images, labels)
    for stage, steps in enumerate(attack.stages):
        state = _next_stage(attack, oracle, state) if stage else state
        state = host_loop(partial(_step, attack, oracle), state, steps, attack.independent)
    return state


def _in_float32(oracle, oracle_state, images):
    return check_answer(oracle(oracle_state, images), len(images))


@jax.jit
def _query(oracle, oracle_state, images):
    return oracle(oracle_state, images)


@jax.jit
def _init(attack, oracle, oracle_state, key, images, labels):
    return attack.init(oracle, oracle_state, key, images, labels)


@jax.jit
def _step(attack, oracle, state):
    return attack.step(oracle, state)


@jax.jit
def _next_stage(attack, oracle, state):
    return attack.next_stage(oracle, state)


@jax.jit
def _result(attack, oracle, state):
    return attack.result(oracle, state)


_rounded = jax.jit(rounded, static_argnames="levels")


@jax.jit
def _drive_compiled(attack, oracle, oracle_state, key, images, labels):
    state = attack.init(oracle, oracle_state, key, images, labels)
    for stage, steps in enumerate(attack.stages):
        state = attack.next_stage(oracle, state) if stage else state
        state = _compiled_loop(partial(attack.step, oracle), state, steps)
    return state


def _compiled_loop(step, state, steps):
    def unfinished(carry):
        i, state = carry
        return (i < steps) & ~state.done.all()

    def advance(carry):
        i, state = carry
        return i + 1, step(state)

    return lax.while_loop(unfinished, advance, (0, state))[1]
