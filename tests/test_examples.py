"""The examples run, are short, and show what they mean to."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def printed(name: str) -> list[str]:
    run = [sys.executable, str(EXAMPLES / name)]
    return subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()


def share(line: str) -> float:
    return float(re.search(r": (0\.\d+|1\.0+)", line).group(1))


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_they_are_short(file):
    assert len(file.read_text().splitlines()) < 40


@pytest.mark.slow  # the README's example fits CMAG too
def test_the_detector_flags_adversarial_images_and_few_clean_ones():
    clean, adversarial = map(share, printed("detect.py"))
    assert clean < 0.12 and adversarial > 0.7


def test_the_attacks_succeed():
    fgsm, pgd, deepfool = map(share, printed("attack.py"))
    assert 0.3 < fgsm <= pgd and deepfool > 0.95


def test_the_memory_notices_the_attack():
    *queries, alone, packaged = printed("stateful.py")
    assert [line.endswith("True") for line in queries] == [False] * 7 + [True] * 3
    assert share(alone) > 0.9 and share(packaged) < 0.5
