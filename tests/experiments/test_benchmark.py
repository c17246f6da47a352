"""The benchmark runs, measures what it says, and writes it down. No figure is asserted."""

import json

import pytest

from experiments import (
    benchmark,
    benchmark_attacks,
    benchmark_spt,
    benchmark_victims,
    timing,
    victims,
)


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    """Runs a small benchmark and gives its rows."""
    small = victims.VictimConfig((4, 8), dense=16, epochs=1, batch_size=200)
    monkeypatch.setitem(benchmark_victims.CONFIGS, "digits", small)
    monkeypatch.setattr(benchmark_attacks.peers, "installed", lambda: [])
    monkeypatch.setattr(benchmark_spt, "NETWORKS", ("LeNet", "LeNet"))
    monkeypatch.setattr(benchmark_spt, "CLIENTS", 8)
    monkeypatch.setattr(benchmark_spt, "CHAINS", (3,))

    def run(what, **options):
        config = benchmark.Config(
            what, "digits", images=4, repeats=1, most_steps=3, detector_repeats=1, batches=(1, 4),
            output_dir=tmp_path / "run", cache_dir=tmp_path / "cache", **options,
        )  # fmt: skip
        benchmark.main(config)
        return json.loads((tmp_path / "run" / "results.json").read_text())["rows"]

    return run


@pytest.mark.parametrize(
    ("what", "metrics"),
    [
        ("attacks", {"seconds", "compile_seconds", "ratio_to_floor", "queries", "success_rate"}),
        ("detectors", {"milliseconds:score", "milliseconds:forward", "score_to_forward"}),
        ("spt", {"over_classifier", "over_decoy", "ratio_to_floor", "bytes_per_client"}),
    ],
)
def test_it_writes_its_figures(run, tmp_path, what, metrics):
    rows = run(what, only=("FGSM", "DeepFool", "Square 500") if what == "attacks" else ())
    assert metrics <= {row["metric"] for row in rows}
    positive = metrics - {"compile_seconds", "success_rate"}
    assert all(row["value"] > 0 for row in rows if row["metric"] in positive)
    assert (tmp_path / "run" / "speed.png").exists() == (what == "attacks")


def test_finished_cases_are_kept_and_not_measured_again(run, monkeypatch):
    before = run("attacks", only=("FGSM",))
    race, raced = benchmark_attacks._race, []

    def watched(config, case, *rest):
        raced.append(case.name)
        return race(config, case, *rest)

    monkeypatch.setattr(benchmark_attacks, "_race", watched)
    after = run("attacks", only=("FGSM", "PGD-40"))
    assert raced == ["PGD-40"]
    assert [row for row in after if row["attack"] == "FGSM"] == before


def test_an_unknown_attack_is_named(run):
    with pytest.raises(SystemExit, match="got FGMS"):
        run("attacks", only=("FGMS",))


def test_competitors_take_turns():
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in ("a", "b")}
    first, later = timing.interleaved(calls, repeats=2)
    assert turns == ["a", "b"] * 3
    assert set(first) == set(later) == {"a", "b"}


def test_whoever_takes_too_long_is_called_once(monkeypatch):
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in ("slow", "fast")}
    monkeypatch.setattr(
        timing, "seconds", lambda call: call() or (9.0 if turns[-1] == "slow" else 1.0)
    )
    first, later = timing.interleaved(calls, repeats=2, limit=5)
    assert turns == ["slow", "fast", "fast", "fast"]
    assert later == {"slow": 9.0, "fast": 1.0}
    assert first["slow"] == 9.0
