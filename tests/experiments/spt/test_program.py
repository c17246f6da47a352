"""`python -m experiments.spt`: what its tables are made of, and the whole of it on real digits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from jax.tree_util import Partial

from experiments import datasets, victims
from experiments.datasets import Split
from experiments.runtime import cli
from experiments.spt import __main__ as spt
from experiments.spt import adaptive, bookkeeping, buffer_tables, lab, natural, paper_values
from experiments.spt.attacks import Spec
from experiments.spt.config import ALL, Config, parse
from experiments.spt.defences import Decoy, Defence
from experiments.spt.lab import Lab, deceive_rate
from experiments.victims import networks
from tests.attacks_jax.toys import some_images

# Networks hand-made: linear, of tiny "CIFAR-10" images.
SHAPE, CLASSES = (4, 4, 1), 10


def linear(weights, images):
    return (images.reshape(len(images), -1) - 0.5) @ weights


def hand_made(dataset, config, *, seed, cache_dir) -> victims.Victim:
    name = f"{config.architecture} {config.labels} {config.epochs} {seed}"
    rng = np.random.default_rng(list(name.encode()))
    logits = Partial(linear, rng.normal(size=(16, CLASSES)).astype(np.float32))
    return victims.Victim(logits, logits, name, {})


def tiny_data(name="cifar10") -> datasets.Dataset:
    rng = np.random.default_rng(0)
    split = Split(some_images(0, 20, SHAPE), rng.integers(CLASSES, size=20).astype(np.int32))
    return datasets.Dataset(name, split, split, split, CLASSES, "tiny")


@pytest.fixture(name="make_lab")
def _make_lab(monkeypatch, tmp_path):
    monkeypatch.setattr(victims, "get", hand_made)

    def make(name="cifar10", **options) -> Lab:
        monkeypatch.setattr(datasets, "load", lambda *_, **__: tiny_data(name))
        return Lab(Config(dataset=name, cache_dir=tmp_path / "cache", **options))

    return make


def test_the_deceive_rate_is_equation_3():
    assert deceive_rate(0.5187, 0.5187) == 0
    assert deceive_rate(0.2970, 0.1768) == pytest.approx(0.6799, abs=1e-4)
    assert deceive_rate(0.2, 0.4) == pytest.approx(0.5)
    assert deceive_rate(0.3, 0.0) is None


def test_what_the_paper_prints_agrees_with_its_own_equation():
    for _, printed in paper_values.HYPERPARAMETERS.values():
        for cs, os, dr in printed.values():
            assert deceive_rate(cs, os) == pytest.approx(dr, abs=2e-3)
    misprints = set()
    for table in ("UNTARGETED_BUFFER", "JSMA_BUFFER", "MIFGSM_BUFFER"):
        # Of rounded rates: those of table V to 5e-5, those of table VI to 5e-3.
        rounding = 5e-5 if table == "UNTARGETED_BUFFER" else 5e-3
        for network, printed in getattr(paper_values, table).items():
            for training, (cs, os, dr) in printed.items():
                most = rounding * (1 + cs / os) / os + rounding
                if abs(deceive_rate(cs, os) - dr) > most:
                    misprints.add((table, network, training))
    assert misprints == {("UNTARGETED_BUFFER", "C4", "T-")}
    assert deceive_rate(0.1987, 0.4752) == pytest.approx(0.5818, abs=1e-4)  # what is meant
    assert deceive_rate(*paper_values.JSMA_BUFFER["LeNet"]["Ts"][:2]) == pytest.approx(0.476, 1e-3)


def test_what_the_paper_prints_is_copied_rightly():
    """Figures picked from the paper, by line and column."""
    names = paper_values.NETWORKS
    assert paper_values.UNTARGETED_ACCURACY["C4"][names.index("C4")] == 0.0014
    assert paper_values.UNTARGETED_ACCURACY["ResNet"][names.index("LeNet")] == 0.8937
    assert paper_values.TARGETED_SUCCESS["LeNet"][names.index("ResNet")] == 0.0992
    assert paper_values.TARGETED_SUCCESS["C4_WO_BN"][names.index("C4_WO_BN")] == 0.9909
    assert paper_values.UNTARGETED_TRANSFER["C4"][1] == 0.1598
    assert paper_values.TARGETED_TRANSFER["LeNet"][4] == 0.1859
    assert paper_values.UNTARGETED_BUFFER["LeNet"]["Td"] == (0.2198, 0.4846, 0.5464)
    assert paper_values.MIFGSM_BUFFER["C4"]["Td"] == (0.69, 0.23, 2.00)
    adv, printed = paper_values.HYPERPARAMETERS[100, 30, 3e-4]
    assert adv == 0.3126 and printed["T-"] == (0.8813, 0.1963, 3.4900)
    assert paper_values.COMPARISON["Adver-Train", "JPEG"]["accuracy"] == 0.8711
    assert paper_values.INTERLEAVED["none, CUT"] == (0.7064, 0.1513)
    assert paper_values.CHAINS["chain 30 dB, CUT"] == (0.7922, 0.3540)
    assert paper_values.FLAGS["and, CUT"] == (0.3602, 0.9840)


def ramps() -> Split:
    """Images whose neighbouring pixels differ by 0.02 downwards and 0.01 to the right."""
    y, x = np.mgrid[:8, :8]
    ramp = (0.3 + 0.02 * y + 0.01 * x)[..., None].astype(np.float32)
    return Split(np.stack([ramp, ramp[::-1], ramp.swapaxes(0, 1)]), np.array([3, 1, 2], np.int32))


def test_duplicates_follow_each_other():
    split = natural.duplicates(ramps(), 4)
    assert split.labels.tolist() == [3] * 4 + [1] * 4 + [2] * 4
    for i, image in enumerate(split.images):
        np.testing.assert_array_equal(image, ramps().images[i // 4])


def test_a_film_moves_by_a_pixel_and_a_hundredth_a_frame():
    film = natural.video(ramps(), 30, seed=0)
    assert film.images.shape == (90, 8, 8, 1) and film.images.dtype == np.float32
    assert film.labels.tolist() == [3] * 30 + [1] * 30 + [2] * 30
    for i in range(3):
        frames = film.images[30 * i : 30 * (i + 1)]
        np.testing.assert_array_equal(frames[0], ramps().images[i])
        steps = np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3))
        assert (steps > 0).all() and (steps < 0.02 + 0.01 + natural.BRIGHTNESS + 1e-6).all()
        assert np.abs(frames - frames[0]).max() > steps.max()  # it goes on
    np.testing.assert_array_equal(film.images, natural.video(ramps(), 30, seed=0).images)
    assert (film.images != natural.video(ramps(), 30, seed=1).images).any()


def test_a_film_of_nothing_only_changes_its_brightness():
    white = Split(np.ones((1, 8, 8, 1), np.float32), np.array([0], np.int32))
    film = natural.video(white, 12, seed=0)
    assert film.images.max() <= 1 and film.images.min() > 1 - 12 * natural.BRIGHTNESS
    assert (np.ptp(film.images, axis=(1, 2, 3)) < 1e-6).all()


def test_a_table_s_rows_stand_beside_the_paper_s(make_lab):
    bench = make_lab(images=6, untrained_seeds=2)
    spec = Spec("MI-FGSM", 8, 3e-4, target=0)
    adv, printed = paper_values.HYPERPARAMETERS[40, 10, 3e-4]
    made = buffer_tables.systems(
        bench, "spt/VII", spec, adv, {"C4": printed}, ("C4",), suffix=" t=3", length=3, patience=1
    )
    assert {row.attack for row in made} == {"MI-FGSM targeted t=3, 8 x"}
    assert {(row.strength, row.n, row.dataset) for row in made} == {(3e-4, 6, "cifar10")}
    found = {(row.table, row.system, row.metric): row for row in made}
    assert len(found) == len(made)
    cs, os = "attack_success_rate_all:CS", "attack_success_rate_all:OS"
    assert found["spt/VII", "VGG", os].paper == adv
    for training, values in printed.items():
        title = f"VGG + C4 {training}"
        for metric, paper in zip((cs, os, "deceive_rate"), values, strict=True):
            row = found.pop(("spt/VII", title, metric), None)
            assert (row is None and metric == "deceive_rate") or row.paper == paper
    for metric in (cs, os):  # T- is the mean over its decoys
        of_seeds = [
            found.pop(("extra/spt/untrained", f"VGG + C4 T-, seed {seed}", metric))
            for seed in range(2)
        ]
        (mean,) = (r for r in made if (r.system, r.metric) == ("VGG + C4 T-", metric))
        assert mean.value == pytest.approx(np.mean([row.value for row in of_seeds]))
        assert [row.paper for row in of_seeds] == [None, None]
    assert list(found) == [("spt/VII", "VGG", os)]
    # The rates are over all images: those that the attacker believes in, and those that are.
    attacked = bench.attacked(spec, bench.buffer(Decoy("C4", "Td"), length=3, patience=1))
    assert attacked.by_decoy.any()
    row = next(r for r in made if (r.system, r.metric) == ("VGG + C4 Td", cs))
    assert row.value == pytest.approx((attacked.told == 0).mean())
    row = next(r for r in made if (r.system, r.metric) == ("VGG + C4 Td", os))
    right = victims.predict(bench.network("VGG"), attacked.images) == 0
    assert row.value == pytest.approx(right.mean())


def test_the_paper_s_values_are_cifar_10_s_and_of_its_settings(make_lab):
    assert make_lab("cifar10").paper(0.5) == 0.5
    assert make_lab("digits").paper(0.5) is None
    assert make_lab("cifar10", steps=7).paper(0.5) is None
    assert make_lab("cifar10", length=30).paper(0.5) is None


def test_no_result_depends_on_the_chunk(make_lab):
    spec = Spec("BIM", 8, 3e-4)
    of_chunk = []
    for chunk in (6, 4):  # the last chunk of four is filled up, and cut again
        bench = make_lab(images=6, length=3, patience=1, chunk=chunk)
        of_chunk.append(bench.attacked(spec, bench.buffer(Decoy("C4", "Td"))))
    whole, parts = of_chunk
    assert whole.images.shape == (6, *SHAPE) and whole.told_all.shape == (8, 6)
    np.testing.assert_allclose(whole.images, parts.images, atol=1e-6)
    for name in ("told", "queries", "by_decoy"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_images_that_take_turns_stay_together(make_lab, monkeypatch):
    batches = []

    def drive(spec, system, images, labels, **_):
        batches.append(labels)
        n = len(labels)
        by_query = np.zeros((1, n), bool)
        return {
            "images": images, "told": labels, "told_all": by_query, "deceived": by_query,
            "queries": np.ones(n, int),
        }  # fmt: skip

    monkeypatch.setattr(lab, "drive", drive)
    bench = make_lab(images=11, chunk=6)
    attacked = bench.attacked(Spec("BIM", 1, 0.1, turns=4), Defence("none"))
    np.testing.assert_array_equal(batches, np.split(bench.split.labels[:8], 2))
    np.testing.assert_array_equal(attacked.told, bench.truth(attacked))
    with pytest.raises(datasets.DataError, match=r"at least 4 images.*got 3"):
        make_lab(images=3).attacked(Spec("BIM", 1, 0.1, turns=4), Defence("none"))


def test_without_an_image_classified_rightly_no_attack_is_asked_for(make_lab):
    bench = make_lab(images=6)
    labels = victims.predict(bench.network("VGG"), bench.split.images)
    bench.split = Split(bench.split.images, (labels + 1) % CLASSES)
    assert adaptive._by_queries(bench) == []


@pytest.mark.slow
def test_the_classifier_answers_as_many_queries_as_equation_2_says(make_lab):
    measured = bookkeeping.measure(make_lab(images=6), Path())
    found = {(r.system, r.attack, r.metric): r for r in measured.rows}
    counted = [key for key in found if key[2] == "queries:measured"]
    assert len(counted) == 6
    for system, attack, _ in counted:
        row = found[system, attack, "queries:measured"]
        assert row.n > 0 and row.value == found[system, attack, "queries:exact"].value
        if "periodic" in system:  # exact where t divides I
            bound = found[system, attack, "queries:eq2"].value
            assert row.value == bound if "t=10" in system else row.value > bound
    values = [found[key].value for key in counted]
    assert values == [25, 15, 55, 15, 45, 35]
    storage = {r.system: r.value for r in measured.rows if r.metric == "bytes"}
    assert storage["buffer t=10"] == 4 * (10 * 16 + 4)


# The program itself, on digits, with networks that compile within a second.
TINY = {
    ("VGG", "slim"): (networks.Blocks((), ()), (16,)),  # no block: a network of its pixels
    ("C4", "slim"): (networks.Blocks((), ()), (8,)),
}
OPTIONS = ["--images=6", "--chunk=3", "--steps=12", "--untrained-seeds=1", "--length=3",
           "--patience=1"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _tiny_networks():
    with pytest.MonkeyPatch.context() as patch:
        for name, network in TINY.items():
            patch.setitem(networks._NETWORKS, name, network)
        patch.setitem(networks._EPOCHS, "digits", {"slim": 1, "full": 1})
        yield


def run(folder: Path, *options: str) -> list[dict]:
    """The rows of a run in this process."""
    places = [f"--output-dir={folder / 'run'}", f"--cache-dir={folder / 'cache'}"]
    written = spt.main(parse([*OPTIONS, *options, *places]))
    return json.loads((written / "results.json").read_text())["rows"]


def check(rows: list[dict]) -> None:
    assert rows
    for row in rows:
        assert np.isfinite(row["value"]) and row["n"] > 0 and row["paper"] is None
        assert row["dataset"] == "digits"


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory, _tiny_networks):
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder)


@pytest.fixture(name="driven")
def _driven(monkeypatch):
    """What was attacked since: a list that grows with every batch."""
    calls = []

    def drive(spec, *arguments, **options):
        calls.append(spec)
        return original(spec, *arguments, **options)

    original = lab.drive
    monkeypatch.setattr(lab, "drive", drive)
    return calls


def test_it_leaves_a_whole_run_folder(finished):
    folder, rows = finished
    check(rows)
    assert {row["table"] for row in rows} == {"extra/spt/demo"}
    cells = {(row["system"], row["attack"], row["metric"]) for row in rows}
    assert len(cells) == len(rows)
    assert {row["system"] for row in rows} == {"VGG", "VGG + C4 T-", "VGG + C4 Td"}
    names = {"config.json", "results.json", "report.html", "figures"}
    assert {p.name for p in (folder / "run").iterdir()} == names
    html = (folder / "run" / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 3
    document = json.loads((folder / "run" / "results.json").read_text())
    assert document["config"]["steps"] == 12 and document["config"]["table"] == "demo"
    assert {"demo", "compile", "total"} <= set(document["provenance"]["seconds"])


def test_a_second_run_attacks_nothing_again(finished, driven):
    folder, rows = finished
    assert run(folder) == rows
    assert not driven


def test_an_interrupted_run_goes_on_where_it_was(finished, driven, monkeypatch, tmp_path):
    folder, rows = finished
    for network in (folder / "cache").glob("victim-*"):
        shutil.copytree(network, tmp_path / "cache" / network.name)
    whole = lab.drive

    def interrupted(*arguments, **options):
        if driven:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lab, "drive", interrupted)
        with pytest.raises(SystemExit, match="interrupted: the same"), cli.program():
            run(tmp_path)
    assert len(driven) == 1 and not (tmp_path / "run" / "results.json").exists()
    assert run(tmp_path) == rows
    assert len(driven) == 3 * 2  # systems, chunks: none of them twice


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--table=XX", "--table"),
        ("--images=0", "expected images of at least 1, got 0"),
        ("--step-size=-0.1", "expected step_size in (0, 1], got -0.1"),
        ("--steps=0", "expected steps of at least 1, got 0"),
        ("--length=0", "expected length of at least 1"),
        ("--target=-1", "expected a target from 0 to 9, a class of digits, got -1"),
        ("--target=99", "expected a target from 0 to 9, a class of digits, got 99"),
        ("--dataset=imagenet", "--dataset"),
        ("--preset=slow", "--preset"),
    ],
)
def test_a_wrong_option_is_explained_before_anything_runs(option, message, capsys):
    with pytest.raises(SystemExit):
        parse([option])
    printed = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in printed


def test_presets_are_what_the_command_line_starts_from():
    quick, paper = parse([]), parse(["--preset=paper", "--dataset=cifar10", "--table=VII"])
    assert (quick.table, quick.dataset, quick.preset) == ("demo", "digits", "quick")
    assert (quick.length, quick.threshold_db, quick.patience) == (10, 35.0, 5)  # section IV-A
    assert paper.images == 10_000 and paper.width == "full" and paper.table == "VII"
    assert parse(["--preset=paper", "--images=7"]).images == 7
    assert parse(["--table=X"]).folder == Path("runs/spt-digits-quick-X-seed0")
    assert set(ALL) == set(spt.TABLES) - {"demo"} | {"IX"}


@pytest.mark.slow
def test_all_tables_but_the_faces_on_digits(monkeypatch, tmp_path):
    for i, name in enumerate(paper_values.NETWORKS):
        network = networks.Blocks((), ()), (16 + i,)
        monkeypatch.setitem(networks._NETWORKS, (name, "slim"), network)
    # The data set of table IX is another. Of attackers who know, some are enough.
    monkeypatch.setattr(spt.faces, "measure", lambda *_, **__: ([], {}))
    evasive = adaptive.evasive
    few = ("as it is", "dummies", "in turns of 3", "3 clients")
    monkeypatch.setattr(
        adaptive,
        "evasive",
        lambda *given: {name: spec for name, spec in evasive(*given).items() if name in few},
    )
    asking = {name: adaptive.ASKING[name] for name in ("NES", "Square")}
    monkeypatch.setattr(adaptive, "ASKING", asking)
    rows = run(tmp_path, "--table=all", "--jsma-images=4", "--adaptive-images=4")
    check(rows)
    tables = {row["table"] for row in rows}
    assert tables >= {f"spt/{name}" for name in ALL if name.isupper() and name != "IX"}
    ours = ("queries", "storage", "adaptive", "queries-only", "natural", "filters")
    assert tables >= {f"extra/spt/{name}" for name in ours}
