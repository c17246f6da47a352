"""The benchmark runs, measures what it says, and writes it down. No figure is asserted."""

import json

import jax
import numpy as np
import optax
import pytest

from cmag_jax import CMAG_PLUS, CMAGConfig, cmag, defense_gan, magnet
from experiments import victims
from experiments.benchmark import (
    __main__ as benchmark,
)
from experiments.benchmark import (
    attacks as benchmark_attacks,
)
from experiments.benchmark import (
    detectors as benchmark_detectors,
)
from experiments.benchmark import (
    peers,
    timing,
)
from experiments.benchmark import (
    spt as benchmark_spt,
)
from experiments.benchmark import (
    victims as benchmark_victims,
)
from experiments.pipeline import detectors


@pytest.fixture(name="run")
def _run(tmp_path, monkeypatch):
    """Runs a small benchmark and gives its rows."""
    small = victims.VictimConfig((4, 8), dense=16, epochs=1, batch_size=200)
    monkeypatch.setitem(benchmark_victims.CONFIGS, "digits", small)
    monkeypatch.setattr(benchmark_attacks.peers, "installed", lambda: [])
    monkeypatch.setattr(benchmark_detectors, "has_torch", lambda: False)
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
    with pytest.raises(ValueError, match="got FGMS"):
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


def test_every_detector_is_timed(run):
    rows = run("detectors")
    assert {row["system"] for row in rows} == set(detectors.NAMES)
    assert {row["strength"] for row in rows} == {1, 4}
    assert all(row["value"] > 0 for row in rows)
    metrics = {"milliseconds:forward", "milliseconds:score", "score_to_forward"}
    assert metrics < {row["metric"] for row in rows if row["system"] == "CMAG"}
    of_search = {row["metric"] for row in rows if row["system"] == "Defense-GAN"}
    assert metrics | {"times_faster_than_a_loop_over_restarts"} < of_search
    assert not any("fit" in row["metric"] for row in rows)  # without torch


def test_a_race_that_is_over_is_kept_whatever_becomes_of_the_next(run, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark_detectors, "_search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("detectors")
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert {row["system"] for row in rows} == set(detectors.NAMES) - {"Defense-GAN"}


def test_detectors_want_a_data_set_of_theirs():
    with pytest.raises(ValueError, match="mnist"):
        benchmark.main(benchmark.Config("detectors", "cifar10"))


def test_the_loop_over_restarts_is_the_same_search():
    images = np.random.default_rng(0).uniform(size=(3, 8, 8, 1)).astype(np.float32)
    config = defense_gan.DefenseGANConfig(
        "dense", "dense", generator_width=4, critic_width=4, latent_size=5, search_steps=4
    )
    params = defense_gan.init(jax.random.key(0), None, images, config)

    def score(params, images):
        return defense_gan.score(None, params, images)

    loop = benchmark_detectors._loop_over_restarts(score, params, images)
    np.testing.assert_allclose(loop["l2"], score(params, images)["l2"], rtol=1e-4)


@pytest.mark.peers
def test_fits_are_timed_beside_torch(run, monkeypatch):
    monkeypatch.setattr(benchmark_detectors, "has_torch", lambda: True)
    monkeypatch.setattr(benchmark_detectors, "FIT_STEPS", 1)
    rows = [row for row in run("detectors") if row["metric"] == "fit_to_torch"]
    assert [(row["system"], row["attack"]) for row in rows] == [
        ("CMAG", "fit FMR"), ("CMAG", "fit LR"), ("CMAG", "fit GR"),
        ("CMAG+", "fit FMR"), ("CMAG+", "fit LR"), ("CMAG+", "fit GR"),
        ("MagNet", "fit I"),
    ]  # fmt: skip
    assert all(row["value"] > 0 for row in rows)


SMALL = {"fmr_width": 6, "lr_width": 7, "gr_width": 8}
SMALL_CMAG = CMAGConfig(**SMALL)
SMALL_PLUS = CMAGConfig(**SMALL, **{
    name: getattr(CMAG_PLUS, name)
    for name in ("combination", "fmr_noise", "gr", "contrast", "scores", "final_rate")
})  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize(
    ("part", "config"),
    [
        *((part, config) for part in ("fmr", "lr", "gr") for config in (SMALL_CMAG, SMALL_PLUS)),
        ("I", magnet.MagNetConfig(regularisation=1e-4)),
    ],
)
def test_torch_is_given_the_same_training_step(part, config, monkeypatch):
    """The same loss, before and after a step, from the same weights, images and random draws. In
    colour, so that an order of channels that is not the same would show."""
    torch = pytest.importorskip("torch")
    from experiments.benchmark.peers import cmag_training

    images = np.random.default_rng(0).uniform(size=(10, 16, 16, 3)).astype(np.float32)
    network = victims.make_cnn(5, victims.VictimConfig((4, 6), dense=8, standardise=True))
    weights = network.init(jax.random.key(0), images)
    victim = victims.bind(network, weights, "").features_and_logits
    twin = peers.torch_twin(network, weights)
    module, key = (magnet if part == "I" else cmag), jax.random.key(1)
    params = module.init(jax.random.key(2), victim, images, config)

    task = cmag_training.task(part, params, images, twin.layers)
    drawn = _draws(part, config, key, images, victim, task.draw)
    optimiser = torch.optim.Adam(task.network.parameters(), config.learning_rate)
    theirs = []
    for _ in range(2):
        optimiser.zero_grad()
        value = task.loss(task.data, drawn)
        value.backward()
        optimiser.step()
        theirs.append(value.item())

    ours, losses = getattr(params, part), []
    loss = _loss(module, part, params, victim, images, key, monkeypatch)
    adam = optax.adam(config.learning_rate)
    state = adam.init(ours)
    for _ in range(2):
        value, gradient = jax.jit(jax.value_and_grad(loss))(ours)
        updates, state = adam.update(gradient, state)
        ours, losses = optax.apply_updates(ours, updates), [*losses, value]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses, theirs, atol=1e-4)


def _loss(module, part, params, victim, images, key, monkeypatch):
    """What `fit_module` has minimised, as a function of the module's weights."""
    caught = []

    def train(_key, loss, weights, context, data, **_options):
        caught.append(lambda weights: loss(weights, context, data, key))
        return weights, None

    monkeypatch.setattr(module, "train", train)
    module.fit_module(part, key, victim, params, images)
    return caught[0]


def _draws(part, config, key, images, victim, draw):
    """What our loss draws with the key, as torch's takes it; torch's own has to be like it."""
    import torch

    x, (_, logits) = peers.to_torch(images), victim(images)
    given = draw((x, None, torch.from_numpy(np.array(logits))) if part == "gr" else (x,))
    if given is None:
        return None
    if part == "fmr":
        half = images[: len(images) // 2]
        sd_key, noise_key = jax.random.split(key)
        sd = jax.random.uniform(sd_key, (len(half), 1, 1, 1), maxval=config.fmr_noise)
        drawn = peers.to_torch(sd * jax.random.normal(noise_key, half.shape))
    elif part == "gr":
        drawn = torch.from_numpy(np.array(cmag._another_class(key, logits))).long()
    else:
        drawn = peers.to_torch(config.noise * jax.random.normal(key, images.shape))
    assert given.shape == drawn.shape
    return drawn
