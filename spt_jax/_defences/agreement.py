"""SPT's agreement flags: whether two networks give the same label, at this query and at the one
before."""

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp

from spt_jax._automaton import Images, Labels
from spt_jax._checks import check_choice
from spt_jax._system import Classifier, Response, System, package


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Agreement:
    """SPT, section IV-E. The memory is the last flag of the stream, f_{n-1}, which may come from
    another image. f_{-1} = 1."""

    rule: Literal["and", "or"] = field(metadata={"static": True})

    consults = 2

    def init(self, image_shape: tuple[int, int, int]) -> jax.Array:
        return jnp.ones((), bool)

    def observe(self, images: Images, labels: tuple[Labels, ...]) -> jax.Array:
        return labels[0] == labels[1]

    def update(self, memory: jax.Array, evidence: Any) -> tuple[jax.Array, jax.Array]:
        agreed = evidence & memory if self.rule == "and" else evidence | memory
        return evidence, ~agreed


def agreement(
    net: Classifier,
    net2: Classifier,
    *,
    rule: Literal["and", "or"] = "and",
    response: Response = "decoy",
) -> System:
    """SPT's agreement flags (section IV-E). The flag f_n says whether both networks give the same
    label. `net` answers if "f_n and f_{n-1}" holds ("f_n or f_{n-1}" for the rule "or"), else
    `net2`.

    Both networks run at every query. Use a net2 that is trained on the same labels and to which
    attacks on net transfer badly.

    Args:
      net, net2: images (B, H, W, C) -> logits (B, K).
      rule: how the flags are combined.
      response: "decoy", which is net2, or "random" labels (`package`).

    Raises:
      ValueError: an unknown rule or response.
    """
    check_choice(rule=(rule, ("and", "or")))
    return package(Agreement(rule), net, net2, response)
