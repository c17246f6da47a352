"""Fifteen kills: a program that is killed at any moment goes on, and ends with the same rows."""

import signal
import time

import numpy as np
import pytest

from tests.experiments.tiny_runs import finish, kept_compilations, rows, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
KILLS = 15


def test_whatever_the_moment_of_a_kill_the_next_run_ends_the_same(tmp_path, capsys):
    moments = np.random.default_rng(0).uniform(0.05, 0.95, KILLS)
    early = 0
    with kept_compilations(tmp_path / "compiled"):
        finish(start(tmp_path / "first"))  # compiles
        began = time.monotonic()
        finish(start(tmp_path / "whole"))
        seconds = time.monotonic() - began
        for i, moment in enumerate(moments):
            folder = tmp_path / str(i)
            process = start(folder)
            time.sleep(moment * seconds)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            early += not (folder / "run" / "results.json").exists()
            _, err = finish(start(folder))
            assert "Traceback" not in err and "damaged" not in err, err
            assert rows(folder) == rows(tmp_path / "whole"), moment
    with capsys.disabled():
        print(f"\n{KILLS} kills, {early} of them before the rows were written: all rows equal")
    assert early > KILLS // 2
