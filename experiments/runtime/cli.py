"""Parses command lines, checks folders, and ends programs with clear errors."""

import argparse
import contextlib
import errno
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

from experiments.runtime import cache, xla
from experiments.runtime.errors import DataError

Config = TypeVar("Config")
LEAST_ROOM = 2**24  # free bytes that a disk must have; any run needs more
GO_ON = "the same command goes on from what is in the cache"
# Remedies for system errors whose own message names none.
REMEDIES = {
    errno.ENOSPC: f"make room on that disk: {GO_ON}",
    errno.EDQUOT: f"make room under your quota: {GO_ON}",
    errno.EROFS: "name another folder",
    errno.EACCES: "give yourself the right to, or name another folder",
    errno.EPERM: "give yourself the right to, or name another folder",
    errno.ENOTDIR: "name another folder",
    errno.EEXIST: "name another folder",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "give a shorter name",
}


def parse(
    kind: type[Config],
    preset: Callable[..., Config],
    choices: Mapping[str, tuple[str, Sequence[Any]]],
    arguments: list[str] | None,
    *,
    prog: str,
    description: str | None,
) -> Config:
    """Returns the configuration of a command line: the preset, with the given options.

    Args:
      preset: makes the default configuration from the choices, in their order.
      choices: an option that selects the preset -> (its default, its allowed values).
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, (default, _) in choices.items():
        # tyro reports missing values and unknown options.
        early.add_argument(f"--{name}", default=default, nargs="?")
    chosen = vars(early.parse_known_args(arguments)[0])
    known = all(chosen[name] in values for name, (_, values) in choices.items())
    start = preset(*(chosen[name] for name in choices)) if known else kind()
    return tyro.cli(kind, args=arguments, default=start, prog=prog, description=description)


def prepare_folders(output_dir: Path, cache_dir: Path | None = None) -> None:
    """Checks that the folders are writable, before anything is computed.

    Also removes from the cache what killed programs left half-written.

    Raises:
      DataError: a folder can't be made or written to: a file in its place, a missing right, a full
        disk.
    """
    for option, folder in (("--output-dir", output_dir), ("--cache-dir", cache_dir)):
        if folder is not None:
            check_writable(option, folder)
    if cache_dir is not None:
        for pattern in (
            f"{cache.PARTIAL}*",
            f"*/{cache.PARTIAL}*",
        ):  # no deeper: others may own it
            cache.sweep(cache_dir, pattern)


def check_writable(option: str, folder: Path) -> None:
    """Makes the folder if it is missing; raises a DataError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(2**16))  # a quota may leave less room than the disk
        if shutil.disk_usage(folder).free < LEAST_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        is_file = os.path.exists(folder) and not os.path.isdir(folder)
        what = "it is no folder" if is_file else error.strerror or str(error)
        remedy = REMEDIES.get(error.errno or 0, "name another folder")
        raise DataError(f"can't write to {folder} ({option}): {what}; {remedy}") from error


@contextlib.contextmanager
def program() -> Iterator[None]:
    """Wraps every program's main.

    It sets XLA's flags and the allocator (`xla`). If the user has to act, it ends the process with
    one line, not with a traceback. An unexpected error keeps its traceback.
    """
    xla.tune_process()
    for log in ("absl", "asyncio"):
        logging.getLogger(log).addFilter(_is_unexpected)
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {GO_ON}")
    except BrokenPipeError:  # `| head`: avoid a second error when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        words = in_words(error)
        if words is None:
            raise
        sys.exit(f"error: {' '.join(words.splitlines())}")


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Returns whether to show a log record.

    Orbax's threads raise their errors and also log them with a traceback.
    """
    error = record.exc_info[1] if record.exc_info else None
    return error is None or in_words(error) is None


@contextlib.contextmanager
def blaming(what: str) -> Iterator[None]:
    """Names the options at fault when a library refuses a value.

    A ValueError that says what was expected becomes a DataError. Other ValueErrors pass.

        with cli.blaming("--cmag.*"):
            detectors.fit(...)
    """
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("expected"):
            raise
        raise DataError(f"{error}; change {what}") from error


def in_words(error: BaseException) -> str | None:
    """Returns the message for the user, or None if the user can't fix the error."""
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = REMEDIES.get(error.errno)
        return f"{where}{error.strerror or error}" + (f"; {remedy}" if remedy else "")
    full = os.strerror(errno.ENOSPC)
    if full in str(error):  # TensorStore's message contains it
        file = re.search('"(/[^"]+)"', str(error))
        where = f"{file[1].split(f'/{cache.PARTIAL}')[0]}: " if file else ""
        return f"{where}{full}; {REMEDIES[errno.ENOSPC]}"
    if isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    ):
        return (
            f"out of memory ({str(error)[:300] or 'no more to be had'}); ask for smaller networks"
            f" or batches, or for fewer images: {GO_ON}"
        )
    return None
