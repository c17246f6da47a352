"""A hundred command lines that ask for what can't be.

Each has to end in words, before anything is trained. Printed: how many did, how many ended in a
traceback, how many in silence (exit status 0, as if all were well), and how many trained first.
"""

import contextlib
import json
import os
import runpy
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import cmag_jax._training
from experiments.victims import recipe, training
from tests.experiments.report.test_program import ROW

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# FILE is a file, DIR a folder, RUN a run folder, BROKEN one with a results.json that is none, and
# ODD one whose names look like markup.
LINES = """
cmag --seed=-1
cmag --seed=4294967296
cmag --seed=1099511627776
cmag --seed=18446744073709551616
cmag --seed=0.5
cmag --seed=nan
cmag --dataset=imagenet
cmag --dataset
cmag --dataset=[/bad]
cmag --preset=slow
cmag --systems
cmag --systems CMAG CMAG
cmag --systems CNAG
cmag --systems=[/bad]
cmag --fgsm-eps --cw-confidence
cmag --fgsm-eps=-1
cmag --fgsm-eps=nan
cmag --fgsm-eps=inf
cmag --fgsm-eps 0.1 0.1
cmag --cw-confidence=nan
cmag --cw-confidence=-1
cmag --fgsm-images=0
cmag --cw-images=-1
cmag --other-images=-1
cmag --slow-images=0
cmag --hardened-images=0
cmag --attack-batch=0
cmag --attack-batch=99999999999
cmag --victim.learning-rate=1e30
cmag --victim.learning-rate=nan
cmag --victim.learning-rate=-1
cmag --victim.learning-rate=2
cmag --victim.epochs=0
cmag --victim.epochs=99999999999
cmag --victim.channels
cmag --victim.channels 0 4
cmag --victim.channels 1000000000
cmag --victim.channels 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4
cmag --victim.convolutions=1000000000
cmag --victim.dense=1000000000
cmag --victim.dropout=1
cmag --victim.dropout=nan
cmag --victim.max-shift=-1
cmag --victim.max-shift=1000000000
cmag --victim.batch-size=0
cmag --cmag.learning-rate=1e30
cmag --cmag.learning-rate=nan
cmag --cmag-plus.learning-rate=inf
cmag --cmag.final-rate=1e30
cmag --cmag.mu-gr=2
cmag --cmag.mu-gr=nan
cmag --cmag.scores
cmag --cmag.scores ssim ssim
cmag --cmag.scores beauty
cmag --cmag.gr-width=1000000000
cmag --cmag.fmr-epochs=0
cmag --cmag.temperature=0
cmag --magnet.width=0
cmag --magnet.learning-rate=1e30
cmag --magnet.temperatures nan
cmag --defense-gan.restarts=0
cmag --defense-gan.latent-size=1000000000
cmag --defense-gan.learning-rate=nan
cmag --feature-squeezing.bits 0
cmag --feature-squeezing.bits --feature-squeezing.medians
cmag --cw.num-steps=0
cmag --cw.step-size=nan
cmag --cw.binary-search-steps=0
cmag --cw.initial-const=-1
cmag --output-dir=FILE
cmag --output-dir=FILE/run
cmag --output-dir=/proc/run
cmag --output-dir=/dev/null
cmag --output-dir=LONG
cmag --cache-dir=/dev/null
cmag --cache-dir=FILE
cmag --cache-dir=/sys/cache
cmag --dataset=mnist --data-dir=FILE --manual-dir=DIR
cmag --dataset=mnist --data-dir=DIR --manual-dir=FILE
cmag --dataset=mnist --data-dir=/proc/x --manual-dir=DIR
cmag --no-such-option
cmag word
adaptive --seed=4294967296
adaptive --system
adaptive --system CMAG CMAG
adaptive --system=[/bad]
adaptive --eps
adaptive --eps 0.2 0.1
adaptive --eps nan
adaptive --eps 0.1 inf
adaptive --wide-eps 0
adaptive --confidence nan
adaptive --confidence=-1
adaptive --confidence 9 9
adaptive --margin=nan
adaptive --margin=-1
adaptive --step-size=nan
adaptive --images=0
adaptive --batch=0
adaptive --search-steps=0
adaptive --steps=99999999999
adaptive --cache-dir=/dev/null
adaptive --output-dir=FILE
spt --seed=-1
spt --table=III
spt --table=[/bad]
spt --target=10
spt --target=-1
spt --images=0
spt --images=-5
spt --untrained-seeds=0
spt --untrained-seeds=1000
spt --length=0
spt --length=1000000000
spt --patience=-1
spt --threshold-db=nan
spt --threshold-db=inf
spt --steps=0
spt --step-size=nan
spt --step-size=-1
spt --jsma-theta=0
spt --jsma-theta=inf
spt --chunk=0
spt --faces.attacks
spt --faces.fpr=1
spt --faces.fpr=nan
spt --faces.patch-size=1000
spt --faces.patch-size=0
spt --faces.fgsm-eps=nan
spt --faces.epochs=-1
spt --faces.face-size 0 0
spt --faces.ami.pairs=0
spt --faces.ami.gain=nan
spt --table=IX --faces.face-size 100000 100000 --manual-dir=DIR --data-dir=DIR
spt --cache-dir=/dev/null
spt --output-dir=FILE
ssim_autoencoder --seed=4294967296
ssim_autoencoder --eps
ssim_autoencoder --eps 2
ssim_autoencoder --eps nan
ssim_autoencoder --learning-rate=nan
ssim_autoencoder --images=0
ssim_autoencoder --cache-dir=/dev/null
ssim_autoencoder --output-dir=FILE
benchmark
benchmark speed
benchmark attacks --dataset=gtsrb
benchmark detectors --dataset=cifar10
benchmark attacks --dataset=digits --only FGMS
benchmark attacks --dataset=digits --only FGSM FGSM
benchmark attacks --dataset=digits --images=0
benchmark attacks --dataset=digits --repeats=0
benchmark attacks --dataset=digits --most-steps=0
benchmark attacks --dataset=digits --peer-limit=nan
benchmark detectors --dataset=digits --batches
benchmark detectors --dataset=digits --batches 0
benchmark detectors --dataset=digits --batches 1000000000
benchmark attacks --dataset=digits --cache-dir=/dev/null
benchmark spt --dataset=digits --output-dir=FILE
parity --seed=-1
parity --only [/bad]
parity --images=0
parity --output-dir=FILE
parity --cache-dir=/dev/null
rounding --only FGMS
rounding --images=0
rounding --output-dir=FILE
attack_gallery --images=0
attack_gallery --images=-1
attack_gallery --images=1000000000
attack_gallery --output-dir=FILE
victims.zoo
victims.zoo cifar10-alexnet
victims.zoo cifar10-resnet cifar10-resnet
victims.zoo cifar10-resnet --seed=4294967296
victims.zoo cifar10-resnet --epochs=0
victims.zoo cifar10-resnet --seconds=nan
victims.zoo cifar10-resnet --seconds=-1
victims.zoo cifar10-resnet --attacked-images=-1
victims.zoo cifar10-resnet --output-dir=FILE
victims.zoo cifar10-resnet --evaluate --output-dir=DIR --cache-dir=DIR
prepare
prepare --dataset=digits
prepare --dataset=mnist --face-size 8 8
prepare --dataset=orl_faces --face-size 0 8 --manual-dir=DIR --data-dir=DIR
prepare --dataset=orl_faces --manual-dir=DIR --data-dir=DIR
prepare --dataset=mnist --manual-dir=DIR --data-dir=FILE
prepare --dataset=mnist --manual-dir=FILE --data-dir=DIR
full_run --minutes=nan
full_run --minutes=-1
full_run --minutes=inf
full_run --at-once=0
full_run --seeds
full_run --seeds 0 0
full_run --seeds=-1
full_run --datasets mnist mnist
full_run --datasets --spt-tables --no-benchmarks
full_run --runs-dir=FILE
full_run --runs-dir=DIR --collect-dir=FILE
report
report NOWHERE
report FILE
report BROKEN
report RUN --only cmag/99
report RUN --systems [/bad]
report RUN --only extra/auroc extra/auroc
refresh
refresh NOWHERE
refresh DIR
refresh BINARY
adaptive.figures RUN --output=DIR/a.png
adaptive.figures BROKEN --output=DIR/a.png
adaptive.figures --output=DIR/a.png
adaptive.figures RUN --output=DIR/a.xyz
""".strip().splitlines()
# Lines that are right: they get as far as the training, or, without one, to their end.
RIGHT = {
    "cmag --seed=4294967295": "trained first",
    "adaptive --system CMAG": "trained first",
    "spt --table=VII": "trained first",
    "ssim_autoencoder": "trained first",
    "benchmark attacks --dataset=digits": "trained first",
    "report RUN ODD": "silent",
    "report RUN ODD --markdown": "silent",
}


