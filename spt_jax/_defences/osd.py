"""OSD: a query that is too near to many earlier ones, in an encoder's eyes, is an attack's."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from spt_jax._automaton import Images, Labels, unless, write
from spt_jax._checks import check_counts, check_finite, describe

CHUNK = 256  # rows of the table of distances that are in memory at once


class OSDMemory(NamedTuple):
    encodings: jax.Array  # (capacity, D): a ring
    oldest: jax.Array  # () int32: where the next one goes
    filled: jax.Array  # () int32: encodings in the ring, at most its capacity


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class OSD:
    """Chen, Carlini and Wagner, "Stateful Detection of Black-Box Adversarial Attacks" (2020),
    section 4; "original stateful detection" to those who came after.

    A query's distance is the mean Euclidean distance between its encoding and the `neighbours`
    nearest ones stored. With at least that many stored and the distance below the threshold, the
    query is flagged and the memory emptied, this query included: the paper bans the account, and
    the attacker comes back with another. All other queries are stored.

    Deviation: the memory is of fixed size, and the oldest encoding is overwritten; the paper's
    holds as many queries as the defender can afford.

    Attributes:
      encode: images (B, H, W, C) -> encodings (B, D) float32, in which transformed versions of an
        image are near to each other; the paper's D is 256.
      threshold: of the mean distance; `osd_threshold` finds it. The paper's is 1.44 for its
        encoder of CIFAR-10.
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
        # A gradient into the memory would be one through the defence's bookkeeping.
        return lax.stop_gradient(self.encode(images))

    def update(
        self, memory: OSDMemory, encoding: jax.Array, hostile: Any = False
    ) -> tuple[OSDMemory, jax.Array]:
        squares = jnp.sum((memory.encodings - encoding) ** 2, axis=-1)
        # With too few stored the distance is infinite, which is below no threshold.
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
    """The threshold that flags a share `fpr` of natural images when all the others are stored.

    Chen, Carlini and Wagner, section 4.3: a low percentile, 0.1, of the training images' mean
    distances to their nearest neighbours; an image is not its own neighbour here. With fewer
    images stored the distances are larger, and the share that is flagged is smaller.

    Args:
      encodings: (N, D) float32, of natural images; N is larger than `neighbours`.
      neighbours: the number of nearest encodings that the distance is a mean of.
      fpr: the share to flag, in [0, 1): floor(fpr * N) of the images are below the threshold.

    Raises:
      ValueError: too few encodings, encodings that are not finite, options out of their range.
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
    """(N,): each encoding's mean distance to its nearest others."""
    # Centred, for the squares below cancel: |a - b|^2 = |a|^2 - 2 a.b + |b|^2.
    centred = encodings - encodings.mean(axis=0)
    norms = jnp.sum(centred**2, axis=-1)

    def distance(index):
        products = jnp.matmul(centred, centred[index], precision=lax.Precision.HIGHEST)
        squares = jnp.maximum(norms - 2 * products + norms[index], 0)
        return _mean_of_smallest(jnp.sqrt(squares).at[index].set(jnp.inf), neighbours)

    return lax.map(distance, jnp.arange(len(encodings)), batch_size=CHUNK)


def _mean_of_smallest(distances: jax.Array, count: int) -> jax.Array:
    # A sum: on a CPU, taking single ones of top_k's values turns it into a whole, slow sort.
    return -jnp.sum(lax.top_k(-distances, count)[0]) / count
