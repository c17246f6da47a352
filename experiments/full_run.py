"""Runs all experiments at full size and can resume: `python -m experiments.full_run --minutes=9`.

It is for a machine whose accelerator is available for minutes at a time. It skips finished programs
and resumes interrupted ones from the cache. The exit status is 75 while work is left, so that a
caller's loop can run it again. A stage (a module of CMAG, a chunk of an attack) that takes longer
than the given minutes never finishes. Minutes are enough on a GPU, except for Defense-GAN, which
runs last.

`--at-once=3` runs programs of different data sets in parallel, because small networks leave most of
a GPU idle. Speed benchmarks run alone.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from experiments.datasets import DataError
from experiments.runtime import checks, cli, results
from experiments.spt.config import ALL
from experiments.spt.config import Table as SPTTable

LEFT_TO_DO = 75  # EX_TEMPFAIL of sysexits.h
SECONDS_TO_STOP = 20  # for interrupted programs to save their state
QUICKLY_FITTED = ("CMAG", "CMAG+", "MagNet", "feature squeezing")  # each fits in seconds on a GPU
MOST_AT_ONCE, MOST_MINUTES = 256, 60 * 24 * 365
ALONE = ""  # the lane of programs that run alone


class Program(NamedTuple):
    name: str  # of the run folder
    lane: str  # the data set; a lane shares victims, so it runs one program at a time
    command: tuple[str, ...]  # arguments of the Python interpreter


@dataclass(frozen=True)
class Config:
    minutes: float = 9.0  # stop cleanly after this many minutes
    at_once: int = 1  # programs to run in parallel; above 1, output goes to NAME.log
    datasets: tuple[Literal["digits", "mnist", "fashion_mnist", "gtsrb"], ...] = (
        "mnist",
        "fashion_mnist",
        "gtsrb",
    )
    seeds: tuple[int, ...] = (0,)
    preset: Literal["quick", "paper"] = "paper"
    spt_tables: tuple[SPTTable, ...] = ALL  # empty: no SPT
    spt_dataset: Literal["digits", "mnist", "cifar10"] = "cifar10"
    benchmarks: bool = True
    attack_datasets: tuple[Literal["digits", "mnist", "cifar10"], ...] = ("mnist", "cifar10")
    runs_dir: Path = Path("runs/full")  # one run folder per program, and the cache
    collect_dir: Path | None = None  # folder for copies of results.json and report.html
    data_dir: Path | None = None
    manual_dir: Path | None = None

    def __post_init__(self) -> None:
        checks.seeds(*self.seeds)
        checks.some(self, "seeds")
        checks.different(self, "datasets", "spt_tables", "attack_datasets")
        checks.counts(self, "at_once", most=MOST_AT_ONCE)
        checks.above_zero(self, "minutes", most=MOST_MINUTES)
        if not any(True for _ in plan(self)):
            raise ValueError("expected datasets, spt_tables or benchmarks to run, got none")


def main(config: Config) -> int:
    """Runs the plan. Returns 0, LEFT_TO_DO, or the exit status of the first program that failed.

    A failed program does not stop the others.
    """
    cli.check_writable("--runs-dir", config.runs_dir)
    if config.collect_dir is not None:
        cli.check_writable("--collect-dir", config.collect_dir)
    deadline = time.monotonic() + 60 * config.minutes
    programs = list(plan(config))
    waiting: list[Program] = []
    running: dict[Program, subprocess.Popen] = {}
    failed: list[int] = []  # their exit statuses
    for program in programs:
        if _is_finished(config.runs_dir / program.name):
            _collect(config, program)
        else:
            waiting.append(program)
    while waiting or running:
        if time.monotonic() > deadline:
            _interrupt(list(running.values()))
            done = len(programs) - len(waiting) - len(running) - len(failed)
            print(f"time is up with {done} of {len(programs)} finished; run it again to go on")
            return LEFT_TO_DO
        for program in _next(waiting, list(running), config.at_once):
            print(f"{program.name}: {' '.join(program.command)}", flush=True)
            waiting.remove(program)
            running[program] = _start(config, program)
        for program, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[program]
            if process.returncode:
                print(f"{program.name} failed with status {process.returncode}", flush=True)
                failed.append(process.returncode)
            else:
                _collect(config, program)
        time.sleep(0.1)
    if failed:
        return failed[0]
    print(f"all {len(programs)} programs are finished, in {config.runs_dir}")
    return 0


def _is_finished(run: Path) -> bool:
    """Returns whether the run folder has a valid results.json."""
    if not (run / "results.json").exists():
        return False
    try:
        results.read(run)
    except DataError as error:
        print(f"{error}: it is run again now", flush=True)
        return False
    return True


def plan(config: Config) -> Iterator[Program]:
    """Yields every program, the cheap and informative ones first."""
    for what in (_cmag, _benchmarks, _adaptive, _spt, _everything):
        yield from what(config)


def _cmag(config: Config) -> Iterator[Program]:
    """Tables 3-7 for the detectors that fit in seconds."""
    for dataset, seed, options in _cases(config):
        name = f"cmag-{dataset}-{config.preset}-seed{seed}"
        yield _program(config, name, dataset, "cmag", "--systems", *QUICKLY_FITTED, *options)


def _benchmarks(config: Config) -> Iterator[Program]:
    if not config.benchmarks:
        return
    programs = [("attacks", str(name)) for name in config.attack_datasets]
    programs += [("detectors", str(name)) for name in config.datasets]
    programs += [("spt", config.spt_dataset)]
    for what, dataset in programs:
        name = f"benchmark-{what}-{dataset}"
        yield _program(config, name, ALONE, "benchmark", what, f"--dataset={dataset}")


def _adaptive(config: Config) -> Iterator[Program]:
    """Adaptive attacks on those detectors, and figures 7 and 8."""
    for dataset, seed, options in _cases(config):
        name = f"adaptive-{dataset}-{config.preset}-seed{seed}"
        yield _program(config, name, dataset, "adaptive", "--system", *QUICKLY_FITTED, *options)
        name = f"ssim-autoencoder-{dataset}-seed{seed}"
        options = [f"--dataset={dataset}", f"--seed={seed}"]
        yield _program(config, name, dataset, "ssim_autoencoder", *options)


def _spt(config: Config) -> Iterator[Program]:
    for seed in config.seeds:
        for table in config.spt_tables:
            # VGG-Face2, of IX's paper preset, is not available; quick uses ORL's small faces.
            preset = "quick" if table == "IX" else config.preset
            name = f"spt-{config.spt_dataset}-{table}-{preset}-seed{seed}"
            options = [f"--table={table}", f"--dataset={config.spt_dataset}"]
            options += [f"--preset={preset}", f"--seed={seed}"]
            yield _program(config, name, config.spt_dataset, "spt", *options)


def _everything(config: Config) -> Iterator[Program]:
    """Defense-GAN, other attacks, the ablation, theorem 1 and eq. 11: an hour or more."""
    for dataset, seed, options in _cases(config):
        name = f"cmag-{dataset}-{config.preset}-seed{seed}-all"
        yield _program(config, name, dataset, "cmag", "--systems=all", *options)
        name = f"adaptive-{dataset}-{config.preset}-seed{seed}-defense-gan"
        yield _program(config, name, dataset, "adaptive", "--system=Defense-GAN", *options)


def _cases(config: Config) -> Iterator[tuple[str, int, list[str]]]:
    """Yields (data set, seed, command-line options for both and the preset)."""
    for seed in config.seeds:
        for dataset in config.datasets:
            yield (
                dataset,
                seed,
                [f"--dataset={dataset}", f"--preset={config.preset}", f"--seed={seed}"],
            )


def _program(config: Config, name: str, lane: str, module: str, *options: str) -> Program:
    places = [f"--cache-dir={config.runs_dir / 'cache'}"]
    if config.data_dir:
        places.append(f"--data-dir={config.data_dir}")
    if config.manual_dir:
        places.append(f"--manual-dir={config.manual_dir}")
    places.append(f"--output-dir={config.runs_dir / name}")
    return Program(name, lane, ("-m", f"experiments.{module}", *options, *places))


def _next(waiting: list[Program], running: list[Program], at_once: int) -> list[Program]:
    """Returns the programs to start now: in the plan's order, without those whose lane is busy.

    No program overtakes one that must run alone.
    """
    starting: list[Program] = []
    for program in waiting:
        beside = [*running, *starting]
        if program.lane == ALONE:
            return starting if beside else [program]
        if len(beside) == at_once or ALONE in (other.lane for other in beside):
            break
        if program.lane not in (other.lane for other in beside):
            starting.append(program)
    return starting


def _start(config: Config, program: Program) -> subprocess.Popen:
    command = [sys.executable, *program.command]
    if config.at_once == 1:
        return subprocess.Popen(command)
    # Otherwise the first process takes three quarters of the GPU's memory.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    config.runs_dir.mkdir(parents=True, exist_ok=True)
    with open(config.runs_dir / f"{program.name}.log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def _interrupt(processes: list[subprocess.Popen]) -> None:
    """Sends SIGINT, as Ctrl-C does; kills processes that do not stop in SECONDS_TO_STOP."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    end = time.monotonic() + SECONDS_TO_STOP
    for process in processes:
        try:
            process.wait(timeout=max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _collect(config: Config, program: Program) -> None:
    if config.collect_dir is None:
        return
    run, kept = config.runs_dir / program.name, config.collect_dir / program.name
    kept.mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "report.html"):
        if (run / name).exists():
            shutil.copy(run / name, kept / name)


if __name__ == "__main__":
    with cli.program():
        given = tyro.cli(Config, prog="python -m experiments.full_run", description=__doc__)
        sys.exit(main(given))
