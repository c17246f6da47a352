"""The interfaces of the library: an `Oracle`, an `Attack` on it, and its `Result`."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

Images = jax.Array  # (B, H, W, C) float32 within the attack's bounds
Labels = jax.Array  # (B,) int: the true classes, or the targets of a targeted attack
Logits = jax.Array  # (B, K) float32
OracleState = Any

# A pure function that an attack may query and differentiate. A stateful oracle keeps its memory
# in the state; the state of a plain classifier is `()`.
Oracle = Callable[[OracleState, Images], tuple[OracleState, Logits]]


class Result(NamedTuple):
    """The result of an attack. Each example is independent of the rest of the batch."""

    images: Images  # (B, H, W, C): adversarial where `success`, else the best attempt
    success: jax.Array  # (B,) bool: from a last query about the returned `images`
    distance: jax.Array  # (B,) float32: distance to the clean image in the attack's own norm
    queries: jax.Array  # (B,) int32: forward passes spent on the example, with the last query
    oracle_state: OracleState  # the oracle's state after the last query


class State(Protocol):
    """The part of an attack's state that the loop reads. Each attack adds its own fields."""

    @property
    def done(self) -> jax.Array:
        """(B,) bool: examples that further steps do not change."""
        ...


class Attack(Protocol):
    """An attack that is ready to run: pure functions and the number of steps.

    Attacks are frozen dataclasses and pytrees. Strengths (`eps`, `confidence`, ...) are leaves,
    so that one compilation serves a sweep over them. Options that change the program (`num_steps`,
    `targeted`, `bounds`, ...) are static. `OneStage` holds what most attacks share.
    """

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value of a pixel."""
        ...

    @property
    def norm(self) -> Any:
        """The norm of the distances: "linf", "l2", "l1" or "l0"."""
        ...

    @property
    def targeted(self) -> bool:
        """Whether the labels are target classes."""
        ...

    @property
    def stages(self) -> tuple[int, ...]:
        """For each stage, the largest number of `step` calls that can change a state."""
        ...

    @property
    def independent(self) -> bool:
        """Whether examples are independent, so that the loop may drop those that are done.

        True if no example depends on another, and if every leaf of the state, except the oracle's
        state, has the batch as its first axis.
        """
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
        """Returns the first state of the next stage, given the last state of a stage."""
        ...

    def result(self, oracle: Oracle, state: Any) -> Result: ...


class OneStage:
    """An attack with one kind of step. Its examples are independent unless a subclass differs."""

    independent = True
    num_steps: Any  # int: the largest number of `step` calls that can change a state

    @property
    def stages(self) -> tuple[int, ...]:
        return (self.num_steps,)

    def next_stage(self, oracle: Oracle, state: Any) -> Any:
        raise NotImplementedError("an attack of one stage has no next one")