class Trained(BaseException):
    """Raised where a program would begin to train."""


@pytest.fixture(name="places")
def _places(tmp_path, monkeypatch):
    """What stands in a line -> the path that is meant."""
    places = {name: tmp_path / name.lower() for name in ("FILE", "DIR", "NOWHERE", "BINARY")}
    places["FILE"].write_text("a file")
    places["BINARY"].write_bytes(bytes([255, 254, 0, 128]))
    places["DIR"].mkdir()
    odd = ROW | {"system": "[/bad]", "dataset": ":smile: [bold]", "attack": "a|b [red"}
    for name, text in (
        ("RUN", json.dumps({"rows": [ROW]})),
        ("ODD", json.dumps({"rows": [odd]})),
        ("BROKEN", '{"rows": [{"table": 3}]}'),
    ):
        places[name] = tmp_path / name.lower()
        places[name].mkdir()
        (places[name] / "results.json").write_text(text)
    places["LONG"] = tmp_path / ("x" * 300)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return {name: str(path) for name, path in places.items()}


def words_of(line: str, places: dict[str, str]) -> list[str]:
    words = shlex.split(line)
    for name, path in places.items():
        words = [word.replace(name, path) if name in word else word for word in words]
    return words


def ending(words: list[str], capsys, monkeypatch) -> tuple[str, str]:
    """How a program ends in this process, and what it said."""
    monkeypatch.setattr(sys, "argv", list(words))
    try:
        runpy.run_module(f"experiments.{words[0]}", run_name="__main__", alter_sys=True)
        code: object = 0
    except SystemExit as end:
        code = end.code
    except Trained:
        return "trained first", ""
    except BaseException as error:
        return "traceback", repr(error)[:300]
    out, err = capsys.readouterr()
    said = code if isinstance(code, str) else err
    if code in (0, None):
        return "silent", out
    return ("in words" if said.strip() and "Traceback" not in said else "riddle"), said


