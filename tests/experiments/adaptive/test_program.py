"""`python -m experiments.adaptive`, end to end, on real digits and tiny detectors."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cmag_jax import CMAG_PLUS, CMAGConfig
from cmag_jax.feature_squeezing import FeatureSqueezingConfig
from cmag_jax.magnet import MagNetConfig
from experiments import datasets, victims
from experiments.adaptive import __main__ as program
from experiments.adaptive import attacked_detector, attacks, figures, tables
from experiments.adaptive.config import Config, parse, preset
from experiments.cmag import config as cmag_config
from experiments.pipeline import attack_runs, detectors

WHOLE = "feature squeezing"  # which has the whole program run on it: it compiles fastest
BASE = dataclasses.replace(
    cmag_config.preset("quick", "digits"),
    victim=victims.VictimConfig((4, 8), epochs=6, batch_size=50),
    cmag_plus=dataclasses.replace(
        CMAG_PLUS, batch_size=100, fmr_epochs=3, lr_epochs=1, gr_epochs=2, fmr_width=8,
        lr_width=8, gr_width=32,
    ),
    cmag=CMAGConfig(batch_size=100, fmr_epochs=3, lr_epochs=1, gr_epochs=2, fmr_width=8),
    magnet=MagNetConfig(epochs=2),
    feature_squeezing=FeatureSqueezingConfig(medians=()),
    cw=cmag_config.CWConfig(20, 0.05, 2, 1.0),
)  # fmt: skip


def tiny(folder, system=WHOLE) -> Config:
    return Config(
        system=(system,), images=6, batch=4, steps=16, step_size=0.1, eps=(0.1, 0.4),
        wide_eps=(0.2, 1.0), confidence=(0.0,), output_dir=folder / "run",
        cache_dir=folder / "cache",
    )  # fmt: skip


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    config = tiny(tmp_path_factory.mktemp("adaptive"))
    program.main(config, BASE)
    return config


@pytest.fixture(scope="module", name="data")
def _data():
    return datasets.load("digits")


@pytest.fixture(scope="module", name="victim")
def _victim(finished, data):
    return victims.get(data, BASE.victim, seed=0, cache_dir=finished.cache_dir)


@pytest.fixture(scope="module", name="siege")
def _siege(finished, data, victim):
    return tables.lay(finished, BASE, WHOLE, data, victim)


@pytest.fixture(scope="module", name="siege_of_cmag_plus")
def _siege_of_cmag_plus(finished, data, victim):
    return tables.lay(finished, BASE, "CMAG+", data, victim)


def untrained(name, config, data, victim, cache_dir) -> detectors.FittedDetector:
    """A system that none of its modules' epochs have to be compiled for."""
    module = detectors.DETECTORS[name]
    start = module.init(
        jax.random.key(0), victim.features_and_logits, data.train.images[:1], config
    )
    given = {part: getattr(start, part) for part in module.MODULES}
    return detectors.fit(name, config, data, victim, seed=0, cache_dir=cache_dir, given=given)


def rows(config: Config) -> list[dict]:
    return json.loads((config.folder / "results.json").read_text())["rows"]


def value(config: Config, attack: str, strength, metric: str) -> float:
    (found,) = (
        row["value"]
        for row in rows(config)
        if (row["table"], row["attack"]) == ("extra/adaptive", attack)
        and (row["strength"], row["metric"]) == (strength, metric)
    )
    return found


def test_it_leaves_a_whole_run_folder(finished):
    run = finished.folder
    assert {p.name for p in run.iterdir()} == {
        "config.json", "results.json", "report.html", "figures",
    }  # fmt: skip
    drawn = {p.name for p in (run / "figures").iterdir()}
    assert {"steps.png", "distortion.png", "success-feature-squeezing.png"} < drawn
    html = (run / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(drawn) == 4


def test_several_runs_are_one_picture(finished, tmp_path, monkeypatch):
    """A line a detector, two panels a data set."""
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    other = tmp_path / "other"
    other.mkdir()
    text = (finished.folder / "results.json").read_text()
    (other / "results.json").write_text(text.replace(f'"{WHOLE}"', '"MagNet"'))
    figures.main((finished.folder, other), tmp_path / "picture.png")
    (figure,) = drawn
    labels = [[line.get_label() for line in panel.lines] for panel in figure.axes]
    assert labels == [["MagNet", WHOLE]] * 2
    curve = [
        (row["strength"], row["value"])
        for row in rows(finished)
        if (row["table"], row["attack"]) == ("extra/adaptive/distortion", "linf")
    ]
    assert [tuple(point) for point in figure.axes[0].lines[0].get_xydata()] == curve


def test_a_picture_of_no_runs_is_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"rows": []}')
    for runs, told in (
        ((), "at least one run"),
        ((tmp_path / "gone",), "does not exist"),
        ((tmp_path,), "none with distortion curves"),
    ):
        with pytest.raises((SystemExit, datasets.DataError), match=told):
            figures.main(runs, tmp_path / "picture.png")


