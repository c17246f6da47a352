"""The comparison with other programs compares what it says, and writes it down."""

import json

import numpy as np
import pytest

import attacks_jax
from experiments import parity, victims
from experiments.benchmark import cases as attack_cases
from experiments.benchmark import victims as benchmark_victims
from experiments.benchmark.cases import Case
from experiments.benchmark.peers import Outcome

SMALL = victims.VictimConfig((4, 8), dense=16, epochs=1, batch_size=200)
CASES = [*attack_cases.parity("digits"), *attack_cases.speed("digits")]


@pytest.fixture(name="no_peers")
def _no_peers(monkeypatch):
    monkeypatch.setattr(parity.peers, "installed", lambda: [])
    monkeypatch.setitem(benchmark_victims.CONFIGS, "digits", SMALL)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_an_attack_with_options_that_it_takes(case):
    assert case.ours
    case.make()


@pytest.mark.parametrize("dataset", attack_cases.EPS)
@pytest.mark.parametrize("table", [attack_cases.parity, attack_cases.speed])
def test_names_are_unique_and_every_data_set_has_a_victim(dataset, table):
    names = [case.name for case in table(dataset)]
    assert len(set(names)) == len(names)
    assert dataset in benchmark_victims.CONFIGS


def test_without_peers_it_measures_ours_alone(tmp_path, no_peers):
    config = parity.Config(
        "digits", images=6, only=("FGSM", "FGSM targeted"), output_dir=tmp_path / "run",
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    parity.main(config)
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["attack"] for row in rows} == {"FGSM", "FGSM targeted"}
    assert {row["system"] for row in rows} == {"attacks_jax"}
    assert {row["value"] for row in rows if row["metric"] == "queries"} == {2.0}


def test_an_unknown_attack_is_named(tmp_path, no_peers):
    with pytest.raises(ValueError, match="got FGMS"):
        parity.main(parity.Config("digits", only=("FGMS",), cache_dir=tmp_path))


def test_images_have_no_flat_backgrounds_and_are_classified_rightly(tmp_path, no_peers):
    arena = parity.prepare(parity.Config("digits", images=20, cache_dir=tmp_path))
    images, labels = arena.split.images, arena.split.labels
    assert len(images) == 20
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.unique(images[0]).size > 0.9 * images[0].size
    np.testing.assert_array_equal(victims.predict(arena.victim, images), labels)


@pytest.mark.parametrize(
    ("norm", "distance"), [("linf", 0.5), ("l2", 0.75**0.5), ("l1", 1.5), ("l0", 2)]
)
def test_distortions_are_norms_and_l0_counts_whole_pixels(norm, distance):
    clean = np.zeros((1, 4, 4, 3), np.float32)
    images = clean.copy()
    images[0, 0, 0, :2], images[0, 1, 1, 2] = 0.5, 0.5  # two pixels, three values
    case = Case("any", "fgsm", {}, norm)
    np.testing.assert_allclose(attack_cases.distortion(case, clean, images), [distance])


def test_distortions_are_compared_where_both_succeed():
    clean = np.zeros((3, 2, 2, 1), np.float32)
    ours = Outcome(clean + 0.1, np.array([True, True, False]))
    theirs = Outcome(clean + np.array([0.3, 0.1, 0.1]).reshape(3, 1, 1, 1), np.array([1, 0, 1]) > 0)
    case = Case("any", "fgsm", {}, "linf", deterministic=True)
    figures = parity.against(case, clean, ours, theirs)
    assert figures["success_rate"] == figures["success_rate:ours"] == pytest.approx(2 / 3)
    assert figures["mean_distortion"] == pytest.approx(0.3)
    assert figures["mean_distortion:ours"] == pytest.approx(0.1)
    assert figures["pixels_that_differ"] == pytest.approx(1 / 3)


def test_a_shrunk_case_makes_fewer_steps():
    case = next(c for c in attack_cases.speed("digits") if c.name == "CW-l2 9x200")
    small = attack_cases.shrunk(case, images=3, repeats=1, most_steps=2)
    assert (small.images, small.repeats) == (3, 1)
    assert small.make() == attacks_jax.carlini_wagner_l2(
        **case.options | {"num_steps": 2, "binary_search_steps": 2}
    )
