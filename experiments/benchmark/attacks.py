"""Compares our attacks' times with reference implementations and with their own network passes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import attacks_jax
from experiments.benchmark import case_cache, figures, peers, timing
from experiments.benchmark import cases as attack_cases
from experiments.benchmark.cases import Case, distortion
from experiments.benchmark.peers import Outcome
from experiments.datasets import Dataset, Split
from experiments.pipeline import attack_runs
from experiments.runtime import progress
from experiments.runtime.results import Row
from experiments.victims import CNN, Victim

TABLE = "extra/benchmark/attacks"
# Raise it when a change of code changes the figures kept under `cases`.
VERSION = 1


def measure(config: Any, folder: Path, data: Dataset, victim: Victim, network: CNN) -> list[Row]:
    """Returns the rows of all cases, and draws speed.png. Finished cases are kept in folder/cases.

    Args:
      config: a `benchmark.Config`.
      folder: the run's folder.
      data: the data set; its test images are attacked.
      victim: the attacked classifier.
      network: its network, which is ported to torch.

    Raises:
      ValueError: `config.only` names an unknown attack.
    """
    names = peers.installed()
    twin = peers.torch_twin(network, victim.params).to(peers.device()) if names else None
    cases = [
        attack_cases.shrunk(
            case, images=config.images, repeats=config.repeats, most_steps=config.most_steps
        )
        for case in attack_cases.chosen(attack_cases.speed(config.dataset), config.only)
        if case.ours
    ]
    rows: list[Row] = []
    with progress.bar(len(cases), f"benchmark {config.dataset}", "attacks") as bar:
        for case in cases:
            bar.set_postfix_str(case.name)
            split = attack_runs.choose(victim, data.test, case.images, seed=0)
            race = partial(_race, config, case, victim, twin, names, split, data.classes)
            rows += case_cache.rows(
                folder, case, race,
                victim=victim.key, peers=names, limit=config.peer_limit, version=VERSION,
                device=jax.devices()[0].device_kind,
            )  # fmt: skip
            bar.update()
    figures.speed(folder / "speed.png", rows)
    return rows


def _race(
    config: Any, case: Case, victim: Victim, twin: Any, names: list[str], split: Split, classes: int
) -> list[Row]:
    """Returns the rows of one case: our attack, the reference implementations and the floor run in
    turns."""
    goals = case.goals(split.labels, classes)
    oracle, key = attacks_jax.stateless(victim.logits), jax.random.key(0)
    ours = partial(attacks_jax.run, case.make(), oracle, key, split.images, goals)
    jax.clear_caches()  # so that the first call compiles everything

    theirs: dict[str, Callable[[], Outcome]] = {}
    for name in names:
        attack = peers.make(name, case, twin, split.images, goals)
        if attack is not None:
            theirs[name] = attack
    last: dict[str, Any] = {}

    def remembered(name: str) -> Any:
        last[name] = ours() if name == "ours" else theirs[name]()
        return last[name]

    images = jnp.asarray(split.images)

    def floor() -> jax.Array:  # as many passes as our attack, which always runs first
        queries = float(np.mean(last["ours"].queries))
        return _floor(case.gradients, victim.logits, images, queries)

    competitors: dict[str, Callable[[], Any]] = {"ours": partial(remembered, "ours")}
    competitors["floor"] = floor
    competitors |= {name: partial(remembered, name) for name in theirs}
    first, seconds = timing.interleaved(competitors, case.repeats, limit=config.peer_limit)
    result = last["ours"]

    found = {
        "seconds": seconds["ours"],
        "compile_seconds": first["ours"] - seconds["ours"],
        "ratio_to_floor": seconds["ours"] / seconds["floor"],
    }
    if theirs:
        fastest = min(seconds[name] for name in theirs)
        found["times_faster_than_fastest_peer"] = fastest / seconds["ours"]
    found |= {f"seconds:{name}": seconds[name] for name in theirs}
    found |= {f"times_faster_than:{name}": seconds[name] / seconds["ours"] for name in theirs}
    found |= {"queries": float(np.mean(result.queries))}
    mine = Outcome(np.asarray(result.images), np.asarray(result.success))
    for suffix, outcome in [("", mine), *((f":{name}", last[name]) for name in theirs)]:
        found |= _quality(case, suffix, split.images, outcome)
    return [
        Row(
            TABLE,
            config.dataset,
            "attacks_jax",
            case.name,
            None,
            metric,
            round(value, 5),
            len(split),
        )
        for metric, value in found.items()
    ]


def _quality(case: Case, suffix: str, clean: np.ndarray, outcome: Outcome) -> dict[str, float]:
    """Returns the attack's success rate and its successes' mean distortion: a faster attack must
    not be a worse one."""
    success = outcome.success
    found = {f"success_rate{suffix}": float(success.mean())}
    if success.any():
        mean = distortion(case, clean, outcome.images)[success].mean()
        found[f"mean_{case.norm}{suffix}"] = float(mean)
    return found


def _floor(gradients: int, logits: Any, images: jax.Array, queries: float) -> jax.Array:
    """Runs only the network passes that the attack needs, on the whole batch.

    Their number is the mean number of queries per example. An attack that ends early for some
    examples makes its later passes on fewer images; in examples times passes the work is the same.
    The last pass of every attack checks what it returns, and has no gradient.
    """
    for _ in range(max(round(queries) - 1, 1)):
        value = _pass(gradients, logits, images)
    return _pass(0, logits, images) if gradients else value


@partial(jax.jit, static_argnums=0)
def _pass(gradients: int, logits: Any, images: jax.Array) -> jax.Array:
    """Runs one forward pass and `gradients` backward passes, each from one logit."""
    if not gradients:
        return logits(images)
    values, pullback = jax.vjp(logits, images)
    rows = jnp.eye(gradients, values.shape[1])
    return jax.vmap(lambda row: pullback(jnp.broadcast_to(row, values.shape))[0])(rows)
