"""`python -m experiments.cmag` as small as it gets, in a process of its own."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Small enough for a test; every stage is there.
TINY = [
    "--victim.channels", "4", "8", "--victim.epochs=3", "--victim.batch-size=100",
    "--cmag.fmr-epochs=2", "--cmag.lr-epochs=1", "--cmag.gr-epochs=2", "--cmag.fmr-width=8",
    "--cmag.gr-width=32", "--cmag-plus.fmr-epochs=2", "--cmag-plus.lr-epochs=1",
    "--cmag-plus.gr-epochs=2", "--cmag-plus.fmr-width=8", "--cmag-plus.gr-width=32",
    "--fgsm-eps", "0.2", "--cw-confidence", "1", "--fgsm-images=40",
    "--cw-images=30", "--attack-batch=20", "--cw.num-steps=40", "--cw.binary-search-steps=2",
]  # fmt: skip


@contextlib.contextmanager
def kept_compilations(folder: Path) -> Iterator[None]:
    """The programs started inside keep what XLA compiled in the folder: it is the same for all of
    them, and takes most of their time."""
    kept = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in kept.items():
            patch.setenv(name, value)
        yield


def start(folder: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.cmag", *TINY, *options]
    places = [f"--output-dir={folder / 'run'}", f"--cache-dir={folder / 'cache'}"]
    pipe = subprocess.PIPE
    with heeding_ctrl_c():
        return subprocess.Popen([*command, *places], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


@contextlib.contextmanager
def heeding_ctrl_c():
    """What a shell runs in the background inherits that SIGINT is ignored, and so would a program
    that is started from it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def finish(process: subprocess.Popen) -> tuple[str, str]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return out, err


def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "run" / "results.json").read_text())["rows"]


def wait_for(process: subprocess.Popen, folder: Path, pattern: str) -> Path:
    """The first file that matches, as soon as it is there."""
    while process.poll() is None:
        for found in (folder / "cache").glob(pattern):
            return found
        time.sleep(0.01)
    raise AssertionError(f"it ended before there was a {pattern}")
