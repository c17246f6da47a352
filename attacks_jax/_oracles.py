"""Oracles made of classifiers, and of other oracles."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.tree_util import Partial

from attacks_jax._base import Images, Logits, Oracle, OracleState
from attacks_jax._checks import check_counts, describe
from attacks_jax._pinned import as_partial


def stateless(logits_fn: Callable[[Images], Logits]) -> Oracle:
    """Lifts a classifier, `images (B, H, W, C) -> logits (B, K)`, into an oracle without memory.

    Bind weights with `jax.tree_util.Partial(apply, params)`: they are then traced rather than
    compiled in, and attacks on retrained weights reuse the compiled program. A function that closes
    over weights or over a module is compiled anew when these have changed.

    Raises:
      ValueError: what can't be called; when asked: an answer that is not an array.
    """
    return Partial(_stateless, as_partial(logits_fn, "logits_fn"))


def _stateless(logits_fn, oracle_state, images):
    logits = logits_fn(images)
    if isinstance(logits, tuple | list | dict):
        raise ValueError(
            f"expected a classifier that gives logits (B, K), got {describe(logits)}; of several"
            " outputs take the logits: stateless(lambda images: network(images)[1])"
        )
    return oracle_state, logits


def stochastic(logits_fn: Callable[[jax.Array, Images], Logits]) -> Oracle:
    """Lifts a randomised classifier, `key, images -> logits`. Its state is a key, of which every
    query uses up a part: `run(..., oracle_state=jax.random.key(0))`."""
    return Partial(_stochastic, as_partial(logits_fn, "logits_fn"))


def _stochastic(logits_fn, key, images):
    key, now = jax.random.split(key)
    return key, logits_fn(now, images)


def eot(oracle: Oracle, *, samples: int) -> Oracle:
    """Expectation over transformation: answers with the mean logits of `samples` queries.

    Athalye et al., "Synthesizing Robust Adversarial Examples" (2018): the gradient of a
    stochastic oracle is averaged over its randomness. A query of the new oracle is `samples`
    queries of the old, one after the other, its state threaded through them; a `Result` counts
    it as one.

    Raises:
      ValueError: samples are not above zero.
    """
    check_counts(samples=samples)
    return Partial(_Mean(samples), as_partial(oracle, "oracle"))


class _Mean(NamedTuple):  # equal to its like, so that an attack on it compiles once
    samples: int

    def __call__(self, oracle: Oracle, oracle_state: OracleState, images: Images):
        # Not a compiled loop: XLA runs convolutions in one slowly on a CPU.
        total: jax.Array | float = 0.0
        for _ in range(self.samples):
            oracle_state, logits = oracle(oracle_state, images)
            total = total + logits
        return oracle_state, total / self.samples


def bpda(
    oracle: Oracle,
    transform: Callable[[Images], Images],
    substitute: Callable[[Images], Images] | None = None,
) -> Oracle:
    """Backward pass differentiable approximation: the oracle behind a transformation of the images
    that can't be differentiated, or whose gradient says nothing.

    Athalye, Carlini and Wagner, "Obfuscated Gradients Give a False Sense of Security" (2018),
    section 4.1. Forwards, the oracle sees `transform(images)`; backwards, the transformation is
    `substitute` (the identity where it is None). A transformation outside of JAX, a JPEG codec
    say, goes through `jax.pure_callback`.
    """
    substitute = _identity if substitute is None else substitute
    return Partial(
        _bpda,
        as_partial(oracle, "oracle"),
        as_partial(transform, "transform"),
        as_partial(substitute, "substitute"),
    )


def _identity(images):
    return images


def _bpda(oracle, transform, substitute, oracle_state, images):
    @jax.custom_vjp
    def through(x):
        return transform(x)

    def forward(x):
        return transform(x), x

    def backward(x, cotangent):
        return jax.vjp(substitute, x)[1](cotangent)

    through.defvjp(forward, backward)
    return oracle(oracle_state, through(images))
