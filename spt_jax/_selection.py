"""Which of two networks answers each image, so that a network that answers none does not run."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from spt_jax._automaton import Images
from spt_jax._checks import describe, impure_in_words

Classifier = Callable[[Images], jax.Array]  # images (B, H, W, C) -> logits (B, K)


def ask(network: Classifier, images: Images) -> jax.Array:
    """The logits (B, K) of a network, cast to float32.

    Raises:
      ValueError: a network that does not return logits (B, K), or changes its own variables.
    """
    with impure_in_words():
        logits = network(images)
    right = hasattr(logits, "dtype") and jnp.issubdtype(logits.dtype, jnp.floating)
    if not right or logits.ndim != 2 or logits.shape[0] != images.shape[0]:
        raise ValueError(
            f"expected a network that gives logits ({images.shape[0]}, K) of a floating type,"
            f" got {describe(logits)}"
        )
    return logits.astype(jnp.float32)


def answers(classifier, decoy, deceived, images):
    """The logits (B, K) float32 of the network that answers each image. A network that answers no
    image does not run.

    Under differentiation both networks run. On a CPU the gradient of a convolution takes nine times
    as long inside a branch of `lax.cond` as outside.
    """
    shapes = [jax.eval_shape(partial(ask, net), images).shape for net in (classifier, decoy)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"expected a decoy with logits {shapes[0]} as the classifier has them, got {shapes[1]}"
        )
    first, of_first = jax.closure_convert(ask, classifier, images)
    second, of_second = jax.closure_convert(ask, decoy, images)
    return _selected(first, second, (classifier, *of_first), (decoy, *of_second), deceived, images)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _selected(first, second, of_first, of_second, deceived, images):
    def by_classifier():
        return first(of_first[0], images, *of_first[1:])

    def by_decoy():
        return second(of_second[0], images, *of_second[1:])

    def by_both():
        return jnp.where(deceived[:, None], by_decoy(), by_classifier())

    if len(deceived) == 1:
        return lax.cond(deceived[0], by_decoy, by_classifier)
    by = jnp.where(jnp.all(deceived), 1, jnp.where(jnp.any(deceived), 2, 0))
    return lax.switch(by, [by_classifier, by_decoy, by_both])


@_selected.defjvp
def _selected_jvp(first, second, primals, tangents):
    of_first, of_second, deceived, images = primals
    d_first, d_second, _, d_images = tangents

    def slope(network, weights, d_weights, answers):
        # Mask both ends: 0 times an infinite slope of a network that does not answer is NaN.
        d_chosen = jnp.where(answers[:, None, None, None], d_images, 0.0)
        logits, d_logits = jax.jvp(
            lambda w, x: network(w[0], x, *w[1:]), (weights, images), (d_weights, d_chosen)
        )
        return logits, jnp.where(answers[:, None], d_logits, 0.0)

    by_classifier, d_classifier = slope(first, of_first, d_first, ~deceived)
    by_decoy, d_decoy = slope(second, of_second, d_second, deceived)
    return jnp.where(deceived[:, None], by_decoy, by_classifier), d_classifier + d_decoy
