"""Our attacks beside Foolbox's on the same weights (extra `peers`)."""

import jax
import numpy as np
import pytest

import attacks_jax
from experiments import datasets, peers, victims
from experiments.cmag_config import VICTIMS

pytestmark = pytest.mark.peers
foolbox = pytest.importorskip("foolbox")
torch = pytest.importorskip("torch")
KEY = jax.random.key(0)


@pytest.fixture(scope="module", name="same_weights")
def _same_weights(tmp_path_factory):
    """(victim, its torch twin, test images classified rightly, their labels)."""
    data, config = datasets.load("digits"), VICTIMS["digits"]
    victim = victims.get(data, config, seed=0, cache_dir=tmp_path_factory.mktemp("cache"))
    model = peers.torch_twin(victims.make_cnn(data.classes, config), victim.params)
    right = victims.predict(victim, data.test.images) == data.test.labels
    return victim, model, data.test.images[right][:100], data.test.labels[right][:100]


def test_the_torch_twin_is_the_same_network(same_weights):
    victim, model, images, _ = same_weights
    theirs = model(peers.to_torch(images)).detach().numpy()
    np.testing.assert_allclose(victim.logits(images), theirs, atol=1e-3)


def test_the_torch_twin_standardises_as_the_network_does():
    config = victims.VictimConfig((4, 6), dense=8, standardise=True)
    network = victims.make_cnn(5, config)
    images = np.random.default_rng(0).uniform(size=(3, 16, 16, 3)).astype(np.float32)
    params = network.init(KEY, images)
    theirs = peers.torch_twin(network, params)(peers.to_torch(images)).detach().numpy()
    np.testing.assert_allclose(network.apply(params, images)[1], theirs, atol=1e-4)


def run_theirs(attack, model, images, criterion, **options):
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, clipped, success = attack(fmodel, peers.to_torch(images), criterion, **options)
    return peers.from_torch(clipped), success.numpy()


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_foolbox_s_pixel_by_pixel(same_weights, eps, targeted):
    victim, model, images, labels = same_weights
    # On flat backgrounds max pooling meets ties, whose gradient JAX shares out and torch gives to
    # the first: both are right. Grain without ties makes the two comparable.
    grain = np.random.default_rng(0).uniform(0, 0.05, images.shape)
    images = np.clip(images + grain, 0, 1).astype(np.float32)
    goals = (labels + 1) % 10 if targeted else labels
    attack = attacks_jax.fgsm(eps=eps, targeted=targeted)
    ours = attacks_jax.run(attack, attacks_jax.stateless(victim.logits), KEY, images, goals)
    kind = (
        foolbox.criteria.TargetedMisclassification
        if targeted
        else foolbox.criteria.Misclassification
    )
    criterion = kind(torch.from_numpy(goals.astype(np.int64)))
    # Foolbox's own FGSM takes no targets; one step of its PGD is FGSM.
    one_step = foolbox.attacks.LinfPGD(rel_stepsize=1.0, steps=1, random_start=False)
    theirs, success = run_theirs(one_step, model, images, criterion, epsilons=eps)
    # A gradient that is zero but for rounding may have either sign: a handful of pixels.
    differ = np.abs(np.asarray(ours.images) - theirs) > 1e-4
    assert differ.mean() < 1e-3
    assert abs(np.mean(ours.success) - success.mean()) <= 0.01


@pytest.mark.parametrize("confidence", [0.0, 5.0])
@pytest.mark.parametrize("targeted", [False, True])
def test_cw_finds_what_foolbox_finds_as_near(same_weights, confidence, targeted):
    victim, model, images, labels = same_weights
    goals = (labels + 1) % 10 if targeted else labels
    attack = attacks_jax.carlini_wagner_l2(
        confidence=confidence, num_steps=150, binary_search_steps=5, initial_const=0.1,
        abort_early=False, targeted=targeted,
    )  # fmt: skip
    ours = attacks_jax.run(attack, attacks_jax.stateless(victim.logits), KEY, images, goals)
    kind = (
        foolbox.criteria.TargetedMisclassification
        if targeted
        else foolbox.criteria.Misclassification
    )
    theirs, success = run_theirs(
        foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=5, steps=150, stepsize=0.01, confidence=confidence,
            initial_const=0.1, abort_early=False,
        ),
        model, images, kind(torch.from_numpy(goals.astype(np.int64))), epsilons=None,
    )  # fmt: skip
    assert abs(np.mean(ours.success) - success.mean()) <= 0.01
    both = np.asarray(ours.success) & success
    assert both.mean() > 0.9
    distances = np.linalg.norm((theirs - images).reshape(len(images), -1), axis=1)
    ratio = np.mean(np.asarray(ours.distance)[both]) / np.mean(distances[both])
    assert 0.98 < ratio < 1.02
