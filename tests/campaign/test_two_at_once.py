"""Two programs on one cache and one run folder: both end, with the rows of one alone."""

import pytest

from tests.experiments.tiny_runs import finish, kept_compilations, rows, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
TRIALS = 5


def test_two_programs_on_one_cache_end_as_one_alone(tmp_path, capsys):
    with kept_compilations(tmp_path / "compiled"):
        finish(start(tmp_path / "alone"))
        for i in range(TRIALS):
            for process in [start(tmp_path / str(i)) for _ in range(2)]:
                _, err = finish(process)
                assert "Traceback" not in err, err
            assert rows(tmp_path / str(i)) == rows(tmp_path / "alone")
            assert not list((tmp_path / str(i) / "cache").rglob(".partial-*"))
    with capsys.disabled():
        print(f"\n{TRIALS} pairs of programs: {2 * TRIALS} ended, all rows equal")
