"""The benchmark runs, measures what it says, and writes it down. No figure is asserted."""

import json

import pytest

from experiments import benchmark


@pytest.mark.parametrize(
    ("what", "metrics"),
    [
        ("attacks", {"seconds", "compile_seconds", "ratio_to_floor"}),
        ("detectors", {"milliseconds:score", "milliseconds:forward", "score_to_forward"}),
    ],
)
def test_it_writes_its_figures(tmp_path, monkeypatch, what, metrics):
    small = benchmark.victims.VictimConfig((4, 8), dense=16, epochs=1, batch_size=200)
    monkeypatch.setitem(benchmark.cmag_config.VICTIMS, "digits", small)
    monkeypatch.setattr(benchmark.peers, "available", lambda: False)
    config = benchmark.Config(
        what, "digits", images=8, repeats=1, cw_steps=3, cw_rounds=1, batches=(1, 4),
        output_dir=tmp_path / "run", cache_dir=tmp_path / "cache",
    )  # fmt: skip
    benchmark.main(config)
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert metrics <= {row["metric"] for row in rows}
    assert all(row["value"] > 0 for row in rows if row["metric"] in metrics - {"compile_seconds"})


def test_competitors_take_turns():
    turns = []
    calls = {name: lambda name=name: turns.append(name) for name in ("a", "b")}
    first, later = benchmark.interleaved(calls, repeats=2)
    assert turns == ["a", "b"] * 3
    assert set(first) == set(later) == {"a", "b"}
