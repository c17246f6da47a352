"""How far apart two answers of a classifier are."""

import jax
import jax.numpy as jnp


def jensen_shannon(logits: jax.Array, others: jax.Array) -> jax.Array:
    """The Jensen-Shannon divergence (B,) of softmax(logits) and softmax(others), each (B, K), in
    nats, float32: in [0, log 2]. In logarithms, so that probabilities may underflow: its gradient
    is finite everywhere."""
    logits, others = logits.astype(jnp.float32), others.astype(jnp.float32)
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
    log_mean = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    divergences = jnp.exp(log_p) * (log_p - log_mean) + jnp.exp(log_q) * (log_q - log_mean)
    return jnp.maximum(jnp.sum(divergences, axis=-1) / 2, 0.0)  # rounding may go below
