"""The buffer: SPT's automaton for an attack that sends an image's versions one after another."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from spt_jax._automaton import Images, Labels, unless, write
from spt_jax._checks import check_choice, check_counts, check_finite, check_same_shape, is_traced
from spt_jax._psnr import largest_error, mean_squared_error
from spt_jax._system import Classifier, Response, System, package

Reset = Literal["periodic", "on_dissimilar"]
MOST = 2**31 - 1  # a counter stays there


class BufferMemory(NamedTuple):
    """Zero at first. Names in brackets are those of the paper's table I."""

    images: jax.Array  # (t, H, W, C): a ring, the last t images
    oldest: jax.Array  # () int32: where in the ring the oldest is, and the next will be
    filled: jax.Array  # () int32: images in the ring, at most t
    queries: jax.Array  # () int32: since the last reset, or t more (k)
    similar: jax.Array  # () int32: similar pairs since the last reset (s)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Buffer:
    """SPT, section III-B and algorithm 1.

    Algorithm 1 is read so: one increment of k a query; what is not deceived is the classifier's
    (it prints no return there); the query at k = 2t is judged like any other, and the reset
    follows it.
    """

    threshold_db: float | jax.Array  # T
    patience: int | jax.Array  # S
    length: int = field(metadata={"static": True})  # t
    reset: Reset = field(metadata={"static": True})

    consults = 0
    keeps_out = True

    def init(self, image_shape: tuple[int, int, int]) -> BufferMemory:
        # An array each, and not one for all: who donates a state to `jit` gives each away once.
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
    """SPT's buffer (section III-B, algorithm 1): each image is compared with the one `length`
    queries before it, and who has sent more than `patience` such pairs is deceived.

    Among I queries alike, the classifier answers about patience / length (`classifier_queries`).

    Args:
      classifier: images (B, H, W, C) -> logits (B, K).
      decoy: likewise; None only with `response="random"`. The paper's is untrained (T-), trained
        on the same labels (Ts), or on |K - 1 - label| (Td).
      length: t, images remembered.
      threshold_db: T, the PSNR from which on two images are alike. Traced.
      patience: S, pairs alike that are let pass; below `length` under the periodic reset, which
        would else deceive nobody. Traced.
      reset: "periodic" counts anew, from t, every t queries (the paper's tables VI to VIII);
        "on_dissimilar" counts anew, from 0, after a pair that is not alike (attack patterns 1
        and 2), which one image in between brings about.
      response: "decoy", or "random" labels (`package`).

    Raises:
      ValueError: options out of their range.
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
    """How many of a stream of queries alike the classifier answers; the decoy answers the others.

    SPT's eq. 2, exactly: its t + S + floor(I / t - 2) * S is the periodic reset's where t divides
    I, and a lower bound elsewhere.

    Raises:
      ValueError: options out of their range.
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
