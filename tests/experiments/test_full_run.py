"""The full run: stops when told, goes on where it stopped, skips what is finished."""

import sys
from pathlib import Path

import pytest

from experiments import full_run
from experiments.adaptive import config as adaptive_config
from experiments.cmag import config as cmag_config
from experiments.full_run import ALONE, Program
from experiments.spt import config as spt_config

PROGRAM = """
import sys, time
from pathlib import Path

run = Path(sys.argv[-1].split("=")[1])
run.mkdir(parents=True, exist_ok=True)
with open(run / "starts", "a") as file:
    file.write("x")
if run.name == "second" and (run / "starts").read_text() == "x":
    time.sleep(60)
if run.name == "bad":
    sys.exit(3)
if run.name.startswith("pair"):  # finishes only beside another one
    deadline = time.monotonic() + 20
    while len(list(run.parent.glob("pair*"))) < 2:
        if time.monotonic() > deadline:
            sys.exit(4)
        time.sleep(0.05)
print(run.name, "was here")
(run / "results.json").write_text('{"rows": []}')
"""


@pytest.fixture(name="plan")
def _plan(monkeypatch, tmp_path):
    """Makes a plan of programs by name, each in a lane of its own, that write a results.json; the
    one called "second" needs to be started twice."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def plan(*names):
        programs = [
            Program(n, n, (str(program), f"--output-dir={tmp_path / 'runs' / n}")) for n in names
        ]
        monkeypatch.setattr(full_run, "plan", lambda _: programs)

    return plan


def _starts(tmp_path, name):
    path = tmp_path / "runs" / name / "starts"
    return path.read_text() if path.exists() else ""


def test_it_stops_in_time_and_goes_on(plan, tmp_path, capsys):
    plan("first", "second")
    config = full_run.Config(minutes=3 / 60, runs_dir=tmp_path / "runs", collect_dir=tmp_path / "c")
    assert full_run.main(config) == full_run.LEFT_TO_DO
    assert "1 of 2 finished" in capsys.readouterr().out
    assert full_run.main(config) == 0
    assert [_starts(tmp_path, name) for name in ("first", "second")] == ["x", "xx"]
    collected = sorted(p.parent.name for p in (tmp_path / "c").rglob("results.json"))
    assert collected == ["first", "second"]


def test_a_program_that_fails_gives_its_status_and_the_others_run(plan, tmp_path):
    plan("bad", "first")
    assert full_run.main(full_run.Config(runs_dir=tmp_path / "runs")) == 3
    assert (tmp_path / "runs" / "first" / "results.json").exists()


def test_programs_run_beside_each_other_each_with_a_log(plan, tmp_path):
    plan("pair-1", "pair-2")
    config = full_run.Config(at_once=2, runs_dir=tmp_path / "runs")
    assert full_run.main(config) == 0
    assert (tmp_path / "runs" / "pair-1.log").read_text() == "pair-1 was here\n"


def test_nothing_at_once_is_refused():
    with pytest.raises(ValueError, match="at_once of at least 1, got 0"):
        full_run.Config(at_once=0)


def test_what_shares_a_victim_takes_turns_and_what_is_timed_runs_alone():
    a, b, other = (Program(name, name[0], ()) for name in ("a1", "a2", "b"))
    timed = Program("benchmark", ALONE, ())
    following = full_run._next
    assert following([a, b, other], [], 2) == [a, other]
    assert following([b], [a], 2) == []
    assert following([b, other], [a], 2) == [other]
    assert following([timed, b], [a], 2) == []  # nothing overtakes it, so its turn comes
    assert following([timed, b], [], 2) == [timed]
    assert following([b], [timed], 2) == []
    assert following([a, timed], [], 2) == [a]


def test_the_plan_has_spt_s_tables_as_its_program_takes_them():
    programs = list(full_run.plan(full_run.Config()))
    commands = [p.command for p in programs if p.command[1] == "experiments.spt"]
    configs = [spt_config.parse(list(command[2:])) for command in commands]
    assert tuple(config.table for config in configs) == spt_config.ALL
    assert {c.preset for c in configs if c.table != "IX"} == {"paper"}
    assert {c.dataset for c in configs} == {"cifar10"}


def test_the_plan_has_every_system_of_cmag_s_tables_the_slow_one_last():
    programs = list(full_run.plan(full_run.Config()))
    for module, parse, field in (
        ("experiments.cmag", cmag_config.parse, "systems"),
        ("experiments.adaptive", adaptive_config.parse, "system"),
    ):
        configs = [parse(list(p.command[2:])) for p in programs if p.command[1] == module]
        assert {c.preset for c in configs} == {"paper"}
        assert [c.dataset for c in configs] == ["mnist", "fashion_mnist", "gtsrb"] * 2
        slow = ["all" in getattr(c, field) or "Defense-GAN" in c.chosen for c in configs]
        assert slow == [False] * 3 + [True] * 3
        assert {name for c in configs for name in c.chosen} == set(full_run.QUICKLY_FITTED) | {
            "Defense-GAN"
        }


def test_the_plan_is_both_programs_at_the_paper_s_preset():
    programs = list(full_run.plan(full_run.Config(manual_dir=Path("m"))))
    assert len({p.name for p in programs}) == len(programs)
    commands = [" ".join(p.command) for p in programs]
    assert sum("experiments.ssim_autoencoder " in c for c in commands) == 3
    assert sum("experiments.benchmark attacks" in c for c in commands) == 2  # MNIST and CIFAR-10
    assert sum("experiments.benchmark detectors" in c for c in commands) == 3
    assert all(p.lane == ALONE for p in programs if "experiments.benchmark" in p.command)
    assert all("--manual-dir=m" in c for c in commands)
    assert all(f"--output-dir=runs/full/{p.name}" in p.command for p in programs)
    assert sys.executable not in commands[0]
