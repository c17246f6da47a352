"""Documents' tables are made anew, and nothing else is touched."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import refresh

ROOT = Path(__file__).parents[2]


TABLE = (
    "**cmag/3**\n\n| dataset | system | metric | FGSM 0.1 | n |\n"
    "| --- | --- | --- | --- | --- |\n| mnist | CMAG | auroc | 0.500 | 9 |"
)
PARAGRAPHS = ("**Words** | with a bar.\n\n```sh\nls\n```\n", "Words.\n")


@pytest.mark.parametrize("after", PARAGRAPHS)
@pytest.mark.parametrize("before", ["**cmag/3**\n\n| old |\n\n", "| old |\n| old |\n\n", ""])
def test_tables_are_made_anew_and_the_rest_is_left(tmp_path, before, after):
    row = {"table": "cmag/3", "dataset": "mnist", "system": "CMAG", "attack": "FGSM",
           "strength": 0.1, "metric": "auroc", "value": 0.5, "n": 9, "paper": None}  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps({"rows": [row]}))
    command = f"python -m experiments.report {tmp_path / 'run'} \\\n  --markdown"
    document = tmp_path / "text.md"
    head = f"# Title\n\n```sh\n{command}\n```\n\n"
    document.write_text(head + before + after)
    for _ in range(2):
        refresh.main((document,))
        assert document.read_text() == f"{head}{TABLE}\n\n{after}"


def test_a_run_that_is_not_there_is_said_and_the_document_left(tmp_path):
    document = tmp_path / "text.md"
    text = f"```sh\npython -m experiments.report {tmp_path / 'gone'}\n```\n\n**a**\n"
    document.write_text(text)
    command = [sys.executable, "-m", "experiments.refresh", str(document)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and "does not exist" in run.stderr
    assert f"by: python -m experiments.report {tmp_path / 'gone'}" in run.stderr
    assert document.read_text() == text
