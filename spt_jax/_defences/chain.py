"""SPT's chains: a memory that detects an attack on several images in turns."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from spt_jax._automaton import Images, Labels, unless, write
from spt_jax._checks import check_choice, check_counts, check_finite, check_same_shape, is_traced
from spt_jax._psnr import largest_error, mean_squared_error
from spt_jax._system import Classifier, Response, System, package


class ChainMemory(NamedTuple):
    heads: jax.Array  # (R, H, W, C): the first image of each chain; only the first `used` are valid
    lengths: jax.Array  # (R,) int32: images in each chain
    used: jax.Array  # () int32: chains in use


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chain:
    """SPT, section III-E, steps 1 to 3.

    Images are compared with the heads of the chains, not with their last images. Many small steps
    then make an image dissimilar, as the paper's PSNR settings assume. Only heads are stored.
    """

    threshold_db: float | jax.Array
    trigger: int | jax.Array
    chain_length: int | jax.Array
    regions: int = field(metadata={"static": True})
    rule: Literal["own", "any"] = field(metadata={"static": True})

    consults = 0
    keeps_out = True

    def init(self, image_shape: tuple[int, int, int]) -> ChainMemory:
        return ChainMemory(
            heads=jnp.zeros((self.regions, *image_shape), jnp.float32),
            lengths=jnp.zeros(self.regions, jnp.int32),
            used=jnp.zeros((), jnp.int32),
        )

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> Images:
        return images

    def update(
        self, memory: ChainMemory, image: jax.Array, hostile: Any = False
    ) -> tuple[ChainMemory, jax.Array]:
        check_same_shape(image, memory.heads.shape[1:])
        in_use = jnp.arange(self.regions) < memory.used
        errors = jnp.where(in_use, mean_squared_error(memory.heads, image), jnp.inf)
        nearest = jnp.argmin(errors)
        found = errors[nearest] <= largest_error(self.threshold_db)

        full = memory.used == self.regions
        used = jnp.where(found, memory.used, jnp.where(full, 0, memory.used) + 1)
        lengths = jnp.where(~found & full, 0, memory.lengths)  # no free chain: wipe all
        own = jnp.where(found, nearest, used - 1)
        lengths = lengths.at[own].add(1)
        heads = write(memory.heads, own, image, found if hostile is False else found | hostile)

        longest = jnp.max(lengths)
        deceived = (lengths[own] if self.rule == "own" else longest) > self.trigger
        wipe = longest >= self.chain_length
        after = jnp.where(wipe, 0, lengths), jnp.where(wipe, 0, used)
        return ChainMemory(heads, *unless(hostile, tuple(memory)[1:], after)), deceived


def chain(
    classifier: Classifier,
    decoy: Classifier | None,
    *,
    regions: int = 10,
    chain_length: int | jax.Array = 20,
    trigger: int | jax.Array = 5,
    threshold_db: float | jax.Array = 30.0,
    rule: Literal["own", "any"] = "own",
    response: Response = "decoy",
) -> System:
    """SPT's chains (section III-E). An image joins the chain with the nearest similar head, or
    starts a new chain. The decoy answers images in long chains.

    All chains are wiped when one has `chain_length` images, and when an image needs a new chain but
    all are in use.

    Args:
      classifier, decoy: images (B, H, W, C) -> logits (B, K).
      regions: the largest number of chains.
      chain_length: the length of a chain at which all are wiped, after the answer. Traced.
      trigger: images of a chain that the classifier still answers. Traced.
      threshold_db: the PSNR in dB from which two images are similar. The paper uses 25 dB for
        attacks that keep to the bounds of pixels, else 30. Traced.
      rule: "own" decides by the length of the image's own chain. "any", the paper's rule, decides
        by the longest chain, so the decoy also answers benign queries during an attack.
      response: "decoy", or "random" labels (`package`).

    Raises:
      ValueError: options out of range; a trigger that no chain can exceed.
    """
    check_counts(regions=regions, chain_length=chain_length)
    check_counts(or_zero=True, trigger=trigger)
    check_finite(threshold_db=threshold_db)
    check_choice(rule=(rule, ("own", "any")))
    if not is_traced(trigger, chain_length) and trigger >= chain_length:
        raise ValueError(
            f"expected a trigger below the chain_length {chain_length}, at which chains are wiped,"
            f" got {trigger}"
        )
    automaton = Chain(threshold_db, trigger, chain_length, regions, rule)
    return package(automaton, classifier, decoy, response)
