"""The paper's attacks, as it runs them: a fixed number of steps, each a query, against a system."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

import attacks_jax
import spt_jax
from experiments.spt.evasions import NO_EVASION, Evasion, begin, evading

# No bound on the whole perturbation (the paper gives no xi): a ball that holds every image.
UNBOUNDED = 1.0
# Of attacks that are not cut to the pixels' bounds (the paper's "without CUT").
UNCUT = (-100.0, 100.0)


@dataclass(frozen=True)
class Spec:
    """An attack by its name and its settings, as the tables print them."""

    name: Literal["BIM", "MI-FGSM", "JSMA"]
    steps: int
    step_size: float  # JSMA's is theta
    target: int | None = None  # the class wanted; None: any wrong one
    cut: bool = True  # to pixels in [0, 1], after every step
    turns: int = 1  # images that a client attacks in turns: A0, B0, C0, D0, A1, ...
    evasion: Evasion = NO_EVASION  # what the attacker knows to do against a memory

    def make(self) -> attacks_jax.Attack:
        """The attack; how many steps it makes is up to `drive`."""
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
    """What became of N images: arrays, each with an axis of N."""

    images: np.ndarray  # (N, H, W, C): the last ones
    told: np.ndarray  # (N,): the label that the last query in the loop was answered with (CS)
    told_all: np.ndarray  # (queries, N): those of all queries, then the last again
    deceived: np.ndarray  # (queries, N): whether the decoy answered
    queries: np.ndarray  # (N,)

    @property
    def by_decoy(self) -> np.ndarray:
        """(N,): of an image's queries, those that the decoy answered; dummies aside."""
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
    """Attacks one batch: the arrays of an `Attacked`.

    `keys` (N,) are what an evasion draws with; `on_query` is shown the images of each query.

    `attacks_jax.run` returns the best image of an attack; the paper judges the last one.
    """
    if not spec.cut:
        system = replace(system, bounds=UNCUT)  # or it would take all that is uncut for hostile
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
    # Whoever was done went on being asked about. To the attacker the last answer is the last.
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
    """(Q, N) bool: those of the queries that the decoy answered which the attack needed, (N,)."""
    return deceived & (np.arange(len(deceived))[:, None] < asked)
