"""The prepared copy: as new as what it was made from, sound when read, whole or not there."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from experiments import datasets
from experiments.datasets import DataError, mnist
from tests.experiments.datasets import archives as made

ROOT = Path(__file__).parents[3]
LABELS = "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(name="archives")
def _archives(tmp_path):
    made.mnist(tmp_path / "manual" / "mnist")
    return tmp_path / "manual" / "mnist"


@pytest.fixture(name="copy")
def _copy(tmp_path):
    return tmp_path / "tfds" / "mnist" / "1.0.0"


@pytest.fixture(name="load")
def _load(tmp_path):
    return partial(
        datasets.load, "mnist", data_dir=tmp_path / "tfds", manual_dir=tmp_path / "manual"
    )


def files(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "tfds").rglob("*") if p.is_file()]


def test_a_changed_archive_is_prepared_anew_in_place_of_the_old(archives, copy, load, capsys):
    before = load()
    made.write_idx(archives / LABELS, 9 - np.arange(20) % 10)
    after = load()
    assert after.test.labels.tolist() == [9 - i % 10 for i in range(20)]
    assert before.digest != after.digest
    assert capsys.readouterr().out.count(f"preparing mnist in {copy}") == 2
    assert [p.name for p in copy.parent.iterdir()] == ["1.0.0"]


def test_archives_that_were_touched_copied_or_taken_away_in_part_change_nothing(
    archives, copy, load, capsys
):
    load()
    os.utime(archives / LABELS, (0, 0))
    load()
    (archives / LABELS).write_bytes(b"spoilt")
    (archives / "train-labels-idx1-ubyte.gz").unlink()
    load()
    assert capsys.readouterr().out.count("preparing") == 1


def test_an_archive_spoilt_later_is_an_error_and_the_copy_stays(archives, copy, load):
    before = load()
    (archives / LABELS).write_bytes(b"spoilt")
    with pytest.raises(DataError, match=rf"{LABELS} is truncated or corrupt"):
        load()
    shutil.rmtree(archives)
    assert load().digest == before.digest


@pytest.mark.parametrize("note", [None, "", "[]", "{}"])
def test_a_copy_of_which_it_isn_t_known_what_it_was_made_from_is_made_anew(
    archives, copy, load, capsys, note
):
    load()
    (copy / "sources.json").unlink()
    if note is not None:
        (copy / "sources.json").write_text(note)
    load()
    load()
    assert capsys.readouterr().out.count("preparing") == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("spoil", [cut, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize(
    "file", ["mnist-train.array_record-00000-of-00001", "features.json", "dataset_info.json"]
)
def test_a_damaged_copy_is_named_with_the_remedy_which_works(archives, copy, load, spoil, file):
    before = load()
    spoil(copy / file)
    if (copy / "dataset_info.json").exists():  # else it is no copy, and made anew
        with pytest.raises(DataError, match=r"1\.0\.0 is damaged \(.*\); delete it, and") as error:
            load()
        assert str(copy) in str(error.value) and "\n" not in str(error.value)
        shutil.rmtree(copy)
    assert load().digest == before.digest


def test_a_copy_with_labels_of_no_class_is_an_error(archives, load, monkeypatch):
    made.write_idx(archives / LABELS, np.arange(20))
    monkeypatch.setattr(mnist, "check_label", lambda label, *_: label)  # as nobody did before
    with pytest.raises(DataError, match="mnist has labels 0 to 19; expected 0 to 9"):
        load()


def test_a_copy_with_an_empty_split_is_an_error(archives, copy, load):
    load()
    info = json.loads((copy / "dataset_info.json").read_text())
    for split in info["splits"]:
        if split["name"] == "test":
            split["shardLengths"] = []
    (copy / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"1\.0\.0 is damaged \(its test split is empty\)"):
        load()


def test_a_data_folder_that_can_t_be_written_is_named_with_the_option(archives, tmp_path):
    (tmp_path / "tfds").write_text("a file, where a folder should be")
    command = [sys.executable, "-m", "experiments.prepare", "--dataset=mnist"]
    folders = [f"--data-dir={tmp_path}/tfds", f"--manual-dir={tmp_path}/manual"]
    run = subprocess.run([*command, *folders], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "Traceback" not in run.stderr
    (line,) = run.stderr.strip().splitlines()
    assert line.startswith(f"error: can't prepare mnist in {tmp_path}/tfds/mnist/1.0.0: ")
    assert "Not a directory" in line and "--data-dir" in line


@contextlib.contextmanager
def full_disk():
    """No file may grow above 10,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_runs_full_is_told_and_nothing_is_left(archives, tmp_path, load):
    with full_disk(), pytest.raises(DataError, match=r"can't prepare mnist.*Make room.*--data-dir"):
        load()
    assert files(tmp_path) == []
    assert len(load().test) == 20


def test_a_disk_that_runs_full_when_preparing_anew_leaves_the_old_copy(archives, copy, load):
    before = load()
    made.write_idx(archives / LABELS, 9 - np.arange(20) % 10)
    with full_disk(), pytest.raises(DataError, match="can't prepare mnist"):
        load()
    assert [p.name for p in copy.parent.iterdir()] == ["1.0.0"]
    shutil.rmtree(archives)
    assert load().digest == before.digest


def test_a_server_that_has_no_archives_is_told_with_the_remedy(tmp_path, load, monkeypatch):
    class Empty(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(mnist.Mnist, "URLS", {f: f"{address}/{f}" for f in mnist.FILES})
    with pytest.raises(DataError, match=r"can't be downloaded: .*404.*--manual-dir"):
        load()
    server.shutdown()
    server.server_close()
    assert files(tmp_path) == []
