"""Programs end in one line where the user has to act, and see to it before anything is trained."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import datasets
from experiments.cmag import __main__ as cmag
from experiments.cmag import config as cmag_config
from experiments.datasets import DataError
from experiments.runtime import cache, cli

ROOT = Path(__file__).parents[3]


def ended(error: BaseException) -> str:
    """What a program prints that ends with the error."""
    with pytest.raises(SystemExit) as end, cli.program():
        raise error
    return str(end.value.code)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DataError("x.gz is\ndamaged"), "error: x.gz is damaged"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a.npz"), "/runs/a.npz: No space"),
        (PermissionError(errno.EACCES, "Permission denied", "/runs/a"), "give yourself the right"),
        (OSError(errno.EROFS, "Read-only file system", "/runs/a"), "name another folder"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a"), "error: /a: No such"),
        (MemoryError("Unable to allocate 120. GiB"), "out of memory (Unable to allocate 120. GiB)"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "error: out of memory"),
        (
            ValueError(
                'RESOURCE_EXHAUSTED: Error writing "w/0" at local file "/runs/v/.partial-1/2/tree":'
                " Failed to write 9 bytes: No space left on device [os_error_code='28']"
            ),
            "error: /runs/v: No space left on device; make room on that disk",
        ),
        (KeyboardInterrupt(), "interrupted: the same command goes on"),
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(error, told):
    said = ended(error)
    assert told in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        TypeError("unhashable type: 'list'"),
        ValueError("expected images (B, H, W, C), got none"),
        OSError("of somebody's library, without a number"),
        jax.errors.JaxRuntimeError("INTERNAL: no kernel"),
    ],
)
def test_what_nobody_expected_keeps_its_traceback(error):
    with pytest.raises(type(error)), cli.program():
        raise error


def test_what_threads_log_is_not_shown_where_it_is_said_in_words(caplog):
    log = logging.getLogger("absl")
    for error in (OSError(errno.ENOSPC, "No space left on device"), TypeError("a bug")):
        with cli.program():
            try:
                raise error
            except (OSError, TypeError):
                log.exception("in a thread")
    assert [record.exc_info[0] for record in caplog.records] == [TypeError]


def test_a_library_that_refuses_what_it_is_given_is_heard_with_the_options_at_fault():
    refused = pytest.raises(DataError, match=r"got NaN; change --cmag\.contrast")
    with refused, cli.blaming("--cmag.contrast"):
        raise ValueError("expected finite losses, got NaN")


@pytest.mark.parametrize("option", ["--output-dir", "--cache-dir"])
@pytest.mark.parametrize("place", ["file", "file/below", "/dev/null", "/proc/none", "x" * 300])
def test_folders_that_can_t_be_are_refused(tmp_path, option, place):
    (tmp_path / "file").write_text("")
    folders = {"--output-dir": tmp_path / "run", "--cache-dir": tmp_path / "cache"}
    folders[option] = tmp_path / place
    with pytest.raises(DataError, match=f"can't write to .* \\({option}\\)") as error:
        cli.prepare_folders(folders["--output-dir"], folders["--cache-dir"])
    assert str(tmp_path / place) in str(error.value)


@pytest.mark.parametrize("of", ["quota", "disk"])
def test_a_disk_without_room_is_seen_before_anything_is_trained(tmp_path, monkeypatch, of):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if of == "quota":
        monkeypatch.setattr(cli.tempfile, "TemporaryFile", full)
    else:
        usage = shutil.disk_usage(tmp_path)._replace(free=cli.LEAST_ROOM - 1)
        monkeypatch.setattr(cli.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="No space left on device; make room"):
        cli.prepare_folders(tmp_path / "run")


def test_what_killed_programs_left_is_swept_from_the_cache_alone(tmp_path):
    left = [tmp_path / ".partial-a", tmp_path / "attack-1" / ".partial-b"]
    others = [tmp_path / "mine" / "deep" / ".partial-c", tmp_path / "mine" / "partial"]
    for folder in (*left, *others):
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    cli.prepare_folders(tmp_path / "run", tmp_path)
    assert not any(folder.exists() for folder in left)
    assert all(folder.exists() for folder in others)
    assert cache.PARTIAL == ".partial-"


def test_folders_are_seen_to_before_the_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda *_, **__: pytest.fail("it has begun"))
    config = cmag_config.Config(output_dir=tmp_path / "run", cache_dir=Path("/dev/null"))
    with pytest.raises(DataError, match=r"can't write to /dev/null \(--cache-dir\)"):
        cmag.main(config)


@pytest.mark.parametrize("module", ["report", "refresh", "adaptive.figures"])
def test_every_program_ends_in_a_line(tmp_path, module):
    """Of a file that is none of what it reads; those that train are in tests/campaign."""
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    command = [sys.executable, "-m", f"experiments.{module}", str(tmp_path / "x")]
    if module == "adaptive.figures":
        command.append(f"--output={tmp_path / 'x.png'}")
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and str(tmp_path / "x") in run.stderr
    assert len(run.stderr.splitlines()) == 1
