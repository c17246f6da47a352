"""Functions that make oracles from classifiers and from other oracles."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.tree_util import Partial

from attacks_jax._base import Images, Logits, Oracle, OracleState
from attacks_jax._checks import check_counts, describe
from attacks_jax._pinned import as_partial


def stateless(logits_fn: Callable[[Images], Logits]) -> Oracle:
    """Makes a stateless oracle from a classifier, `images (B, H, W, C) -> logits (B, K)`.

    Bind weights with `jax.tree_util.Partial(apply, params)`. They are then traced, and attacks on
    retrained weights reuse the compiled program. A function that closes over weights or a module
    is compiled again when these change.

    Raises:
      ValueError: `logits_fn` can't be called; when queried: an answer that is not an array.
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
    """Makes an oracle from a randomised classifier, `key, images -> logits`.

    Its state is a key, which every query splits: `run(..., oracle_state=jax.random.key(0))`.
    """
    return Partial(_stochastic, as_partial(logits_fn, "logits_fn"))


def _stochastic(logits_fn, key, images):
    key, now = jax.random.split(key)
    return key, logits_fn(now, images)


def eot(oracle: Oracle, *, samples: int) -> Oracle:
    """Expectation over transformation: returns the mean logits of `samples` queries.

    Athalye et al., "Synthesizing Robust Adversarial Examples" (2018). The gradient of a stochastic
    oracle is averaged over its randomness. One query of the new oracle makes `samples` queries of
    the old one in sequence, and passes the state along. A `Result` counts them as one query.

    Raises:
      ValueError: samples are not above zero.
    """
    check_counts(samples=samples)
    return Partial(_Mean(samples), as_partial(oracle, "oracle"))


class _Mean(NamedTuple):  # compared by value, so that an attack on it compiles once
    samples: int

    def __call__(self, oracle: Oracle, oracle_state: OracleState, images: Images):
        # A Python loop: on a CPU, XLA runs convolutions slowly inside a compiled loop.
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
    """Backward pass differentiable approximation: an oracle with a transformation before it.

    For transformations of the images that have no gradient or no useful gradient. Athalye, Carlini
    and Wagner, "Obfuscated Gradients Give a False Sense of Security" (2018), section 4.1. In the
    forward pass the oracle gets `transform(images)`. The backward pass uses `substitute` in place
    of the transformation; None means the identity. Call a transformation outside JAX, such as a
    JPEG codec, through `jax.pure_callback`.
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
