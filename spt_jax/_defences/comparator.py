"""SPT's comparator: compares an image with the standard image of its label. It is stateless."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from spt_jax._automaton import Images, Labels
from spt_jax._checks import check_finite, describe
from spt_jax._pinned import as_partial
from spt_jax._system import Classifier, Response, System, package

# (images (B, H, W, C), the standards of their labels (B, ...)) -> (B,), higher is more similar
Similarity = Callable[[Images, Any], jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Comparator:
    """SPT, section III-D: an image that differs from the standard image of its label is an attack.
    `observe` returns the similarity, which helps to choose a threshold."""

    standards: Any  # each leaf (K, ...): one standard per class
    similarity: Partial
    threshold: float | jax.Array

    consults = 1

    def init(self, image_shape: tuple[int, int, int]) -> tuple[()]:
        return ()

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> jax.Array:
        of_label = jax.tree.map(lambda leaf: leaf[labels[0]], self.standards)
        alike = self.similarity(images, of_label)
        if getattr(alike, "shape", None) != images.shape[:1]:
            raise ValueError(
                f"expected a similarity that gives ({len(images)},), one value an image, got"
                f" {describe(alike)}"
            )
        return alike.astype(jnp.float32)

    def update(self, memory: tuple[()], evidence: jax.Array) -> tuple[tuple[()], jax.Array]:
        return memory, evidence < self.threshold


def comparator(
    classifier: Classifier,
    fallback: Classifier | None,
    standards: Any,
    similarity: Similarity,
    threshold: float | jax.Array,
    *,
    response: Response = "decoy",
) -> System:
    """SPT's comparator (section III-D, fig. 4). The fallback answers if an image's similarity to
    the standard image of its predicted label is below `threshold`.

    `answer.deceived` is the comparator's decision that the image is adversarial. It detects but
    can't deceive: it acts the same in an attacker's copy and in the deployed system (section IV-C).

    Args:
      classifier: images (B, H, W, C) -> logits (B, K).
      fallback: another such network, trained on the same labels (the paper's Classifier3).
      standards: (K, ...), one standard image per class, or a pytree of such arrays.
      similarity: (images (B, H, W, C), standards of their labels (B, ...)) -> (B,), higher is
        more similar; for example `cosine(embed)`.
      threshold: the smallest similarity of a benign image. Traced.
      response: "decoy", which is the fallback, or "random" labels (`package`).

    Raises:
      ValueError: a threshold that is not a finite number.
    """
    check_finite(threshold=threshold)
    standards = jax.tree.map(jnp.asarray, standards)
    automaton = Comparator(standards, as_partial(similarity, "similarity"), threshold)
    return package(automaton, classifier, fallback, response)


def cosine(embed: Callable[[Images], jax.Array]) -> Partial:
    """A similarity for `comparator`: the cosine of two images' embeddings, in [-1, 1]. The
    standards must be images.

    Args:
      embed: images (B, H, W, C) -> (B, D); a `jax.tree_util.Partial` if it has weights.
    """
    return Partial(_cosine, as_partial(embed, "embed"))


def _cosine(embed, images, standards):
    both = embed(jnp.concatenate([images, standards]))
    a, b = jnp.split(both / jnp.maximum(jnp.linalg.norm(both, axis=-1, keepdims=True), 1e-12), 2)
    return jnp.sum(a * b, axis=-1)
