"""Everything at full size, in pieces that resume: `python -m experiments.full_run --minutes=9`.

Meant for a machine with an accelerator that is lent for minutes. What is finished is skipped,
what is interrupted goes on from the cache; the exit status is 75 while something is left to do,
so that a caller's loop can run it again. A stage (a module of CMAG, a chunk of an attack) that
takes longer than the minutes given would be begun again and again: minutes are enough on a GPU.
"""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments.spt.config import ALL
from experiments.spt.config import Table as SPTTable

LEFT_TO_DO = 75  # EX_TEMPFAIL of sysexits.h
SECONDS_TO_STOP = 20  # that an interrupted program gets to put away what it holds


@dataclass(frozen=True)
class Config:
    minutes: float = 9.0  # stop, cleanly, after so long
    datasets: tuple[Literal["digits", "mnist", "fashion_mnist", "gtsrb"], ...] = (
        "mnist",
        "fashion_mnist",
        "gtsrb",
    )
    seeds: tuple[int, ...] = (0,)
    preset: Literal["quick", "paper"] = "paper"
    spt_tables: tuple[SPTTable, ...] = ALL  # none: no SPT
    spt_dataset: Literal["digits", "mnist", "cifar10"] = "cifar10"
    benchmarks: bool = True
    attack_datasets: tuple[Literal["digits", "mnist", "cifar10"], ...] = ("mnist", "cifar10")
    runs_dir: Path = Path("runs/full")  # one run folder a program, and the cache
    collect_dir: Path | None = None  # copies of every results.json and report.html
    data_dir: Path | None = None
    manual_dir: Path | None = None


def main(config: Config) -> int:
    deadline = time.monotonic() + 60 * config.minutes
    commands = list(plan(config))
    for number, (name, command) in enumerate(commands, start=1):
        run = config.runs_dir / name
        if not (run / "results.json").exists():
            print(f"[{number}/{len(commands)}] {' '.join(command)}", flush=True)
            status = _run([sys.executable, *command, f"--output-dir={run}"], deadline)
            if status is None:
                done = number - 1
                print(f"time is up with {done} of {len(commands)} finished; run it again to go on")
                return LEFT_TO_DO
            if status:
                return status
        _collect(run, config.collect_dir)
    print(f"all {len(commands)} programs are finished, in {config.runs_dir}")
    return 0


def plan(config: Config):
    """(run folder's name, command) of every program, the cheap and telling ones first."""
    places = [f"--cache-dir={config.runs_dir / 'cache'}"]
    if config.data_dir:
        places.append(f"--data-dir={config.data_dir}")
    if config.manual_dir:
        places.append(f"--manual-dir={config.manual_dir}")
    for seed in config.seeds:
        for dataset in config.datasets:
            options = [f"--dataset={dataset}", f"--preset={config.preset}", f"--seed={seed}"]
            name = f"cmag-{dataset}-{config.preset}-seed{seed}"
            yield name, ["-m", "experiments.cmag", "--systems=all", *options, *places]
    for seed in config.seeds:
        for dataset in config.datasets:
            options = [f"--dataset={dataset}", f"--preset={config.preset}", f"--seed={seed}"]
            name = f"adaptive-{dataset}-{config.preset}-seed{seed}"
            yield name, ["-m", "experiments.adaptive", "--system=all", *options, *places]
            options = [f"--dataset={dataset}", f"--seed={seed}"]
            name = f"ssim-autoencoder-{dataset}-seed{seed}"
            yield name, ["-m", "experiments.ssim_autoencoder", *options, *places]
    for seed in config.seeds:
        for table in config.spt_tables:
            # VGG-Face2, of IX's paper preset, is not to be had: ORL's faces, which are small.
            preset = "quick" if table == "IX" else config.preset
            options = [f"--table={table}", f"--dataset={config.spt_dataset}"]
            options += [f"--preset={preset}", f"--seed={seed}"]
            name = f"spt-{config.spt_dataset}-{table}-{preset}-seed{seed}"
            yield name, ["-m", "experiments.spt", *options, *places]
    if config.benchmarks:
        programs = [("attacks", str(name)) for name in config.attack_datasets]
        programs += [("detectors", str(name)) for name in config.datasets]
        programs += [("spt", config.spt_dataset)]
        for what, name in programs:
            command = ["-m", "experiments.benchmark", what, f"--dataset={name}", *places]
            yield f"benchmark-{what}-{name}", command


def _run(command: list[str], deadline: float) -> int | None:
    """The exit status, or None when the deadline came first and the program was interrupted."""
    process = subprocess.Popen(command)
    try:
        return process.wait(timeout=max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


def _collect(run: Path, folder: Path | None) -> None:
    if folder is None:
        return
    (folder / run.name).mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "report.html"):
        if (run / name).exists():
            shutil.copy(run / name, folder / run.name / name)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, prog="python -m experiments.full_run", description=__doc__)))