def test_no_line_ends_in_silence_or_a_riddle(places, capsys, monkeypatch):
    def train(*_, **__):
        raise Trained

    for module, name in ((training, "_train"), (recipe, "train"), (cmag_jax._training, "train")):
        monkeypatch.setattr(module, name, train)
    for line, expected in RIGHT.items():
        assert ending(words_of(line, places), capsys, monkeypatch)[0] == expected, line
    found, wrong = Counter(), {}
    for line in LINES:
        kind, said = ending(words_of(line, places), capsys, monkeypatch)
        found[kind] += 1
        if kind != "in words":
            wrong[line] = (kind, said)
    with capsys.disabled():
        print(f"\n{len(LINES)} command lines: {dict(found)}")
        for line, (kind, said) in wrong.items():
            print(f"{kind}: {line}: {said}")
    assert not wrong


TINY = (
    "--victim.channels 2 4 --victim.epochs=9 --cmag.fmr-epochs=1 --cmag.lr-epochs=1"
    " --cmag.gr-epochs=1 --cmag.fmr-width=4 --cmag.gr-width=8 --systems CMAG --fgsm-eps 0.2"
    " --cw-confidence --fgsm-images=5 --attack-batch=5"
)


def start(line: str, places: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", *words_of(f"experiments.{line}", places)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)


def run(line: str, places: dict[str, str]) -> subprocess.CompletedProcess:
    process = start(line, places)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(line, process.returncode, out, err)


@contextlib.contextmanager
def small_disk(folder: Path, size: str):
    """A disk of that size, where this machine lets us have one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def is_said(process: subprocess.Popen) -> None:
    """That the program ended with a line on the full disk."""
    _, err = process.communicate(timeout=300)
    # TensorStore, whose writes failed, may say so once more to an event loop that has ended.
    assert err.count("Traceback") == err.count("RuntimeError: Event loop is closed"), err
    (said,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert process.returncode == 1 and "No space left on device; make room" in said


@pytest.mark.parametrize("size", ["64k", "1m", "8m"])
@pytest.mark.parametrize("option", ["--output-dir", "--cache-dir"])
def test_a_disk_without_room_is_said_before_anything_is_trained(places, tmp_path, option, size):
    with small_disk(tmp_path / "disk", size):
        other = "--cache-dir" if option == "--output-dir" else "--output-dir"
        line = f"cmag {option}={tmp_path / 'disk' / 'x'} {other}={tmp_path / 'other'}"
        done = run(line, places)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "No space left on device; make room" in done.stderr


@pytest.mark.parametrize("reached", ["victim-*/1", "victim-*/8", "cmag-*-fmr.npz", "attack-*"])
def test_a_disk_that_fills_up_meanwhile_is_said_in_a_line(places, tmp_path, reached):
    disk = tmp_path / "disk"
    with small_disk(disk, "20m"):
        process = start(f"cmag {TINY} --cache-dir={disk / 'x'} --output-dir={disk / 'run'}", places)
        while process.poll() is None and not list((disk / "x").glob(reached)):
            time.sleep(0.01)
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        is_said(process)


@pytest.mark.parametrize("line", ["report BROKEN", "cmag --seed=-1", "cmag --cache-dir=/dev/null"])
def test_a_process_of_its_own_ends_likewise(places, line):
    done = run(line, places)
    assert done.returncode in (1, 2) and done.stderr.strip() and "Traceback" not in done.stderr


def test_names_that_look_like_markup_are_printed_as_they_are(places):
    printed = run("report ODD", places).stdout
    assert "[/bad]" in printed and ":smile: [bold]" in printed and "a|b [red" in printed
    assert r"a\|b [red" in run("report ODD --markdown", places).stdout
