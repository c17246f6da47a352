"""Our attacks beside other programs' on the same weights, by the code of `experiments.parity`."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import parity, victims
from experiments.benchmark import cases as attack_cases
from experiments.benchmark import peers
from experiments.benchmark import victims as benchmark_victims
from experiments.benchmark.peers import Outcome

IMAGES = 40
SLOW = 4  # images for peers that take the images one by one
CASES = attack_cases.parity("digits")


@pytest.fixture(scope="module", name="arena")
def _arena(tmp_path_factory):
    pytest.importorskip("torch")
    return parity.prepare(
        parity.Config("digits", images=IMAGES, cache_dir=tmp_path_factory.mktemp("cache"))
    )


def test_peers_that_are_not_installed_are_named(monkeypatch, capsys):
    missing = {"foolbox", "art"}
    monkeypatch.setattr(
        peers.importlib.util, "find_spec", lambda name: None if name in missing else object()
    )
    assert peers.installed() == ["torchattacks"]
    assert "Foolbox is not installed" in capsys.readouterr().out
    missing.add("torch")
    assert peers.installed() == []


@pytest.mark.peers
def test_the_torch_twin_is_the_same_network(arena):
    images = arena.split.images
    for share_ties in (False, True):
        config = benchmark_victims.CONFIGS["digits"]
        network = victims.make_cnn(arena.classes, config)
        twin = peers.torch_twin(network, arena.victim.params, share_ties=share_ties)
        theirs = twin(peers.to_torch(images)).detach().numpy()
        np.testing.assert_allclose(arena.victim.logits(images), theirs, atol=1e-3)


@pytest.mark.peers
@pytest.mark.parametrize("convolutions", [1, 2])
def test_the_torch_twin_standardises_and_pools_as_the_network_does(convolutions):
    torch = pytest.importorskip("torch")
    config = victims.VictimConfig((4, 6), convolutions=convolutions, dense=8, standardise=True)
    network = victims.make_cnn(5, config)
    images = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)
    images[:, :8] = 0.5  # max pooling meets ties
    params = network.init(jax.random.key(0), images)
    twin = peers.torch_twin(network, params, share_ties=True)
    tensor = peers.to_torch(images).requires_grad_()
    theirs = twin(tensor)
    np.testing.assert_allclose(network.apply(params, images)[1], theirs.detach(), atol=1e-4)
    gradient = jax.grad(lambda x: network.apply(params, x)[1][:, 0].sum())(images)
    (of_theirs,) = torch.autograd.grad(theirs[:, 0].sum(), tensor)
    np.testing.assert_allclose(gradient, peers.from_torch(of_theirs), atol=1e-4)


@pytest.mark.peers
@pytest.mark.parametrize("name", peers.PEERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ours_finds_what_a_peer_finds(arena, case, name):
    """As often and as near; pixel by pixel where nothing is left to chance. Where the peer's is
    another algorithm (`attack_cases.DIFFERENT` says how), ours must not be the worse."""
    if name not in arena.names:
        pytest.skip(f"{name} is not installed")
    case = replace(case, few={peer: min(n, SLOW) for peer, n in case.few.items()})
    theirs = next(parity.run_peers(case, arena._replace(names=[name]), 0), None)
    if theirs is None:
        pytest.skip(f"{name} has no such attack")
    _, outcome, _ = theirs
    n = len(outcome.images)
    split = parity.Split(arena.split.images[:n], arena.split.labels[:n])
    ours, _ = parity.run_ours(case, arena._replace(split=split), 0)
    figures = parity.against(case, split.images, Outcome(*ours), outcome)

    more = figures["success_rate:ours"] - figures["success_rate"]
    chance = 0.0 if case.deterministic else 2 / n**0.5
    assert more >= -max(0.01, chance)
    if (case.name, name) in attack_cases.DIFFERENT:
        return
    assert abs(more) <= max(0.01, chance)
    if "mean_distortion" in figures:
        ratio = figures["mean_distortion:ours"] / figures["mean_distortion"]
        assert ratio == pytest.approx(1, abs=0.03 if case.deterministic else 0.15)
    # A gradient that is zero but for rounding may have either sign: a handful of pixels.
    assert figures.get("pixels_that_differ", 0.0) < 2e-3
