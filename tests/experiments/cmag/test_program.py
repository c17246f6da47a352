"""`python -m experiments.cmag`, end to end, on real digits."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cmag import config as cmag_config
from experiments.cmag import defaults
from experiments.pipeline import attack_runs, detector_io, detectors
from tests.experiments.tiny_runs import ROOT, finish, kept_compilations, rows, start, wait_for

SYSTEMS = ("CMAG", "CMAG+")  # by default


def of(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in rows))


@pytest.fixture(scope="module", autouse=True, name="compiled")
def _compiled(tmp_path_factory):
    with kept_compilations(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    out, _ = finish(start(folder))
    return folder, out


def test_it_leaves_a_whole_run_folder(finished):
    folder, out = finished
    run = folder / "run"
    assert {p.name for p in run.iterdir()} == {
        "config.json", "results.json", "report.html", "figures", "detectors",
    }  # fmt: skip
    assert "tpr@fpr=0.05" in out and "report.html" in out
    html = (run / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(list((run / "figures").iterdir())) == 9
    assert not re.search(r'(src|href)="(?!data:)', html)  # self-contained
    document = json.loads((run / "results.json").read_text())
    assert document["config"]["cmag"]["gr_width"] == 32
    assert {"git", "versions", "device", "seconds"} <= set(document["provenance"])
    assert {"victim", "fit CMAG+", "attack", "compile", "total"} <= set(
        document["provenance"]["seconds"]
    )


def test_it_gives_every_row_that_the_tables_ask_for(finished):
    folder, _ = finished
    by_metric = {}
    for row in rows(folder):
        assert set(row) == {
            "table", "dataset", "system", "attack", "strength", "metric", "value", "n", "paper",
        }  # fmt: skip
        assert np.isfinite(row["value"]) and row["n"] > 0
        by_metric.setdefault((row["table"], row["metric"]), []).append(row)
    for attacked in (
        ("extra/detection", "detection_rate@paper"),
        ("extra/detection", "tpr@fpr=0.05"),
        ("extra/detection", "tpr@fpr=0.01"),
        ("extra/auroc", "auroc"),
        ("extra/attack", "attack_success_rate"),
    ):
        attacks = {s: [r["attack"] for r in by_metric[attacked] if r["system"] == s] for s in of(
            by_metric[attacked])}  # fmt: skip
        assert set(attacks) == ({"victim"} if attacked[0] == "extra/attack" else set(SYSTEMS))
        assert all(names == ["FGSM", "CW-l2"] for names in attacks.values()), attacked
    assert (
        "extra/fpr",
        "fpr@fpr=0.001",
    ) not in by_metric  # of 259 held-out images none is to be had
    for rule in ("paper", "fpr=0.05", "fpr=0.01"):
        found = [(r["system"], r["attack"]) for r in by_metric["extra/fpr", f"fpr@{rule}"]]
        kinds = ("none", "noise", "noise", "noise", "misclassified")
        assert found == [(s, kind) for s in SYSTEMS for kind in kinds]
    whole_test_set = by_metric["extra/fpr", "fpr@paper"][0]
    assert whole_test_set["attack"] == "none" and whole_test_set["n"] == 500
    for table, metric in (("cmag/6", "mean_ssim"), ("cmag/7", "mean_l2")):
        assert [r["attack"] for r in by_metric[table, metric]] == ["none", "FGSM", "CW-l2"] * 2
    for decision in ("any", "rarity"):
        found = by_metric["extra/decision", f"flagged:{decision}@fpr=0.05"]
        kinds = ("none", "FGSM", "CW-l2")
        assert [(r["system"], r["attack"]) for r in found] == [
            (s, k) for s in SYSTEMS for k in kinds
        ]
    clean, *attacked = by_metric["extra/let-through", "accuracy_all@fpr=0.05"][:3]
    assert clean["attack"] == "none" and {r["attack"] for r in attacked} <= {"FGSM", "CW-l2"}


@pytest.mark.slow  # The same seed: below too, of a run that was killed.
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(finished, tmp_path):
    folder, _ = finished
    again, other = tmp_path / "again", tmp_path / "other"
    for process in (start(again), start(other, "--seed=1")):
        finish(process)
    assert rows(again) == rows(folder)
    assert rows(other) != rows(folder)


@pytest.mark.slow
def test_what_is_compiled_anew_gives_the_same_rows(finished, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    finish(start(tmp_path))
    assert rows(tmp_path) == rows(finished[0])


@pytest.mark.parametrize(
    "stage",
    [
        pytest.param("victim-*/[0-9]", marks=pytest.mark.slow),
        "cmag-*-fmr.npz",
        pytest.param("attack-CW*/000000.npz", marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_stage_it_goes_on_and_ends_the_same(finished, tmp_path, stage):
    process = start(tmp_path)
    reached = wait_for(process, tmp_path, stage)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "run" / "results.json").exists()
    before = reached.stat() if reached.exists() else None
    _, err = finish(start(tmp_path))
    # It went on with what there was, and did not start over.
    if stage.startswith("victim"):
        assert "victim" in err and not re.search(r"victim.*\b0/30\b", err)
    else:
        assert "victim" not in err
        after = reached.stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert rows(tmp_path) == rows(finished[0])


def test_ctrl_c_says_how_to_go_on(tmp_path):
    process = start(tmp_path)
    wait_for(process, tmp_path, "victim-*/[0-9]")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "interrupted: the same command goes on" in err and "Traceback" not in err


def test_a_second_run_computes_nothing_again(finished, tmp_path):
    folder, _ = finished
    stamps = {p: p.stat().st_mtime_ns for p in (folder / "cache").rglob("*") if p.is_file()}
    before = rows(folder)
    _, err = finish(start(folder))
    assert "fit" not in err and "victim" not in err
    assert rows(folder) == before
    assert stamps == {p: p.stat().st_mtime_ns for p in (folder / "cache").rglob("*") if p.is_file()}


def test_the_saved_detector_decides_as_the_run_did(finished):
    from cmag_jax import cmag
    from experiments import datasets

    folder, _ = finished
    images = datasets.load("digits").test.images
    for system in SYSTEMS:
        victim, params, thresholds = detector_io.load(folder / "run", system)
        scores = cmag.score(victim, params, images)
        for rule in ("paper", "fpr=0.05", "fpr=0.01"):
            flagged = float(np.mean(cmag.detect(scores, thresholds[rule])))
            row = next(
                r for r in rows(folder) if (r["metric"], r["system"]) == (f"fpr@{rule}", system)
            )
            assert flagged == pytest.approx(row["value"], abs=1e-6)
    with pytest.raises(FileNotFoundError, match=r"holds no detectors/CMAG\+"):
        detector_io.load(folder)


@pytest.mark.parametrize("dataset", defaults.DATASETS)
@pytest.mark.parametrize("name", ["quick", "paper"])
def test_presets_are_what_the_command_line_starts_from(dataset, name):
    parsed = cmag_config.parse([f"--dataset={dataset}", f"--preset={name}", "--cmag.mu-gr=0.25"])
    expected = cmag_config.preset(name, dataset)
    changed = dataclasses.replace(expected.cmag, mu_gr=0.25)
    assert parsed == dataclasses.replace(expected, cmag=changed)


def test_the_paper_preset_is_the_paper_s():
    config = cmag_config.preset("paper", "mnist")
    assert config.cmag.batch_size == 2000 and config.attack_batch == 200
    assert config.cmag.learning_rate == 1e-3 and config.cmag.temperature == 1 / 1000
    assert config.cmag.mu_fmr == config.cmag.mu_lr == config.cmag.mu_gr == 0.5
    assert [(s.name, s.strength) for s in cmag_config.specs(config)] == [
        ("FGSM", 0.1), ("FGSM", 0.2), ("FGSM", 0.3),
        ("CW-l2", 0), ("CW-l2", 9), ("CW-l2", 19), ("CW-l2", 29),
    ]  # fmt: skip


def test_a_detector_saved_on_one_device_loads_on_another(tmp_path):
    """As one that a GPU fitted does on a machine without."""
    from experiments.runtime import checkpoints

    code = (
        "import jax, sys; from pathlib import Path;"
        "from experiments.runtime import checkpoints;"
        "tree = {'w': jax.device_put(jax.numpy.arange(3.0), jax.devices()[3])};"
        "checkpoints.save(Path(sys.argv[1]), tree)"
    )
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    command = [sys.executable, "-c", code, str(tmp_path / "tree")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    loaded = checkpoints.load(tmp_path / "tree", {"w": np.zeros(3, np.float32)})
    np.testing.assert_array_equal(loaded["w"], [0, 1, 2])


def test_no_images_to_attack_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="cw_images of at least 1, got 0"):
        cmag_config.Config(cw_images=0)


@pytest.mark.parametrize(
    "option",
    [
        "--fgsm-eps=-1",
        "--cw.num-steps=0",
        "--victim.epochs=0",
        "--victim.dropout=1",
        "--cmag.mu-gr=2",
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused_before_anything_runs(option, capsys):
    with pytest.raises(SystemExit):
        cmag_config.parse([option])
    assert "expected" in capsys.readouterr().err


def test_no_strengths_leave_an_attack_out():
    config = dataclasses.replace(cmag_config.Config(), cw_confidence=())
    assert {spec.name for spec in cmag_config.specs(config)} == {"FGSM"}


@pytest.mark.parametrize("option", ["--dataset=imagenet", "--preset=slow", "--cmag.mu-gr=half"])
def test_a_wrong_option_is_explained(option, capsys):
    with pytest.raises(SystemExit):
        cmag_config.parse([option])
    assert option.split("=")[0] in capsys.readouterr().err


def test_a_data_set_that_is_not_there_is_one_line_within_seconds(tmp_path):
    places = [f"--data-dir={tmp_path / 'tfds'}", f"--manual-dir={tmp_path / 'manual'}"]
    (tmp_path / "manual" / "gtsrb").mkdir(parents=True)
    (tmp_path / "manual" / "gtsrb" / "GTSRB_Final_Test_GT.zip").touch()
    _, err = start(tmp_path, "--dataset=gtsrb", *places).communicate(timeout=60)
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "GTSRB_Final_Training_Images.zip" in err and "Traceback" not in err


def test_runs_side_by_side(finished):
    folder, _ = finished

    def report(*runs: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "experiments.report", *map(str, runs), "--markdown"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    printed = report(folder / "run").stdout
    assert "**extra/detection**" in printed and "| FGSM 0.2 | CW-l2 1 |" in printed
    # Two runs of one data set are told apart by their folders.
    other = folder / "another"
    shutil.copytree(folder / "run", other)
    printed = report(folder / "run", other).stdout
    assert "| digits (run) |" in printed and "| digits (another) |" in printed
    missing = report(folder / "nowhere")
    assert missing.returncode == 1 and "does not exist" in missing.stderr


@pytest.mark.parametrize("name", ["quick", "paper"])
@pytest.mark.parametrize("dataset", ["digits", "mnist", "fashion_mnist", "gtsrb"])
def test_the_presets_victims_are_small_networks(name, dataset):
    """Two blocks of one convolution, a hidden layer, the logits: not the 384 convolutions that a
    number in the wrong place once asked for."""
    victim = cmag_config.preset(name, dataset).victim
    side, channels, classes = (32, 3, 43) if dataset == "gtsrb" else (28, 1, 10)
    images = jnp.zeros((1, side, side, channels))
    weights = jax.eval_shape(victim.make(classes).init, jax.random.key(0), images)["params"]
    assert set(weights) == {"conv1", "feature_maps", "hidden", "logits"}


@pytest.mark.slow
def test_all_systems_with_all_that_is_asked_of_them(tmp_path):
    small = [
        "--systems=all", "--other-images=2", "--hardened-images=3", "--slow-images=20",
        "--magnet.epochs=1", "--defense-gan.epochs=1", "--defense-gan.generator-width=4",
        "--defense-gan.critic-width=4", "--defense-gan.search-steps=5", "--defense-gan.restarts=2",
    ]  # fmt: skip
    finish(start(tmp_path, *small))
    found = rows(tmp_path)
    assert of([r for r in found if r["table"] == "extra/detection"]) == list(detectors.NAMES)
    tables = {row["table"] for row in found}
    assert {
        "extra/other-attacks",
        "extra/theorem1",
        "extra/ablation",
        "extra/let-through",
    } <= tables
    of_hardened = [r for r in found if r["table"] == "extra/adversarial-training"]
    assert of(of_hardened) == ["victim", "adversarial training"]
    ablated = of([r for r in found if r["table"] == "extra/ablation"])
    assert ablated == ["CMAG", "CMAG, weighted average", "CMAG+"]
    figures = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"figure-2.png", "figure-3-fgsm.png", "figures-4-to-6-fgsm.png"} <= figures
    # Attacks of all kinds were made, and whoever had a success is in the table.
    made = {r["attack"] for r in found if r["metric"] == "attack_success_rate"}
    assert made == set(attack_runs.MAKERS)