def test_every_attacker_has_his_rows(finished):
    informed = {
        (f"{attack}, {knowledge}", eps)
        for attack in (*attacks.IN_A_BALL, "best of them")
        for knowledge in ("limited", "perfect")
        for eps in finished.eps
    }
    expected = informed | {("PGD, zero", eps) for eps in finished.eps} | {("CW-l2, zero", 0.0)}
    expected |= {("CW-l2, limited", None), ("CW-l2, perfect", None)}
    found = rows(finished)
    assert {r["system"] for r in found} == {WHOLE}
    assert all(0 <= r["value"] <= 1 for r in found if r["metric"] != "median_l2")
    assert all(r["n"] == 6 for r in found if r["metric"] != "median_l2")
    for metric in tables.FPRS:
        at = [
            (r["attack"], r["strength"])
            for r in found
            if (r["table"], r["metric"]) == ("extra/adaptive", metric)
        ]
        assert len(at) == len(set(at)) and set(at) == expected
    steps = [r["attack"] for r in found if r["table"] == "extra/adaptive/steps"]
    assert steps == [
        f"{a}, {n} steps" for a in ("selective PGD", "CW-l2") for n in (2, 4, 8, 16, 32)
    ]
    curve = [r for r in found if r["table"] == "extra/adaptive/distortion"]
    for norm in ("linf", "l2"):
        values = [r["value"] for r in curve if r["attack"] == norm]
        assert values == sorted(values) and values


def test_who_knows_more_succeeds_more_and_a_stricter_detector_lets_less_pass(finished):
    for eps in finished.eps:
        zero = value(finished, "PGD, zero", eps, "SR@5")
        best = value(finished, "best of them, perfect", eps, "SR@5")
        assert best >= zero
        assert best <= value(finished, "best of them, perfect", eps, "SR@1")
        for attack in attacks.IN_A_BALL:
            assert value(finished, f"{attack}, perfect", eps, "SR@5") <= best
    assert best > zero


@pytest.mark.slow
def test_cmag_plus_falls_to_who_knows_it_and_not_to_who_does_not(siege_of_cmag_plus):
    siege = siege_of_cmag_plus
    blind = attacks.run(siege.config, "PGD", siege.victim, None, siege.targets, eps=0.4)
    assert blind.success.all()
    made = siege.run("orthogonal PGD", "perfect", eps=0.4)
    assert siege.evaded(made.images, 0.05).sum() > siege.evaded(blind.images, 0.05).sum()


@pytest.mark.slow
@pytest.mark.parametrize("system", ["CMAG", "CMAG+", "MagNet"])
def test_every_system_can_be_attacked(tmp_path, system):
    config = tiny(tmp_path, system)
    program.main(config, BASE)
    zero = value(config, "PGD, zero", 0.4, "SR@5")
    assert value(config, "best of them, perfect", 0.4, "SR@5") >= zero


def flags_alike(detector, data):
    """Whether the attacker's function is above zero where the detector flags, at every rate."""
    clean = data.test.images[:40]
    noise = np.random.default_rng(0).uniform(-1, 1, clean.shape)
    images = np.clip(clean + noise * np.linspace(0, 0.5, 40)[:, None, None, None], 0, 1)
    images[::2] = np.round(images[::2])  # what an untrained autoencoder rebuilds worst
    images = images.astype(np.float32)
    scores = detectors.score_all(detector.system, images)
    gradients = jax.jit(lambda function, x: jax.vjp(function, x)[1](np.ones(40, np.float32))[0])
    for fpr in (0.05, 0.01, 0.2):
        flags = detectors.DETECTORS[detector.system.name].detect(scores, detector.thresholds(fpr))
        answer = np.asarray(detector.flagged(fpr)(images))
        assert 0 < np.sum(flags) < 40
        np.testing.assert_array_equal(answer > 0, flags)
        gradient = gradients(detector.flagged(fpr), images)
        assert np.isfinite(gradient).all() and np.any(gradient)


def test_the_attackers_detector_flags_what_the_detector_flags(siege, data):
    flags_alike(siege.detector, data)


