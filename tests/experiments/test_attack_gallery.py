"""The gallery of attacks is drawn; a column an attack."""

import numpy as np

from experiments import attack_gallery, victims
from experiments.benchmark import cases as attack_cases
from experiments.benchmark import victims as benchmark_victims


def test_it_draws_a_column_an_attack_and_leaves_failures_white(tmp_path, monkeypatch):
    small = victims.VictimConfig((4, 8), dense=16, epochs=1, batch_size=200)
    monkeypatch.setitem(benchmark_victims.CONFIGS, "digits", small)
    cases = [attack_cases.Case(f"FGSM {eps}", "fgsm", {"eps": eps}, "linf") for eps in (0.0, 0.5)]
    monkeypatch.setattr(attack_cases, "parity", lambda dataset: cases)
    drawn = {}

    def gallery(path, title, columns):
        drawn.update(columns)

    monkeypatch.setattr(attack_gallery.figures, "gallery", gallery)
    attack_gallery.main(
        attack_gallery.Config("digits", 3, tmp_path / "run", cache_dir=tmp_path / "cache")
    )
    assert list(drawn) == ["clean", "FGSM\n0.0", "FGSM\n0.5"]
    assert np.all(drawn["FGSM\n0.0"] == 1.0)  # nothing changed, so nothing found
    assert drawn["FGSM\n0.5"].shape == drawn["clean"].shape
