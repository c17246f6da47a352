"""The full run: stops when told, goes on where it stopped, skips what is finished."""

import sys
from pathlib import Path

import pytest

from experiments import full_run
from experiments.spt import config as spt_config


@pytest.fixture(name="plan")
def _plan(monkeypatch, tmp_path):
    """Two programs that write their results.json; the second needs to be started twice."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time; from pathlib import Path\n"
        "run = Path(sys.argv[-1].split('=')[1]); run.mkdir(parents=True, exist_ok=True)\n"
        "with open(run / 'starts', 'a') as file: file.write('x')\n"
        "if run.name == 'second' and (run / 'starts').read_text() == 'x': time.sleep(60)\n"
        "if run.name == 'bad': sys.exit(3)\n"
        "(run / 'results.json').write_text('{}')\n"
    )
    names = ["first", "second"]
    monkeypatch.setattr(full_run, "plan", lambda _: [(n, [str(program)]) for n in names])
    return names


def test_it_stops_in_time_and_goes_on(plan, tmp_path, capsys):
    config = full_run.Config(minutes=3 / 60, runs_dir=tmp_path / "runs", collect_dir=tmp_path / "c")
    assert full_run.main(config) == full_run.LEFT_TO_DO
    assert "1 of 2 finished" in capsys.readouterr().out
    assert full_run.main(config) == 0
    starts = {n: (tmp_path / "runs" / n / "starts").read_text() for n in plan}
    assert starts == {"first": "x", "second": "xx"}
    assert sorted(p.parent.name for p in (tmp_path / "c").rglob("results.json")) == plan


def test_a_program_that_fails_ends_it_with_its_status(plan, tmp_path):
    plan[:] = ["bad", "first"]
    assert full_run.main(full_run.Config(runs_dir=tmp_path / "runs")) == 3
    assert not (tmp_path / "runs" / "first").exists()


def test_the_plan_has_spt_s_tables_as_its_program_takes_them():
    commands = [c for _, c in full_run.plan(full_run.Config()) if c[1] == "experiments.spt"]
    configs = [spt_config.parse(command[2:]) for command in commands]
    assert tuple(config.table for config in configs) == spt_config.ALL
    assert {c.preset for c in configs if c.table != "IX"} == {"paper"}
    assert {c.dataset for c in configs} == {"cifar10"}


def test_the_plan_is_both_programs_at_the_paper_s_preset():
    commands = [" ".join(c) for _, c in full_run.plan(full_run.Config(manual_dir=Path("m")))]
    for program in ("cmag", "adaptive", "ssim_autoencoder"):
        assert sum(f"experiments.{program} " in c for c in commands) == 3
    assert sum("experiments.benchmark attacks" in c for c in commands) == 2  # MNIST and CIFAR-10
    assert sum("experiments.benchmark detectors" in c for c in commands) == 3
    assert all("--preset=paper" in c for c in commands if "experiments.cmag" in c)
    assert all("--manual-dir=m" in c for c in commands)
    assert sys.executable not in commands[0]
