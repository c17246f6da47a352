"""Keeps the rows of finished cases, so that an interrupted run resumes with the others."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attacks_jax
from experiments.benchmark.cases import Case
from experiments.datasets import DataError
from experiments.runtime import cache, results
from experiments.runtime.results import Row


def rows(
    folder: Path, case: Case, compute: Callable[[], list[Row]], **determines: Any
) -> list[Row]:
    """Returns the case's rows from folder/cases, or computes and writes them.

    Args:
      folder: the run's folder.
      case: the attack. The rows depend on it and on the code of attacks_jax.
      compute: measures the case.
      determines: all else that the rows depend on (`cache.key`).
    """
    key = cache.key(case=_plain(case), code=_code(), **determines)
    kept = folder / "cases" / f"{case.name.replace(' ', '-')}-{key}.json"
    if kept.exists():
        try:
            return [Row(**row) for row in results.read(kept)["rows"]]
        except DataError as error:
            cache.warn_of_damage(kept, error)
    measured = compute()
    results.write_json(kept, {"rows": [dataclasses.asdict(row) for row in measured]})
    return [
        Row(**row) for row in results.read(kept)["rows"]
    ]  # read back, so that a resumed run has the same rows


def _plain(case: Case) -> dict[str, Any]:
    """Returns the case for a cache key: a loss is replaced by its name."""
    options = {k: getattr(v, "__name__", v) for k, v in case.options.items()}
    return dataclasses.asdict(dataclasses.replace(case, options=options))


def _code() -> str:
    """Returns a hash of attacks_jax's code: the figures depend on it."""
    sha = hashlib.sha256()
    for file in sorted(Path(attacks_jax.__file__).parent.rglob("*.py")):
        sha.update(file.read_bytes())
    return sha.hexdigest()[:12]
