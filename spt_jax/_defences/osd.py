"""OSD: flags a query whose encoding is too near to those of many earlier queries."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from spt_jax._automaton import Images, Labels, unless, write
from spt_jax._checks import check_counts, check_finite, describe

CHUNK = 256  # rows of the distance matrix that are computed at once


class OSDMemory(NamedTuple):
    encodings: jax.Array  # (capacity, D): a ring
    oldest: jax.Array  # () int32: index of the oldest one, which the next one overwrites
    filled: jax.Array  # () int32: encodings in the ring, at most its capacity


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OSD:
    """Chen, Carlini and Wagner, "Stateful Detection of Black-Box Adversarial Attacks" (2020),
    section 4. Later work calls it "original stateful detection".

    A query's distance is the mean Euclidean distance from its encoding to the `neighbours` nearest
    stored ones. If at least that many are stored and the distance is below the threshold, the query
    is flagged and the memory is emptied, without this query. This models the paper's ban of the
    account, after which the attacker opens another. All other queries are stored.

    Deviation: the memory has a fixed size and overwrites the oldest encoding; the paper's stores
    as many queries as the defender can afford.

    Attributes:
      encode: images (B, H, W, C) -> encodings (B, D) float32, in which transformed versions of an
        image are near to each other; the paper's D is 256.
      threshold: on the mean distance; `osd_threshold` finds it. The paper's is 1.44 for its
        CIFAR-10 encoder.
      neighbours: the paper's k, 50.
      capacity: stored encodings, of 4 * D bytes each; at least `neighbours`.
    """

    encode: Partial
    threshold: float | jax.Array
    neighbours: int = field(default=50, metadata={"static": True})
    capacity: int = field(default=1_000, metadata={"static": True})

    consults = 0
    keeps_out = True

    def init(self, image_shape: tuple[int, int, int]) -> OSDMemory:
        if self.capacity < self.neighbours:
            raise ValueError(
                f"expected capacity of at least the {self.neighbours} neighbours,"
                f" got {self.capacity}"
            )
        image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
        encoded = jax.eval_shape(self.encode, image).shape
        if len(encoded) != 2 or encoded[0] != 1:
            raise ValueError(f"expected encode to give (1, D) for one image, got {encoded}")
        return OSDMemory(
            encodings=jnp.zeros((self.capacity, encoded[1]), jnp.float32),
            oldest=jnp.zeros((), jnp.int32),
            filled=jnp.zeros((), jnp.int32),
        )

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> jax.Array:
        # Gradients must not flow through the defence's memory.
        return lax.stop_gradient(self.encode(images))

    def update(
        self, memory: OSDMemory, encoding: jax.Array, hostile: Any = False
    ) -> tuple[OSDMemory, jax.Array]:
        squares = jnp.sum((memory.encodings - encoding) ** 2, axis=-1)
        # The distance is infinite, so never flagged, if too few encodings are stored.
        stored = jnp.arange(self.capacity) < memory.filled
        distance = _mean_of_smallest(jnp.where(stored, jnp.sqrt(squares), jnp.inf), self.neighbours)
        flagged = distance < self.threshold
        after = (
            jnp.where(flagged, 0, (memory.oldest + 1) % self.capacity),
            jnp.where(flagged, 0, jnp.minimum(memory.filled + 1, self.capacity)),
        )
        encodings = write(memory.encodings, memory.oldest, encoding, hostile)
        return OSDMemory(encodings, *unless(hostile, tuple(memory)[1:], after)), flagged


def osd_threshold(encodings: jax.Array, neighbours: int = 50, fpr: float = 0.001) -> float:
    """The threshold with false-positive rate `fpr` on benign images when all others are stored.

    Chen, Carlini and Wagner, section 4.3, use the 0.1 percentile of the training images' mean
    distances to their nearest neighbours. Here an image is not its own neighbour. With fewer stored
    images, distances are larger and the false-positive rate is smaller.

    Args:
      encodings: (N, D) float32, of benign images; N is larger than `neighbours`.
      neighbours: the number of nearest encodings in the mean distance.
      fpr: the false-positive rate, in [0, 1): floor(fpr * N) images are below the threshold.

    Raises:
      ValueError: too few encodings; encodings that are not finite; options out of range.
    """
    check_counts(neighbours=neighbours)
    check_finite(fpr=fpr)
    if not 0 <= fpr < 1:
        raise ValueError(f"expected fpr in [0, 1), got {fpr}")
    floating = hasattr(encodings, "dtype") and jnp.issubdtype(encodings.dtype, jnp.floating)
    if not floating or np.ndim(encodings) != 2 or len(encodings) <= neighbours:
        raise ValueError(
            f"expected encodings (N, D) of more than {neighbours} images, in floats, got"
            f" {describe(encodings)}"
        )
    if not np.isfinite(np.asarray(encodings)).all():
        raise ValueError(f"expected finite encodings, got {describe(encodings)}")
    distances = np.sort(_neighbour_distances(jnp.asarray(encodings), neighbours))
    return float(distances[int(fpr * len(distances))])


@jax.jit(static_argnames="neighbours")
def _neighbour_distances(encodings, neighbours):
    """(N,) the mean distance of each encoding to its nearest neighbours."""
    # Centring reduces cancellation in |a - b|^2 = |a|^2 - 2 a.b + |b|^2.
    centred = encodings - encodings.mean(axis=0)
    norms = jnp.sum(centred**2, axis=-1)

    def distance(index):
        products = jnp.matmul(centred, centred[index], precision=lax.Precision.HIGHEST)
        squares = jnp.maximum(norms - 2 * products + norms[index], 0)
        return _mean_of_smallest(jnp.sqrt(squares).at[index].set(jnp.inf), neighbours)

    return lax.map(distance, jnp.arange(len(encodings)), batch_size=CHUNK)


def _mean_of_smallest(distances: jax.Array, count: int) -> jax.Array:
    # Sum all values: on a CPU, indexing the values of top_k turns it into a slow full sort.
    return -jnp.sum(lax.top_k(-distances, count)[0]) / count
