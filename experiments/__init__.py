"""Programs: data, victims, training, tables and figures around the three libraries.

Commands are at the top; below them `pipeline` (detectors and attacks, fitted, run and kept),
`report` (results as tables, pages and pictures), `victims`, `datasets` and `runtime`.
"""

import importlib
import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    """`experiments.detector` is now `experiments.pipeline.detector_io`."""
    if name == "detector":
        warnings.warn(
            "experiments.detector is now experiments.pipeline.detector_io",
            DeprecationWarning,
            stacklevel=2,
        )
        return importlib.import_module("experiments.pipeline.detector_io")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