def test_the_attackers_detector_of_many_scores_flags_what_the_detector_flags(
    data, victim, finished
):
    """Of four scores, each with a threshold of its own."""
    system = untrained("MagNet", BASE.magnet, data, victim, finished.cache_dir)
    detector = attacked_detector.true(system, data.validation, finished.cache_dir)
    assert len(detector.thresholds(0.05)) == 4
    flags_alike(detector, data)


@pytest.mark.slow
def test_the_attackers_detector_of_cmag_plus_flags_what_it_flags(siege_of_cmag_plus, data):
    flags_alike(siege_of_cmag_plus.detector, data)


def test_the_attacker_of_feature_squeezing_has_a_gradient_through_rounding(siege):
    """BPDA: of bit depth alone, the true gradient is that of the image as it is."""
    detector, image = siege.detector, siege.targets.images[:1] * 0.6 + 0.1
    params = detector.system.params
    assert params.config.medians == ()
    true = detectors.DETECTORS[WHOLE].score

    def score(x):
        return true(siege.victim.features_and_logits, params, x)["l1"].sum()

    through = jax.grad(lambda x: detector.flagged(0.2)(x).sum())(image)
    around = jax.grad(score)(image)
    cosine = np.sum(through * around) / np.linalg.norm(through) / np.linalg.norm(around)
    assert cosine < 0.99


def test_selective_pgd_aims_at_one_class_after_the_other_until_the_attacker_is_content(
    siege, monkeypatch
):
    """Each image's is the first that he is content with, and in the ball around the clean one."""
    eps, seen = 0.4, []
    attack = attacks.attacks_jax.run

    def spy(attack_, oracle, key, images, labels, **options):
        result = attack(attack_, oracle, key, images, labels, **options)
        seen.append((images, labels, np.asarray(result.success), np.asarray(result.images)))
        return result

    monkeypatch.setattr(attacks.attacks_jax, "run", spy)
    config = dataclasses.replace(siege.config, batch=6, seed=5, steps=24)  # not in the cache
    made = attacks.run(
        config, "selective PGD", siege.victim, siege.detector, siege.targets, eps=eps
    )
    clean, labels = siege.targets.images, siege.targets.labels
    (_, first, content, one), (starts, second, _, two) = seen
    logits = np.array(siege.victim.logits(clean))
    logits[np.arange(6), labels] = -np.inf
    np.testing.assert_array_equal(first, logits.argmax(1))  # the likeliest wrong class
    np.testing.assert_array_equal(second[~content], np.argsort(-logits, 1)[~content, 1])
    assert content.any()
    np.testing.assert_array_equal(made.images[content], one[content])
    np.testing.assert_array_equal(starts[~content], clean[~content])
    assert np.all(made.success >= content)
    for i in np.flatnonzero(~content):
        assert any(np.array_equal(made.images[i], each[i]) for each in (one, two, clean))
    assert np.abs(made.images - clean).max() <= eps + 1e-6


def test_images_with_which_the_victim_alone_can_t_be_fooled_are_given_up(siege):
    bare = siege.bare(0.1)
    assert 0 < bare.success.sum() < len(bare.success)
    made = siege.run("orthogonal PGD", "perfect", eps=0.1)
    np.testing.assert_array_equal(made.images[~bare.success], siege.targets.images[~bare.success])
    assert not made.success[~bare.success].any() and not made.distance[~bare.success].any()
    assert np.any(made.distance[bare.success] > 0)
    # The rest fare as without the others.
    rows = np.flatnonzero(bare.success)
    some = datasets.Split(siege.targets.images[rows], siege.targets.labels[rows])
    alone = attacks.run(siege.config, "orthogonal PGD", siege.victim, siege.detector, some, eps=0.1)
    np.testing.assert_array_equal(made.success[rows], alone.success)


def test_where_nothing_can_be_fooled_nothing_is_attacked(siege):
    made = siege.run("selective PGD", "limited", eps=1e-4)
    assert not made.success.any()
    np.testing.assert_array_equal(made.images, siege.targets.images)


def test_what_the_attacker_is_content_with_evades(siege):
    for name in (*attacks.IN_A_BALL, "CW-l2"):
        made = siege.run(name, "perfect", eps=0.0 if name == "CW-l2" else 0.4)
        np.testing.assert_array_equal(siege.evaded(made.images, 0.05), made.success)
        if name != "CW-l2":
            change = np.abs(made.images - siege.targets.images).max(axis=(1, 2, 3))
            assert np.all(change <= 0.4 + 1e-6)


def test_a_limited_attacker_has_a_detector_of_his_own(siege):
    known = siege.known
    assert known["limited"].system.key != known["perfect"].system.key
    assert known["limited"].margin == siege.config.margin and known["perfect"] is siege.detector


