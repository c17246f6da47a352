"""Writes and reads results.json: one row per measured value, and the provenance of the run."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import psutil

from experiments.runtime import cache
from experiments.runtime.errors import DataError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "dm-pix", "numpy")
PEERS = ("torch", "foolbox", "adversarial-robustness-toolbox", "torchattacks")


@dataclass(frozen=True)
class Row:
    """One measured value. `paper` is the paper's value, if the paper has one."""

    table: str  # the paper's table ("cmag/3"), or "extra/..."
    dataset: str
    system: str
    attack: str  # "none" for clean images
    strength: float | None
    metric: str
    value: float
    n: int  # number of images measured
    paper: float | None = None


# Field of a row -> its type in JSON, where 1.0 may become 1.
KINDS: dict[str, Any] = {
    **dict.fromkeys(("table", "dataset", "system", "attack", "metric"), str),
    **dict.fromkeys(("strength", "paper"), int | float | None),
    "value": int | float,
    "n": int,
}
LARGEST = 1e300  # largest number in a row; JSON has no bounds, and allows NaN


def write(path: Path, *, config: Any, rows: Iterable[Row], seconds: dict[str, float]) -> None:
    document = {
        "config": config,
        "provenance": provenance(seconds),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    write_json(path, document)


def write_json(path: Path, document: Any) -> None:
    text = json.dumps(document, indent=1, default=_plain, allow_nan=False)
    cache.write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))


def read(path: Path) -> dict[str, Any]:
    """Returns the document of a run folder or of its results.json.

    Raises:
      DataError: it is missing, unreadable, or not in the format of `write`.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text())
        rows = document["rows"]
        if not isinstance(rows, list):
            raise TypeError(f"expected a list of rows, got {type(rows).__name__}")
        for row in rows:
            _check_row(row)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; name a folder with a results.json") from None
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{file} is damaged ({what}); delete it, and run again the program that wrote it"
        ) from error
    return document


def _check_row(row: Any) -> None:
    """Raises TypeError or ValueError unless `row` is a `Row` in JSON form."""
    if not isinstance(row, dict) or set(row) != set(KINDS):
        raise TypeError(f"expected rows of {', '.join(KINDS)}, got {str(row)[:80]}")
    for name, kinds in KINDS.items():
        value = row[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(f"expected another {name} in a row, got {str(value)[:80]!r}")
        if isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
            raise ValueError(f"expected a finite {name} in a row, got {str(value)[:80]}")
    if row["n"] < 0:
        raise ValueError(f"expected n of at least 0 in a row, got {row['n']}")


def read_all(runs: Iterable[Path]) -> list[dict[str, Any]]:
    """Returns the documents of the runs that a command line names.

    Raises:
      DataError: as in `read`, or no run is named.
    """
    documents = [read(run) for run in runs]
    if not documents:
        raise DataError("expected the name of at least one run folder, got none")
    return documents


def provenance(seconds: dict[str, float]) -> dict[str, Any]:
    return {
        "git": _git_commit(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES + _peers()}
        | {"python": platform.python_version()},
        "device": _device(),
        "command": " ".join(["python", "-m", _program(), *sys.argv[1:]]),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "peak_memory_gib": round(peak_memory_gib(), 2),
    }


def peak_memory_gib() -> float:
    """Returns the peak resident memory of this process, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes or KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def since_start() -> float:
    """Returns the seconds since this process started, imports included."""
    return time.time() - psutil.Process().create_time()


class Stopwatch:
    """Measures the seconds per stage, and the seconds of compilation in all stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"compile": 0.0}
        listener: Any = self._on_event
        jax.monitoring.register_event_duration_secs_listener(listener)

    def _on_event(self, event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):  # tracing, lowering and XLA itself
            self.seconds["compile"] += duration

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to the stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


def _device() -> str:
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(allowed(0)) if allowed else os.cpu_count()
    return f"CPU ({platform.machine()}, {cores} cores)"


def _peers() -> tuple[str, ...]:
    """Returns the installed reference implementations."""
    names = {distribution.metadata["Name"] for distribution in importlib.metadata.distributions()}
    return tuple(name for name in PEERS if name in names)


def _git_commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).name


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value)} can't be written as JSON")
