"""Trains one network with minibatches and Adam, in a loop that is fast on the backend."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

Loss = Callable[[Any, Any, Any, jax.Array], jax.Array]  # (params, context, batch, key) -> ()


def train(
    key: jax.Array,
    loss: Loss,
    params: Any,
    context: Any,
    data: Any,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    final_rate: float = 1.0,
    on_epoch: Callable[[int, float], None] = lambda *_: None,
) -> tuple[Any, np.ndarray]:
    """Minimises `loss(params, context, batch, key)` over `params` (CMAG, algorithm 1 with Adam).

    Each epoch shuffles the examples and drops the last incomplete batch.

    Args:
      context: a pytree of inputs of the loss that are not trained (a victim, other networks). It is
        traced, so no weights are compiled in.
      data: a pytree of arrays (N, ...); a batch has the same rows of each.
      batch_size: at most N is used.
      final_rate: share of the learning rate at the end of a cosine decay.
      on_epoch: called after each epoch with the number of finished epochs and the mean loss.

    Returns:
      The params, and the mean loss of each epoch (epochs,).
    """
    count = len(jax.tree.leaves(data)[0])
    batch_size = min(batch_size, count)
    steps = count // batch_size
    optimiser = optax.adam(
        optax.cosine_decay_schedule(learning_rate, epochs * steps, final_rate)
        if final_rate != 1
        else learning_rate
    )

    def step(carry, context, data, indices, key):
        params, state = carry
        batch = jax.tree.map(lambda array: array[indices], data)
        value, gradient = jax.value_and_grad(loss)(params, context, batch, key)
        updates, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    run_epoch = _host_epoch(step) if jax.default_backend() == "cpu" else _compiled_epoch(step)
    carry, losses = (params, optimiser.init(params)), []
    for epoch in range(epochs):
        epoch_key = jax.random.fold_in(key, epoch)
        order = np.asarray(jax.random.permutation(epoch_key, count))
        batches = order[: steps * batch_size].reshape(steps, batch_size)
        carry, values = run_epoch(carry, context, data, batches, jax.random.split(epoch_key, steps))
        losses.append(check_loss(float(jnp.mean(values)), epoch, learning_rate))
        on_epoch(epoch + 1, losses[-1])
    return carry[0], np.array(losses, np.float32)


def check_loss(loss: float, epoch: int, learning_rate: float) -> float:
    """Returns the loss of an epoch. Raises ValueError if it is not finite, since training can't
    recover."""
    if not np.isfinite(loss):
        raise ValueError(
            f"expected a finite loss, got {loss} in epoch {epoch + 1}: a learning rate of"
            f" {learning_rate:g} is too high, or the victim's answers are not finite"
        )
    return loss


def _host_epoch(step):
    """A Python loop over a jitted step. On a CPU, convolutions are several times slower inside a
    compiled loop (jax-ml/jax issue 12868)."""
    step = jax.jit(step)

    def run_epoch(carry, context, data, batches, keys):
        values = []
        for indices, key in zip(batches, keys, strict=True):
            carry, value = step(carry, context, data, indices, key)
            values.append(value)
        return carry, jnp.stack(values)

    return run_epoch


def _compiled_epoch(step):
    """One `lax.scan` per epoch, for backends where a step takes less time than its dispatch."""

    @jax.jit
    def run_epoch(carry, context, data, batches, keys):
        return lax.scan(lambda c, now: step(c, context, data, *now), carry, (batches, keys))

    return run_epoch
