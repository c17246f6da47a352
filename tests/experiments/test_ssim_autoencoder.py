"""`python -m experiments.ssim_autoencoder` end to end, and its measures by hand."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from experiments import datasets, ssim_autoencoder
from experiments.ssim_autoencoder import LOSSES, Config

LOSSES_AND_TARGETS = [*LOSSES, *(f"{loss}-moving" for loss in LOSSES)]


@pytest.fixture(scope="module", name="finished")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    config = Config(
        epochs=1, images=20, eps=(0.2,), output_dir=folder / "run", cache_dir=folder / "cache"
    )
    return config, ssim_autoencoder.main(config)


def test_it_leaves_a_whole_run_folder(finished):
    config, run = finished
    assert run == config.output_dir
    assert {p.name for p in run.iterdir()} == {
        "config.json", "results.json", "report.html", "figures",
    }  # fmt: skip
    assert {p.name for p in (run / "figures").iterdir()} == {"figure-7.png", "figure-8.png"}
    html = (run / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 2
    assert not re.search(r'(src|href)="(?!data:)', html)  # self-contained
    assert json.loads((run / "config.json").read_text())["epochs"] == 1


def test_it_gives_every_row_of_both_autoencoders(finished):
    _, run = finished
    rows = json.loads((run / "results.json").read_text())["rows"]
    assert {row["table"] for row in rows} == {"extra/figures7-8"}
    attacked = [f"FGSM-{name}" for name in LOSSES_AND_TARGETS]
    others = ["random signs", "PGD-SSIM", "PGD-l2"]
    expected = {("none", None, metric) for metric in ("mean_ssim", "mean_l2")}
    expected |= {(a, 0.2, m) for a in attacked + others for m in ("mean_ssim", "mean_l2")}
    expected |= {
        (attack, None, metric)
        for attack in attacked
        for metric in ("gradient_on_foreground", "gradient_edge_correlation")
    }
    for system in ("SSIM-trained", "l2-trained"):
        of_system = [row for row in rows if row["system"] == system]
        found = [(row["attack"], row["strength"], row["metric"]) for row in of_system]
        assert set(found) == expected and len(found) == len(expected)
        value = {name: row["value"] for name, row in zip(found, of_system, strict=True)}
        clean, noise = value["none", None, "mean_ssim"], value["random signs", 0.2, "mean_ssim"]
        assert 0 < value["FGSM-SSIM", 0.2, "mean_ssim"] < min(clean, noise) <= 1
        assert value["PGD-l2", 0.2, "mean_l2"] > value["none", None, "mean_l2"]
    assert all(np.isfinite(row["value"]) and row["n"] == 20 for row in rows)


def test_autoencoders_are_trained_once_and_what_determines_them_makes_others(finished, monkeypatch):
    config, _ = finished
    data = datasets.load("digits")
    monkeypatch.setattr(ssim_autoencoder, "train", None)  # training would fail
    ours, theirs = (ssim_autoencoder.get(data, loss, config) for loss in ("SSIM", "l2"))
    images = data.test.images[:3]
    rebuilt = ours(images)
    assert rebuilt.shape == images.shape and 0 <= rebuilt.min() <= rebuilt.max() <= 1
    assert not np.array_equal(rebuilt, theirs(images))
    with pytest.raises(TypeError, match="not callable"):
        ssim_autoencoder.get(data, "SSIM", Config(epochs=2, cache_dir=config.cache_dir))


def soften(images: jax.Array) -> jax.Array:
    """A toy that rebuilds: neighbours are mixed, so that every loss has a slope."""
    return 0.6 * images + 0.3 * jnp.roll(images, 1, axis=1)


def test_every_attack_stays_in_the_ball_and_raises_the_loss_it_attacks():
    rebuild = Partial(soften)
    clean = jnp.asarray(np.random.default_rng(0).random((8, 6, 6, 1)), jnp.float32)
    slopes = ssim_autoencoder.gradients(rebuild, clean)
    assert list(slopes) == LOSSES_AND_TARGETS
    made = ssim_autoencoder.attacks(jax.random.key(0), rebuild, clean, slopes, (0.05,))
    for images in made.values():
        assert np.abs(images - clean).max() <= 0.05 + 1e-6
        assert images.min() >= 0 and images.max() <= 1
    for attack in [*(f"FGSM-{name}" for name in LOSSES_AND_TARGETS), "PGD-SSIM", "PGD-l2"]:
        loss, moving = LOSSES[attack.split("-")[1]], attack.endswith("moving")

        def raised(name, eps, loss=loss, moving=moving):
            images = made[name, eps]
            return loss(rebuild(images), images if moving else clean)

        assert (raised(attack, 0.05) > raised("none", None)).all()
        assert (raised(attack, 0.05) > raised("random signs", 0.05)).all()


def test_a_target_that_moves_adds_its_own_slope():
    """Of the squared error of a network that makes the same of everything, it is all there is."""
    clean = jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 1)), jnp.float32)
    slopes = ssim_autoencoder.gradients(Partial(lambda images: 0 * images + 0.5), clean)
    np.testing.assert_array_equal(slopes["l2"], 0)
    np.testing.assert_allclose(slopes["l2-moving"], 2 * (clean - 0.5) / 16, rtol=1e-5)


def test_the_foreground_s_share_by_hand():
    image = np.array([[0.9, 0.5, 0.0, 0.05]])[..., None]
    size = np.array([[3.0, 3.0, 1.0, 1.0]])[..., None]
    # 6 of 8 of the gradient, on 2 of 4 pixels.
    assert ssim_autoencoder.on_foreground(size, image) == pytest.approx(0.75 / 0.5)
    assert np.isnan(ssim_autoencoder.on_foreground(0 * size, image))
    assert np.isnan(ssim_autoencoder.on_foreground(size, 0 * image))


def test_the_correlation_with_edges_by_hand():
    image = np.tile([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], (4, 1))[..., None]  # one edge, down the middle
    edge = np.tile([0.0, 0.0, 0.5, 0.5, 0.0, 0.0], (4, 1))[..., None]  # by central differences
    measure = ssim_autoencoder.edge_correlation
    assert measure(3 * edge + 1, image) == pytest.approx(1)
    assert measure(1 - edge, image) == pytest.approx(-1)
    across = np.tile([[0.0], [1.0], [1.0], [0.0]], (1, 6))[..., None]
    assert measure(across, image) == pytest.approx(0)
    assert np.isnan(measure(np.ones_like(image), image))
    assert np.isnan(measure(edge, np.ones_like(image)))


def test_images_without_a_measure_are_left_out_of_the_mean():
    images = jnp.stack([jnp.zeros((4, 6, 1)), jnp.ones((4, 6, 1)).at[:, :3].set(0)])
    figures = list(ssim_autoencoder.alignments(images, {"l2": jnp.abs(images)}))
    assert [(f[0], f[2], f[4]) for f in figures] == [
        ("FGSM-l2", "gradient_on_foreground", 1),
        ("FGSM-l2", "gradient_edge_correlation", 1),
    ]
    assert figures[0][3] == 2  # all of it, on half of the pixels


@pytest.mark.parametrize(
    "options", [{"epochs": 0}, {"batch_size": 0}, {"images": 0}, {"learning_rate": 0.0}]
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        Config(**options)


@pytest.mark.parametrize("eps", [(0.0,), (0.1, 1.5), (float("nan"),)])
def test_strengths_that_make_no_sense_are_refused(eps):
    with pytest.raises(ValueError, match="expected eps"):
        Config(eps=eps)
