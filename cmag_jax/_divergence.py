"""The Jensen-Shannon divergence between two answers of a classifier."""

import jax
import jax.numpy as jnp


def jensen_shannon(logits: jax.Array, others: jax.Array) -> jax.Array:
    """The Jensen-Shannon divergence (B,) float32 of softmax(logits) and softmax(others), both
    (B, K), in nats: in [0, log 2]. It uses log probabilities, so the gradient stays finite even if
    probabilities underflow."""
    logits, others = logits.astype(jnp.float32), others.astype(jnp.float32)
    log_p, log_q = jax.nn.log_softmax(logits), jax.nn.log_softmax(others)
    log_mean = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    divergences = jnp.exp(log_p) * (log_p - log_mean) + jnp.exp(log_q) * (log_q - log_mean)
    return jnp.maximum(jnp.sum(divergences, axis=-1) / 2, 0.0)  # rounding may give less
