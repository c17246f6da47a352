"""Every file of a cache, damaged in every way: the next run warns, computes anew, and ends with the
same rows."""

import shutil
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from experiments import cmag, cmag_config
from tests.experiments.tiny_runs import TINY, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "first half": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "bit in the middle": lambda data: _flipped(data, len(data) // 2),
    "bit near the end": lambda data: _flipped(data, len(data) * 9 // 10),
    "another file": lambda data: b"not what you think " * 20,
}


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes(255 - byte for byte in data[at : at + 1]) + data[at + 1 :]


def run(folder) -> list[dict]:
    places = [f"--output-dir={folder / 'run'}", f"--cache-dir={folder / 'cache'}"]
    cmag.main(cmag_config.parse([*TINY, "--systems=CMAG", *places]))
    return rows(folder)


@pytest.mark.filterwarnings("ignore:.*is damaged.*computed anew")
def test_a_damaged_cache_heals(tmp_path, capsys):
    whole = run(tmp_path)
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "cache", kept)
    files = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file())
    random = np.random.default_rng(0)
    found: Counter = Counter()
    for file in files:
        names = list(DAMAGES)
        # Of the many alike files of attacks and scores one damage each, of the others all.
        for name in names if file.suffix != ".npz" else random.choice(names, 3, replace=False):
            path = tmp_path / "cache" / file
            damaged = DAMAGES[str(name)]((kept / file).read_bytes())
            path.write_bytes(damaged)
            try:
                same = run(tmp_path) == whole
                found["healed" if same else "silent"] += 1
            except Exception as error:
                found["traceback"] += 1
                with capsys.disabled():
                    print(file, name, repr(error)[:200])
            shutil.rmtree(tmp_path / "cache")
            shutil.copytree(kept, tmp_path / "cache")
    with capsys.disabled():
        print(f"\n{sum(found.values())} damages of {len(files)} files: {dict(found)}")
    assert found.keys() == {"healed"}
