"""The three libraries import nothing of each other: what they share stands in each, alike."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIES = ("attacks_jax/_pinned.py", "cmag_jax/pinned.py", "spt_jax/_pinned.py")


def test_the_three_copies_are_one_text():
    texts = {(ROOT / copy).read_text() for copy in COPIES}
    assert len(texts) == 1, f"copy attacks_jax/_pinned.py over {', '.join(COPIES[1:])}"
