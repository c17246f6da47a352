"""Compares attacks with reference implementations: `python -m experiments.parity --dataset=mnist`

Each attack runs in attacks_jax and in every reference implementation that has it, on the same
weights, images and budgets. The table has success rates, mean distortions of the successful
examples, images sent through the network and, for deterministic algorithms, the share of pixels
that differ. The program asserts nothing. The same command resumes an interrupted run.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import attacks_jax
from experiments import datasets, victims
from experiments.benchmark import case_cache, peers
from experiments.benchmark import cases as attack_cases
from experiments.benchmark import victims as benchmark_victims
from experiments.benchmark.cases import SAME_PIXEL, Case, distortion
from experiments.benchmark.peers import Outcome
from experiments.datasets import Split
from experiments.pipeline import attack_runs
from experiments.runtime import checks, cli, progress, results
from experiments.runtime.results import Row

TABLE = "extra/parity"
# Raise it when a change outside attacks_jax changes the rows kept under `cases`.
VERSION = 1
GRAIN = 0.02  # the largest change of a pixel by `grained`


@dataclass(frozen=True)
class Config:
    dataset: Literal["digits", "mnist", "cifar10"] = "digits"
    images: int = 100  # to attack; fewer in slow libraries (experiments/benchmark/cases.py)
    only: tuple[str, ...] = ()  # attacks to run, as the table names them; all by default
    seed: int = 0
    output_dir: Path | None = None
    cache_dir: Path = Path("runs/cache")
    data_dir: Path | None = None
    manual_dir: Path | None = None

    def __post_init__(self) -> None:
        checks.seeds(self.seed)
        checks.counts(self, "images")
        attack_cases.chosen(attack_cases.parity(self.dataset), self.only)


class Arena(NamedTuple):
    """The inputs that all implementations share."""

    victim: victims.Victim
    twin: Any  # the victim in torch; None without reference implementations
    split: Split  # the images to attack
    classes: int
    names: list[str]  # the installed reference implementations


def main(config: Config) -> None:
    cases = attack_cases.chosen(attack_cases.parity(config.dataset), config.only)
    folder = config.output_dir or Path(f"runs/parity-{config.dataset}")
    cli.prepare_folders(folder, config.cache_dir)
    arena = prepare(config)
    rows: list[Row] = []
    with progress.bar(len(cases), f"parity {config.dataset}", "attacks") as bar:
        for case in cases:
            bar.set_postfix_str(case.name)
            if case.ours:
                rows += case_cache.rows(
                    folder, case, partial(compare, case, arena, config.dataset, config.seed),
                    victim=arena.victim.key, images=config.images, seed=config.seed,
                    peers=arena.names, version=VERSION,
                )  # fmt: skip
            else:
                bar.write(f"attacks_jax has no {case.attack}")
            bar.update()
    seconds = {"total": results.since_start()}
    results.write(folder / "results.json", config=config, rows=rows, seconds=seconds)
    Console(width=120, markup=False, emoji=False).print(table(rows))
    for (attack, peer), how in attack_cases.DIFFERENT.items():
        if any((row.attack, row.system) == (attack, peer) for row in rows):
            print(f"{attack}, {peer}: {how}")
    print(f"wrote {folder / 'results.json'}")


def prepare(config: Config) -> Arena:
    """Returns the trained victim, its port to torch and the images, for a configuration."""
    data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    victim_config = benchmark_victims.CONFIGS[config.dataset]
    victim = victims.get(data, victim_config, seed=0, cache_dir=config.cache_dir)
    names = peers.installed()
    twin = None
    if names:
        network = victims.make_cnn(data.classes, victim_config)
        twin = peers.torch_twin(network, victim.params, share_ties=True).to(peers.device())
    split = grained(victim, data.test, config.images, seed=config.seed)
    return Arena(victim, twin, split, data.classes, names)


def grained(victim: victims.Victim, split: Split, count: int, *, seed: int) -> Split:
    """Returns up to `count` images that the victim classifies correctly, with uniform noise.

    On flat backgrounds, max pooling has ties. JAX shares the gradient of a tie; torch gives it to
    the first pixel. Both are right. Without ties, the gradients are comparable.
    """
    chosen = attack_runs.choose(victim, split, 2 * count, seed=seed)
    grain = np.random.default_rng(seed).uniform(0, GRAIN, chosen.images.shape)
    # Move towards the middle of the range, so that clipping makes no new ties.
    inwards = np.where(chosen.images < 0.5, grain, -grain)
    images = np.clip(chosen.images + inwards, 0, 1).astype(np.float32)
    right = np.flatnonzero(victims.predict(victim, images) == chosen.labels)[:count]
    return Split(images[right], chosen.labels[right])


def compare(case: Case, arena: Arena, dataset: str, seed: int) -> list[Row]:
    """Returns the rows of one attack: ours, then those of the reference implementations."""
    clean = arena.split.images

    def rows(system: str, n: int, figures: dict[str, float]) -> list[Row]:
        return [
            Row(TABLE, dataset, system, case.name, None, metric, round(value, 5), n)
            for metric, value in figures.items()
        ]

    ours, queries = run_ours(case, arena, seed)
    n = len(ours.images)
    found = rows("attacks_jax", n, _figures(case, clean[:n], ours) | {"queries": queries})
    for name, theirs, queries in run_peers(case, arena, seed):
        n = len(theirs.images)
        some = Outcome(ours.images[:n], ours.success[:n])
        figures = against(case, clean[:n], some, theirs) | {"queries": queries}
        found += rows(name, n, figures)
    return found


def run_ours(case: Case, arena: Arena, seed: int) -> tuple[Outcome, float]:
    """Returns the outcome of our attack, and its mean queries per image."""
    images = arena.split.images[: case.few.get("attacks_jax")]
    goals = case.goals(arena.split.labels, arena.classes)[: len(images)]
    oracle = attacks_jax.stateless(arena.victim.logits)
    result = attacks_jax.run(case.make(), oracle, jax.random.key(seed), images, goals)
    outcome = Outcome(np.asarray(result.images), np.asarray(result.success))
    return outcome, float(np.mean(result.queries))


def run_peers(case: Case, arena: Arena, seed: int) -> Iterator[tuple[str, Outcome, float]]:
    """Yields (name, outcome, mean queries per image) of each reference implementation."""
    goals = case.goals(arena.split.labels, arena.classes)
    for name in arena.names:
        attack = peers.make(name, case, arena.twin, arena.split.images, goals)
        if attack is None:
            continue
        peers.seed(seed)
        with peers.counting(arena.twin) as passed:
            outcome = attack()
            queries = passed()
        yield name, outcome, queries / len(outcome.images)


def against(case: Case, clean: np.ndarray, ours: Outcome, theirs: Outcome) -> dict[str, float]:
    """Returns the figures of a reference implementation, and ours, on the same images.

    Distortions are means over the images on which both succeed.
    """
    both = ours.success & theirs.success
    figures = _figures(case, clean, theirs, both)
    figures["success_rate:ours"] = float(ours.success.mean())
    if both.any():
        mean = distortion(case, clean, ours.images)[both].mean()
        figures["mean_distortion:ours"] = float(mean)
    if case.deterministic:
        differ = np.abs(ours.images - theirs.images) > SAME_PIXEL
        figures["pixels_that_differ"] = float(differ.mean())
    return figures


def _figures(
    case: Case, clean: np.ndarray, outcome: Outcome, over: np.ndarray | None = None
) -> dict[str, float]:
    over = outcome.success if over is None else over
    figures = {"success_rate": float(outcome.success.mean())}
    if over.any():
        figures["mean_distortion"] = float(distortion(case, clean, outcome.images)[over].mean())
    return figures


COLUMNS = {
    "success_rate": "success", "success_rate:ours": "ours",
    "mean_distortion": "distortion", "mean_distortion:ours": "ours",
    "queries": "queries", "pixels_that_differ": "pixels that differ",
}  # fmt: skip


def table(rows: list[Row]) -> Table:
    """Returns a line per attack and system; "ours" is attacks_jax on that system's images."""
    shown = Table(title=TABLE, title_justify="left")
    for title in ("attack", "system"):
        shown.add_column(title)
    for title in (*COLUMNS.values(), "n"):
        shown.add_column(title, justify="right")
    for attack, system in dict.fromkeys((row.attack, row.system) for row in rows):
        cells = {r.metric: r for r in rows if (r.attack, r.system) == (attack, system)}
        values = [f"{cells[m].value:.4g}" if m in cells else "" for m in COLUMNS]
        n = str(next(iter(cells.values())).n)
        shown.add_row(attack if system == "attacks_jax" else "", system, *values, n)
    return shown


if __name__ == "__main__":
    with cli.program():
        main(tyro.cli(Config, prog="python -m experiments.parity", description=__doc__))