GAN = detectors.DETECTORS["Defense-GAN"].DefenseGANConfig(
    "dense", "dense", generator_width=8, critic_width=8, latent_size=8, search_steps=6,
    restarts=3, epochs=1,
)  # fmt: skip


@pytest.fixture(scope="module", name="gan")
def _gan(finished, data, victim):
    """(Defense-GAN's detector, what everybody attacks in its place, the options)"""
    validation = datasets.Split(data.validation.images[:40], data.validation.labels[:40])
    system = untrained("Defense-GAN", GAN, data, victim, finished.cache_dir)
    detector = attacked_detector.true(system, validation, finished.cache_dir)
    options = dataclasses.replace(finished, search_steps=4, restarts=2)
    return detector, attacked_detector.differentiable(detector, validation, options), options


def test_of_defense_gan_everybody_attacks_a_cheap_copy(gan):
    """Which is calibrated for itself, and stands for the whole search only in attacks."""
    detector, cheap, options = gan
    assert detector.system.params.starts.shape == (3, 8)
    assert cheap.system.params.starts.shape == (2, 8)
    assert cheap.system.params.config.search_steps == 4 and cheap.margin == options.margin
    assert cheap.thresholds(0.05)["l2"] > detector.thresholds(0.05)["l2"]


def test_of_defense_gan_few_images_are_scored_by_the_whole_search(finished, data, victim):
    """Those of the tables of `experiments.cmag`: a search of 200 steps for each image."""
    base = dataclasses.replace(BASE, defense_gan=GAN, slow_images=30)
    config = dataclasses.replace(finished, slow_images=4, search_steps=4)
    siege = tables.lay(config, base, "Defense-GAN", data, victim)
    assert len(siege.targets) == 4
    tables_images = data.samples(30, seed=config.seed).validation.images
    of_tables = detectors.score_all(siege.detector.system, tables_images, config.cache_dir)
    np.testing.assert_array_equal(siege.detector.validation["l2"], of_tables["l2"])
    for known in siege.known.values():
        assert len(known.validation["l2"]) == len(data.validation)


@pytest.mark.slow
def test_the_cheap_copy_of_defense_gan_can_be_attacked(gan, data, victim):
    _, cheap, options = gan
    targets = attack_runs.choose(victim, data.test, 2, seed=0)
    made = attacks.run(options, "orthogonal PGD", victim, cheap, targets, eps=0.4, steps=4)
    assert made.images.shape == targets.images.shape


def test_a_second_run_goes_on_with_what_there_is_and_gives_the_same(finished, monkeypatch):
    before = rows(finished)
    (finished.folder / "results.json").unlink()
    # As if the first had been interrupted: one attack's images are not there yet.
    lost = sorted(finished.cache_dir.glob("adaptive-pgd-0.4-*"))[0]
    next(lost.iterdir()).unlink()
    runs = []
    attack = attacks.attacks_jax.run
    monkeypatch.setattr(
        attacks.attacks_jax, "run", lambda *a, **k: runs.append(a) or attack(*a, **k)
    )
    program.main(finished, BASE)
    assert len(runs) == 1
    assert rows(finished) == before


@pytest.mark.parametrize("name", ["quick", "paper"])
def test_presets_are_what_the_command_line_starts_from(name):
    parsed = parse([f"--preset={name}", "--dataset=mnist", "--system=CMAG+", "--steps=7"])
    expected = dataclasses.replace(preset(name, "mnist"), system=("CMAG+",), steps=7)
    assert parsed == expected and parsed.chosen == ("CMAG+",)
    assert preset(name, "mnist").chosen == detectors.NAMES
    assert preset(name, "mnist").steps == 1000


def test_runs_of_some_systems_have_a_folder_of_their_own():
    assert str(Config().folder) == "runs/adaptive-digits-quick-seed0"
    some = parse(["--system", "MagNet", "feature squeezing", "--seed=2"])
    assert str(some.folder) == "runs/adaptive-digits-quick-seed2-magnet-feature-squeezing"


@pytest.mark.parametrize(
    "option", ["--images=0", "--steps=0", "--system=PixelDefend", "--step-size=0"]
)
def test_what_makes_no_sense_is_refused_before_anything_runs(option, capsys):
    with pytest.raises(SystemExit):
        parse([option])
    assert "expected" in capsys.readouterr().err or "PixelDefend" in option


@pytest.mark.parametrize("eps", [(), (0.2, 0.1), (0.0, 0.1)])
def test_strengths_rise(eps):
    with pytest.raises(ValueError, match="eps that rise from above 0"):
        Config(eps=eps)
