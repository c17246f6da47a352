"""SPT's buffer: a memory that detects an attack which sends similar versions of one image."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from spt_jax._automaton import Images, Labels, unless, write
from spt_jax._checks import check_choice, check_counts, check_finite, check_same_shape, is_traced
from spt_jax._psnr import largest_error, mean_squared_error
from spt_jax._system import Classifier, Response, System, package

Reset = Literal["periodic", "on_dissimilar"]
MOST = 2**31 - 1  # counters stop here


class BufferMemory(NamedTuple):
    """All zeros at first. Names in brackets are those of the paper's table I."""

    images: jax.Array  # (t, H, W, C): a ring of the last t images
    oldest: jax.Array  # () int32: index of the oldest image, which the next one overwrites
    filled: jax.Array  # () int32: images in the ring, at most t
    queries: jax.Array  # () int32: queries since the last reset, plus t after a periodic one (k)
    similar: jax.Array  # () int32: similar pairs since the last reset (s)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Buffer:
    """SPT, section III-B and algorithm 1.

    We read algorithm 1 as follows. k increases by one per query. The classifier answers if the
    decoy does not (the paper prints no return there). The query at k = 2t is judged like any other;
    the reset follows it.
    """

    threshold_db: float | jax.Array  # T
    patience: int | jax.Array  # S
    length: int = field(metadata={"static": True})  # t
    reset: Reset = field(metadata={"static": True})

    consults = 0
    keeps_out = True

    def init(self, image_shape: tuple[int, int, int]) -> BufferMemory:
        # Separate arrays: `jit` can't donate one array several times.
        counters = (jnp.zeros((), jnp.int32) for _ in range(4))
        return BufferMemory(jnp.zeros((self.length, *image_shape), jnp.float32), *counters)

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> Images:
        return images

    def update(
        self, memory: BufferMemory, image: jax.Array, hostile: Any = False
    ) -> tuple[BufferMemory, jax.Array]:
        check_same_shape(image, memory.images.shape[1:])
        queries = jnp.minimum(memory.queries, MOST - 1) + 1
        compared = (memory.filled == self.length) & (queries >= self.length)
        error = mean_squared_error(memory.images[memory.oldest], image)
        hit = compared & (error <= largest_error(self.threshold_db))
        similar = jnp.minimum(memory.similar, MOST - 1) + hit
        deceived = hit & (similar > self.patience)

        if self.reset == "periodic":
            over, restart = queries >= 2 * self.length, self.length
        else:
            over, restart = compared & ~hit, 0
        after = (
            (memory.oldest + 1) % self.length,
            jnp.minimum(memory.filled + 1, self.length),
            jnp.where(over, restart, queries),
            jnp.where(over, 0, similar),
        )
        images = write(memory.images, memory.oldest, image, hostile)
        return BufferMemory(images, *unless(hostile, tuple(memory)[1:], after)), deceived


def buffer(
    classifier: Classifier,
    decoy: Classifier | None,
    *,
    length: int = 10,
    threshold_db: float | jax.Array = 35.0,
    patience: int | jax.Array = 5,
    reset: Reset = "periodic",
    response: Response = "decoy",
) -> System:
    """SPT's buffer (section III-B, algorithm 1). Each image is compared with the one `length`
    queries before it. After more than `patience` similar pairs, the decoy answers similar queries.

    Of many similar queries, the classifier answers a share of about patience / length
    (`classifier_queries`).

    Args:
      classifier: images (B, H, W, C) -> logits (B, K).
      decoy: the same kind of function; None only with `response="random"`. The paper's decoys are
        untrained (T-), trained on the same labels (Ts), or on |K - 1 - label| (Td).
      length: t, stored images.
      threshold_db: T, the PSNR in dB from which two images are similar. Traced.
      patience: S, similar pairs that the classifier still answers. Must be below `length` for the
        periodic reset, since the decoy would never answer otherwise. Traced.
      reset: "periodic" restarts the query count from t every t queries (the paper's tables VI to
        VIII). "on_dissimilar" restarts it from 0 after a dissimilar pair (attack patterns 1 and 2);
        one different image in between causes this.
      response: "decoy", or "random" labels (`package`).

    Raises:
      ValueError: options out of range.
    """
    check_counts(length=length)
    check_counts(or_zero=True, patience=patience)
    check_finite(threshold_db=threshold_db)
    check_choice(reset=(reset, ("periodic", "on_dissimilar")))
    if reset == "periodic" and not is_traced(patience) and patience >= length:
        raise ValueError(
            f"expected patience below the length {length}, or the periodic reset lets everybody"
            f" pass, got {patience}"
        )
    automaton = Buffer(threshold_db, patience, length, reset)
    return package(automaton, classifier, decoy, response)


def classifier_queries(queries: int, *, length: int, patience: int, reset: Reset) -> int:
    """The number of queries that the classifier answers in a stream of similar queries. The decoy
    answers the others.

    This is the exact form of SPT's eq. 2, t + S + floor(I / t - 2) * S. The printed equation holds
    for the periodic reset if t divides I, and is a lower bound otherwise.

    Raises:
      ValueError: options out of range.
    """
    check_counts(or_zero=True, queries=queries, patience=patience)
    check_counts(length=length)
    check_choice(reset=(reset, ("periodic", "on_dissimilar")))
    begin = min(queries, length + patience)
    if reset == "on_dissimilar" or queries < 2 * length:
        return begin
    patience = min(patience, length)
    rounds, rest = divmod(queries, length)
    return length + patience + patience * (rounds - 2) + min(rest, patience)
