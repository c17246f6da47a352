"""The three libraries import nothing of each other: what they share stands in each, alike."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARIES = ("attacks_jax", "cmag_jax", "spt_jax")


@pytest.mark.parametrize("name", ["_pinned.py", "_callable_key.py"])
def test_the_three_copies_are_one_text_but_for_the_library_s_name(name):
    texts = {
        (ROOT / library / name).read_text().replace(f"from {library}.", "from *.")
        for library in LIBRARIES
    }
    assert len(texts) == 1, f"copy attacks_jax/{name} over those of {LIBRARIES[1:]}"
