"""What the README promises holds: its example runs, its commands are the ones CI runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import refresh

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


@pytest.fixture(scope="module", name="run_folder")
def _run_folder(tmp_path_factory):
    """The default command, as the README has it but for where it writes and how long it takes, and
    for CMAG, which no example loads."""
    folder = tmp_path_factory.mktemp("readme")
    shorter = ["--systems=CMAG+", "--cw-images=10", "--fgsm-images=100", "--victim.epochs=10"]
    shorter += ["--cmag-plus.fmr-epochs=15", "--cmag-plus.gr-epochs=10"]
    command = [sys.executable, "-m", "experiments.cmag", *shorter]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


def test_the_example_of_ten_lines_runs_as_it_stands(run_folder, monkeypatch):
    (example,) = [b for b in blocks("python") if "detector_io.load" in b]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(run_folder)
    names: dict = {}
    exec(example, names)
    assert np.asarray(names["flags"]).dtype == bool
    assert np.mean(names["flags"]) < 0.2  # clean digits


def test_the_other_examples_run_as_they_stand(run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)
    for example in blocks("python"):
        exec(example, {})


@pytest.mark.parametrize("document", DOCUMENTS[1:], ids=lambda path: path.name)
def test_the_examples_of_the_documents_run_as_they_stand(document):
    for example in blocks("python", document.read_text()):
        exec(example, {})


def test_ci_runs_the_readme_s_test_command():
    (command,) = [b.strip() for b in blocks("sh") if "-m pytest" in b and "slow" not in b]
    steps = command.split(" && ")
    script = (ROOT / ".ci" / "run").read_text()
    for step in steps[1:]:
        assert step.replace(".venv/bin/", '"$venv"/bin/') in script


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_are_what_the_command_beside_them_prints(document, monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = list(refresh.TABLES.finditer(document.read_text()))
    assert shown
    for found in shown:
        assert found[3].strip() == refresh.printed(found[2])


def test_every_number_s_source_is_committed():
    """Every results folder that README or docs name holds a results.json."""
    for file in DOCUMENTS:
        for folder in re.findall(r"results/[a-z0-9_-]+", file.read_text()):
            assert (ROOT / folder / "results.json").is_file(), f"{file.name}: {folder}"
