"""What an attack is, what it attacks, and what it gives back."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Images = jax.Array  # (B, H, W, C) float32 within the attack's bounds
Labels = jax.Array  # (B,) int: the true classes, or the targets of a targeted attack
Logits = jax.Array  # (B, K) float32
OracleState = Any

# A pure function that an attacker may query and differentiate. What remembers its queries
# threads its memory through the state; the state of a plain classifier is `()`.
Oracle = Callable[[OracleState, Images], tuple[OracleState, Logits]]


class Result(NamedTuple):
    """What an attack gives back; examples are independent of their batch-mates."""

    images: Images  # (B, H, W, C): adversarial where `success`, the best effort elsewhere
    success: jax.Array  # (B,) bool: asked of the oracle again, on `images` as they are returned
    distance: jax.Array  # (B,) float32: from the clean image, in the attack's own norm
    queries: jax.Array  # (B,) int32: forward passes spent on the example, re-check included
    oracle_state: OracleState  # the oracle's state after the last query


class State(Protocol):
    """What the loop driver reads of an attack's state; the rest is the attack's own."""

    @property
    def done(self) -> jax.Array:
        """(B,) bool: examples that further steps leave as they are."""
        ...


class Attack(Protocol):
    """A method, ready to run: three pure functions and the number of steps.

    Attacks are frozen dataclasses and pytrees. Strengths (`eps`, `confidence`, ...) are leaves,
    so that one compilation serves a sweep of them; what changes the program (`num_steps`,
    `targeted`, `bounds`, ...) is static. `OneStage` has what most of them share.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value of a pixel."""
        ...

    @property
    def norm(self) -> Any:
        """What distances are measured in: "linf", "l2", "l1" or "l0"."""
        ...

    @property
    def targeted(self) -> bool:
        """Whether the labels are targets."""
        ...

    @property
    def stages(self) -> tuple[int, ...]:
        """The most calls of `step` that can change a state, in each stage of the attack."""
        ...

    @property
    def independent(self) -> bool:
        """Whether every leaf of the state but the oracle's starts with the batch and no example
        looks at another: the loop may then drop the examples that are done."""
        ...

    def init(
        self,
        oracle: Oracle,
        oracle_state: OracleState,
        key: jax.Array,
        images: Images,
        labels: Labels,
    ) -> Any: ...

    def step(self, oracle: Oracle, state: Any) -> Any: ...

    def next_stage(self, oracle: Oracle, state: Any) -> Any:
        """From the end of a stage to the beginning of the next."""
        ...

    def result(self, oracle: Oracle, state: Any) -> Result: ...


class OneStage:
    """An attack whose steps are all alike, its examples independent unless it says otherwise."""

    independent = True
    num_steps: Any  # int: the most calls of `step` that can change a state

    @property
    def stages(self) -> tuple[int, ...]:
        return (self.num_steps,)

    def next_stage(self, oracle: Oracle, state: Any) -> Any:
        raise NotImplementedError("an attack of one stage has no next one")
