"""Describes the attacked systems by their decoy and options, and builds them."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import spt_jax
from experiments.victims import Victim

Training = Literal["Ts", "T-", "Td"]


@dataclass(frozen=True)
class Decoy:
    """The second classifier: its network and its training (table III)."""

    network: str = "C4"
    training: Training = "T-"
    seed: int = 0  # number of an untrained decoy

    @property
    def title(self) -> str:
        return f"{self.network} {self.training}"


@dataclass(frozen=True)
class Defence:
    """A system's kind, decoy and options; they are part of a cache key."""

    kind: Literal["none", "buffer", "chain", "agreement", "blacklight", "osd"] = "none"
    decoy: Decoy | None = None
    options: tuple[tuple[str, Any], ...] = ()  # arguments of the function of spt_jax

    def make(self, classifier: Victim, decoy: Victim | None, encode: Any = None) -> spt_jax.System:
        c1 = classifier.logits
        options = dict(self.options)
        if self.kind == "none":
            return spt_jax.package(Never(), c1, Partial(_nothing, c1))
        c2 = decoy.logits if decoy else None
        if self.kind == "osd":
            return spt_jax.osd(c1, c2, encode, **options)
        makers: dict[str, Any] = {
            "buffer": spt_jax.buffer,
            "chain": spt_jax.chain,
            "agreement": spt_jax.agreement,
            "blacklight": spt_jax.blacklight,
        }
        return makers[self.kind](c1, c2, **options)


NONE = Defence("none")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Never:
    """An automaton that never uses the decoy. It makes the bare classifier a system."""

    consults = 0

    def init(self, image_shape: tuple[int, int, int]) -> tuple[()]:
        return ()

    def observe(self, images: jax.Array, labels: tuple) -> jax.Array:
        return jnp.zeros(images.shape[0], bool)

    def update(self, memory: tuple[()], evidence: jax.Array) -> tuple[tuple[()], jax.Array]:
        return memory, evidence


def _nothing(classifier, images):
    """A decoy that is never asked. Its gradient costs nothing to compute."""
    return jnp.zeros(jax.eval_shape(classifier, images).shape)


def as_classifier(function: Any, victim: Victim) -> Partial:
    """Returns the victim with a filter applied to its images."""
    return Partial(_filtered, Partial(function), victim.logits)


def _filtered(function, logits, images):
    return logits(function(images))
