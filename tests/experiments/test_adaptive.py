"""`python -m experiments.adaptive`, end to end, on real digits and tiny detectors."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from cmag_jax import CMAG_PLUS, CMAGConfig
from cmag_jax.magnet import MagNetConfig
from experiments import attacking, cmag_config, datasets, systems, victims
from experiments.adaptive import __main__ as program
from experiments.adaptive import attacks, detectors, tables
from experiments.adaptive.config import Config, parse, preset

SYSTEMS = ("CMAG+", "feature squeezing")
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


@pytest.fixture(scope="module", name="sieges")
def _sieges(finished):
    data = datasets.load("digits")
    victim = victims.get(data, BASE.victim, seed=0, cache_dir=finished.cache_dir)
    return {name: tables.lay(finished, BASE, name, data, victim) for name in SYSTEMS}


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
        f"{a}, {n} steps" for a in ("selective PGD", "orthogonal PGD") for n in (2, 4, 8, 16, 32)
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


def test_cmag_plus_falls_to_who_knows_it_and_not_to_who_does_not(sieges):
    siege = sieges["CMAG+"]
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


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_attackers_detector_flags_what_the_detector_flags(sieges, system):
    detector, targets = sieges[system].detector, sieges[system].targets
    noise = np.random.default_rng(0).uniform(-1, 1, (40, *targets.images.shape[1:]))
    clean = datasets.load("digits").test.images[:40]
    images = np.clip(clean + noise * np.linspace(0, 0.5, 40)[:, None, None, None], 0, 1)
    images = images.astype(np.float32)
    scores = systems.score_all(detector.system, images)
    for fpr in (0.05, 0.01, 0.2):
        flags = np.asarray(systems.MODULES[system].detect(scores, detector.thresholds(fpr)))
        answer = np.asarray(detector.flagged(fpr)(images))
        assert 0 < flags.sum() < 40
        np.testing.assert_array_equal(answer > 0, flags)
        gradient = jax.vjp(detector.flagged(fpr), images)[1](answer)[0]
        assert np.isfinite(gradient).all() and np.any(gradient)


def test_the_attacker_of_feature_squeezing_has_a_gradient_through_rounding(sieges):
    """BPDA: of bit depth alone, the true gradient is that of the image as it is."""
    detector = sieges["feature squeezing"].detector
    bits = dataclasses.replace(detector.system.params.config, medians=())
    params = dataclasses.replace(detector.system.params, config=bits)
    system = dataclasses.replace(detector.system, params=params)
    image = sieges["feature squeezing"].targets.images[:1] * 0.6 + 0.1
    flagged = dataclasses.replace(detector, system=system).flagged(0.2)
    true = systems.MODULES["feature squeezing"].score

    def score(x):
        return true(system.victim.features_and_logits, params, x)["l1"].sum()

    through = jax.grad(lambda x: flagged(x).sum())(image)
    around = jax.grad(score)(image)
    cosine = np.sum(through * around) / np.linalg.norm(through) / np.linalg.norm(around)
    assert cosine < 0.99


@pytest.mark.parametrize("name", attacks.MODES)
def test_the_curve_over_steps_is_that_of_runs_with_so_many_steps(sieges, name):
    siege = sieges[WHOLE]
    many = siege.run(name, "perfect", eps=0.4, steps=32)  # as the program did
    for steps in (8, 10):
        few = siege.run(name, "perfect", eps=0.4, steps=steps)
        assert few.success.any() and few.success.sum() < many.success.sum()
        np.testing.assert_array_equal(many.within(steps), few.success)
    np.testing.assert_array_equal(many.within(32), many.success)


def test_what_the_attacker_is_content_with_evades(sieges):
    siege = sieges[WHOLE]
    for name in (*attacks.IN_A_BALL, "CW-l2"):
        made = siege.run(name, "perfect", eps=0.0 if name == "CW-l2" else 0.4)
        np.testing.assert_array_equal(siege.evaded(made.images, 0.05), made.success)
        if name != "CW-l2":
            change = np.abs(made.images - siege.targets.images).max(axis=(1, 2, 3))
            assert np.all(change <= 0.4 + 1e-6)


def test_a_limited_attacker_has_a_detector_of_his_own(sieges):
    known = sieges["CMAG+"].known
    assert known["limited"].system.key != known["perfect"].system.key
    assert (
        known["limited"].margin == sieges["CMAG+"].config.margin
        and known["perfect"] is sieges["CMAG+"].detector
    )


def test_of_defense_gan_everybody_attacks_a_cheap_copy(sieges):
    """Which is calibrated for itself, and stands for the whole search only in attacks."""
    siege, data = sieges["CMAG+"], datasets.load("digits")
    validation = datasets.Split(data.validation.images[:40], data.validation.labels[:40])
    config = systems.MODULES["Defense-GAN"].DefenseGANConfig(
        "dense", "dense", generator_width=8, critic_width=8, latent_size=8, epochs=1,
        search_steps=6, restarts=3,
    )  # fmt: skip
    cache_dir = siege.config.cache_dir
    system = systems.fit("Defense-GAN", config, data, siege.victim, seed=0, cache_dir=cache_dir)
    detector = detectors.true(system, validation, cache_dir)
    options = dataclasses.replace(siege.config, search_steps=4, restarts=2)
    cheap = detectors.differentiable(detector, validation, options)
    assert detector.system.params.starts.shape == (3, 8)
    assert cheap.system.params.starts.shape == (2, 8)
    assert cheap.system.params.config.search_steps == 4 and cheap.margin == options.margin
    assert cheap.thresholds(0.05)["l2"] > detector.thresholds(0.05)["l2"]
    targets = attacking.choose(siege.victim, data.test, 2, seed=0)
    made = attacks.run(options, "orthogonal PGD", siege.victim, cheap, targets, eps=0.4, steps=4)
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
    assert preset(name, "mnist").chosen == systems.NAMES
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
