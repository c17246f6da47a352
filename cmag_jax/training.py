"""Fits one reconstructor: minibatches, Adam, and a loop that suits the backend."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

Loss = Callable[[Any, Any, jax.Array], jax.Array]  # (params, context, images (B, H, W, C)) -> ()


def train(
    key: jax.Array,
    loss: Loss,
    params: Any,
    context: Any,
    images: jax.Array,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    on_epoch: Callable[[int, float], None],
) -> tuple[Any, np.ndarray]:
    """Minimises `loss(params, context, batch)` over `params` (CMAG, algorithm 1 with Adam).

    Each epoch shuffles the images and leaves out the last incomplete batch.

    Args:
      context: what the loss needs and training leaves alone (a victim, other networks), a
        pytree: traced, so that no weights are compiled in.
      images: (N, H, W, C). A batch size above N is cut to N.
      on_epoch: called after each epoch with the number of epochs made and the mean loss.

    Returns:
      The params, and the mean loss of each epoch (epochs,).
    """
    optimiser = optax.adam(learning_rate)

    def step(carry, context, images, indices):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, context, images[indices])
        updates, state = optimiser.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    run_epoch = _host_epoch(step) if jax.default_backend() == "cpu" else _compiled_epoch(step)
    batch_size = min(batch_size, len(images))
    steps = len(images) // batch_size
    carry, losses = (params, optimiser.init(params)), []
    for epoch in range(epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(images)))
        batches = order[: steps * batch_size].reshape(steps, batch_size)
        carry, values = run_epoch(carry, context, images, batches)
        losses.append(float(jnp.mean(values)))
        on_epoch(epoch + 1, losses[-1])
    return carry[0], np.array(losses, np.float32)


def _host_epoch(step):
    """A Python loop over a jitted step: XLA runs convolutions inside a compiled loop several
    times slower on a CPU (jax-ml/jax issue 12868)."""
    step = jax.jit(step)

    def run_epoch(carry, context, images, batches):
        values = []
        for indices in batches:
            carry, value = step(carry, context, images, indices)
            values.append(value)
        return carry, jnp.stack(values)

    return run_epoch


def _compiled_epoch(step):
    """One `lax.scan` an epoch, for backends where a step is shorter than its dispatch."""

    @jax.jit
    def run_epoch(carry, context, images, batches):
        return lax.scan(lambda c, indices: step(c, context, images, indices), carry, batches)

    return run_epoch
