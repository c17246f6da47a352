"""Experiments with the three libraries: data sets, victims, training, tables and figures.

Commands are at the top. Below them are `pipeline` (fits detectors, runs attacks, caches both),
`report` (results as tables, pages and pictures), `victims`, `datasets` and `runtime`.
"""

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """Redirects the old name `experiments.detector`, with a DeprecationWarning."""
    if name == "detector":
        warnings.warn(
            "experiments.detector is now experiments.pipeline.detector_io",
            DeprecationWarning,
            stacklevel=2,
        )
        return importlib.import_module("experiments.pipeline.detector_io")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
