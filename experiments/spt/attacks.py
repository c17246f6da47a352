"""Runs the paper's attacks against a system: a fixed number of steps, with one query each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

import attacks_jax
import spt_jax
from experiments.spt.evasions import NO_EVASION, Evasion, begin, evading

# The paper gives no bound xi on the perturbation, so the ball holds every image.
UNBOUNDED = 1.0
# The bounds of attacks that are not cut to the pixel range (the paper's "without CUT").
UNCUT = (-100.0, 100.0)


@dataclass(frozen=True)
class Spec:
    """An attack's name and settings, as the tables print them."""

    name: Literal["BIM", "MI-FGSM", "JSMA"]
    steps: int
    step_size: float  # theta for JSMA
    target: int | None = None  # the target class; None: untargeted
    cut: bool = True  # clip pixels to [0, 1] after every step
    turns: int = 1  # images that a client attacks in turns: A0, B0, C0, D0, A1, ...
    evasion: Evasion = NO_EVASION  # how the attack evades a stateful system

    def make(self) -> attacks_jax.Attack:
        """Returns the attack. `drive` decides how many steps it makes."""
        options: dict[str, Any] = {
            "targeted": self.target is not None,
            "bounds": (0.0, 1.0) if self.cut else UNCUT,
        }
        if self.name == "JSMA":
            return attacks_jax.jsma(theta=self.step_size, gamma=1.0, **options)
        make = {"BIM": attacks_jax.bim, "MI-FGSM": attacks_jax.mifgsm}[self.name]
        eps = UNBOUNDED if self.cut else 2 * UNCUT[1]
        return make(eps=eps, step_size=self.step_size, num_steps=1, **options)

    @property
    def title(self) -> str:
        goal = "" if self.target is None else " targeted"
        turns = f" in turns of {self.turns}" if self.turns > 1 else ""
        cut = "" if self.cut else " uncut"
        evasion = f" ({self.evasion.title})" if self.evasion.title else ""
        return f"{self.name}{goal}{turns}{cut}{evasion}, {self.steps} x"


@dataclass(frozen=True)
class Attacked:
    """The results for N attacked images. Each array has an axis of N."""

    images: np.ndarray  # (N, H, W, C): the images after the last step
    told: np.ndarray  # (N,): the label in the answer to the last query of the loop (CS)
    told_all: np.ndarray  # (queries, N): the labels of all queries; the last one repeats
    deceived: np.ndarray  # (queries, N): whether the decoy answered
    queries: np.ndarray  # (N,): queries that the attack needed

    @property
    def by_decoy(self) -> np.ndarray:
        """(N,): queries about an image that the decoy answered, without dummies."""
        return own_queries(self.deceived, self.queries).sum(axis=0)


def drive(
    spec: Spec,
    system: spt_jax.System,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    keys: jax.Array | None = None,
    on_query: Callable[[np.ndarray], object] | None = None,
) -> dict[str, np.ndarray]:
    """Attacks one batch. Returns the arrays of an `Attacked`.

    `keys` (N,) determine an evasion's random draws. `on_query` receives the images of each query.

    `attacks_jax.run` returns the best image of an attack; the paper judges the last one.
    """
    if not spec.cut:
        # Otherwise the system would treat all uncut images as hostile.
        system = replace(system, bounds=UNCUT)
    evasion, turns = spec.evasion, spec.turns
    attack, oracle = spec.make(), evading(evasion, system, turns=turns)
    goals = labels if spec.target is None else np.full(len(labels), spec.target, np.int32)
    queries = spec.steps * evasion.samples
    before = begin(
        evasion, system, len(images), images.shape[1:], queries=queries, turns=turns, keys=keys
    )
    states = attacks_jax.steps(
        attack, oracle, jax.random.key(0), images, goals,
        oracle_state=before, num_steps=spec.steps, donate=True,
    )  # fmt: skip
    for made, state in enumerate(states):
        if on_query is not None and made < spec.steps and not state.done.all():
            on_query(np.array(state.images))
    seen = state.oracle_state.record
    asked = np.minimum(evasion.samples * np.asarray(state.queries), queries)
    # Finished images are still queried. The attacker's last answer is from its last own query.
    last = np.minimum(np.arange(queries)[:, None], asked - 1)
    told = np.take_along_axis(np.asarray(seen.told), last, axis=0)
    return {
        "images": np.asarray(state.images),
        "told": told[-1],
        "told_all": told,
        "deceived": own_queries(np.asarray(seen.deceived), asked),
        "queries": asked,
    }


def own_queries(deceived: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Returns (Q, N) bool: the `deceived` queries among those that the attack needed.

    Args:
      deceived: (Q, N) bool: the queries that the decoy answered.
      asked: (N,) the number of queries that the attack needed.
    """
    return deceived & (np.arange(len(deceived))[:, None] < asked)
