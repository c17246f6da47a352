"""CMAG: the equations by hand, the cascade by hand, and a fit that learns."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from cmag_jax import CMAG_PLUS, CMAGConfig, cmag, global_ssim
from cmag_jax import _training as training
from cmag_jax.cmag import cascade
from cmag_jax.cmag.combined_p_value import rarity, tails
from tests.compilations import counted

KEY = jax.random.key(0)
SHAPE = (12, 12, 1)
CLASSES = 4
TINY = CMAGConfig(
    batch_size=32, fmr_epochs=40, lr_epochs=40, gr_epochs=40, fmr_width=16, lr_width=16, gr_width=64
)
PROTOTYPES = np.random.default_rng(7).uniform(size=(CLASSES, *SHAPE)).astype(np.float32)


def victim(images):
    """Space-to-depth for feature maps, similarity to prototypes for logits."""
    batch = images.shape[0]
    blocks = images.reshape(batch, 3, 4, 3, 4, 1).transpose(0, 1, 3, 2, 4, 5)
    logits = -5 * jnp.sum((images[:, None] - PROTOTYPES) ** 2, axis=(2, 3, 4))
    return blocks.reshape(batch, 3, 3, 16), logits


def clean_images(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    noise = rng.normal(scale=0.02, size=(count, *SHAPE))
    return np.clip(PROTOTYPES[labels] + noise, 0, 1).astype(np.float32)


@pytest.fixture(scope="module", name="fitted")
def _fitted():
    return cmag.fit(KEY, victim, clean_images(0, 256), TINY)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_losses_are_equations_12_to_14_as_they_are_meant(mu):
    x, rebuilt = clean_images(1, 2)
    expected = mu * np.mean((x - rebuilt) ** 2) + (1 - mu) * (1 - float(global_ssim(x, rebuilt)))
    loss = cmag.reconstruction_loss(x[None], rebuilt[None], mu=mu, ssim="global")
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


def test_fitting_lowers_all_three_losses(fitted):
    _, info = fitted
    for losses in info:
        assert losses.shape == (40,)
        assert losses[-1] < 0.7 * losses[0]


def test_epochs_are_reported_as_they_end():
    seen = []
    config = dataclasses.replace(TINY, fmr_epochs=2, lr_epochs=1, gr_epochs=1)
    _, info = cmag.fit(
        KEY, victim, clean_images(0, 64), config, on_epoch=lambda *what: seen.append(what)
    )
    assert [what[:3] for what in seen] == [("fmr", 1, 2), ("fmr", 2, 2), ("lr", 1, 1), ("gr", 1, 1)]
    assert seen[1][3] == info.fmr_loss[1]


def test_fitting_module_by_module_is_fitting(fitted):
    images = clean_images(0, 256)
    params, losses = cmag.init(KEY, victim, images, TINY), {}
    for name in cmag.MODULES:
        params, loss = cmag.fit_module(name, KEY, victim, params, images)
        losses |= loss  # "usual" and "tails" have none
    jax.tree.map(
        np.testing.assert_array_equal, (params, list(losses.values())), (fitted[0], list(fitted[1]))
    )
    with pytest.raises(ValueError, match=r"\('fmr', 'lr', 'gr', 'usual', 'tails'\), got 'mr'"):
        cmag.fit_module("mr", KEY, victim, params, images)


def test_the_compiled_epochs_of_an_accelerator_train_as_the_host_loop_does(fitted, monkeypatch):
    monkeypatch.setattr(training, "_host_epoch", training._compiled_epoch)
    config = dataclasses.replace(TINY, fmr_epochs=3, lr_epochs=1, gr_epochs=1)
    _, info = cmag.fit(KEY, victim, clean_images(0, 256), config)
    np.testing.assert_allclose(info.fmr_loss, fitted[1].fmr_loss[:3], rtol=1e-4)


@pytest.mark.parametrize("combination", ["hadamard", "average"])
def test_gr_sees_the_combination_of_fmr_and_lr(fitted, combination):
    params, _ = fitted
    params = dataclasses.replace(params, config=dataclasses.replace(TINY, combination=combination))
    seen = cmag.reconstruct(victim, params, clean_images(2, 5))
    product, average = seen.fmr * seen.lr, (seen.fmr + seen.lr) / 2
    expected = product if combination == "hadamard" else average
    np.testing.assert_allclose(seen.h, expected, rtol=1e-5)
    gr = params.gr["params"]
    x = seen.h.reshape(5, -1)
    for layer in ("Dense_0", "Dense_1"):
        x = np.maximum(x @ gr[layer]["kernel"] + gr[layer]["bias"], 0)
    x = x @ gr["Dense_2"]["kernel"] + gr["Dense_2"]["bias"]
    np.testing.assert_allclose(seen.gr, 1 / (1 + np.exp(-x)).reshape(5, *SHAPE), rtol=1e-4)


def test_scores_are_the_errors_of_gr(fitted):
    params, _ = fitted
    images = clean_images(3, 6)
    rebuilt = cmag.reconstruct(victim, params, images).gr
    scores = cmag.score(victim, params, images)
    assert {name: s.shape for name, s in scores.items()} == {"ssim": (6,), "l2": (6,)}
    np.testing.assert_allclose(scores["ssim"], 1 - global_ssim(images, rebuilt), atol=1e-6)
    norms = np.linalg.norm((images - np.asarray(rebuilt)).reshape(6, -1), axis=1)
    np.testing.assert_allclose(scores["l2"], norms, rtol=1e-5)


def test_temperature_sharpens_what_lr_sees():
    """At T = 1/1000 a lead of .02 in the logits is certainty (section 3.2's 0.491 and 0.490); at
    T = 1 it is nothing."""
    logits = jnp.log(jnp.array([[0.491, 0.490, 0.01, 0.009]]))
    sharp = cascade.distil(logits, TINY)
    np.testing.assert_allclose(sharp[0, 0], np.exp(1000 * np.log(0.491 / 0.490)) / (
        1 + np.exp(1000 * np.log(0.491 / 0.490))), rtol=1e-3)  # fmt: skip
    soft = cascade.distil(logits, dataclasses.replace(TINY, temperature=1.0))
    np.testing.assert_allclose(soft, [[0.491, 0.490, 0.01, 0.009]], rtol=1e-5)


def test_a_fooled_victim_gives_its_image_away(fitted):
    """Images whose feature maps are one class's and whose logits are another's: what CMAG is
    for. Thresholds from held-out clean images flag them at a few per cent false positives."""
    params, _ = fitted
    thresholds = cmag.calibrate(cmag.score(victim, params, clean_images(4, 400)), fpr=0.05)
    clean_flags = cmag.detect(cmag.score(victim, params, clean_images(5, 400)), thresholds)

    def fooled(images):
        feature_maps, logits = victim(images)
        return feature_maps, jnp.roll(logits, 1, axis=-1)

    flags = cmag.detect(cmag.score(fooled, params, clean_images(6, 400)), thresholds)
    assert np.mean(clean_flags) < 0.1
    assert np.mean(flags) > 0.9


def test_score_under_jit_and_in_parts_is_the_same(fitted):
    params, _ = fitted
    images = clean_images(7, 6)
    plain = cmag.score(victim, params, images)
    jitted = jax.jit(partial(cmag.score, victim, params))(images)
    parts = [cmag.score(victim, params, images[i : i + 1]) for i in range(6)]
    for name in plain:
        np.testing.assert_allclose(jitted[name], plain[name], rtol=1e-5)
        np.testing.assert_allclose([part[name][0] for part in parts], plain[name], rtol=1e-4)


def test_images_that_are_constants_of_a_jit_are_scored(fitted):
    params, _ = fitted
    images = jnp.asarray(clean_images(7, 2))
    scores = jax.jit(lambda scale: cmag.score(victim, params, images)["l2"] * scale)(1.0)
    np.testing.assert_allclose(scores, cmag.score(victim, params, images)["l2"], rtol=1e-5)


def test_the_score_of_an_image_has_a_finite_gradient(fitted):
    params, _ = fitted
    image = clean_images(8, 1)

    def total(x):
        return sum(s.sum() for s in cmag.score(victim, params, x).values())

    assert np.isfinite(jax.grad(total)(image)).all()


def test_the_same_key_gives_the_same_weights_and_another_key_others(fitted):
    params, _ = fitted
    again, _ = cmag.fit(KEY, victim, clean_images(0, 256), TINY)
    other, _ = cmag.fit(jax.random.key(1), victim, clean_images(0, 256), TINY)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    kernel = params.gr["params"]["Dense_0"]["kernel"]
    assert np.any(kernel != other.gr["params"]["Dense_0"]["kernel"])


def test_a_victim_with_bound_weights_is_traced_not_compiled_in(fitted):
    params, _ = fitted

    def scaled(weight, images):
        feature_maps, logits = victim(images)
        return feature_maps * weight, logits

    images = clean_images(9, 2)
    first, second = (Partial(scaled, jnp.float32(weight)) for weight in (1.0, 0.5))
    before = cmag.score(first, params, images)
    with counted() as compiled:
        after = cmag.score(second, params, images)
    assert not compiled and np.any(before["l2"] != after["l2"])


def test_a_fitted_detector_exports_and_runs_without_this_library(fitted):
    params, _ = fitted
    (batch,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(partial(cmag.score, victim, params)))(
        jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
    )
    again = jax.export.deserialize(exported.serialize())
    images = clean_images(10, 3)
    expected = cmag.score(victim, params, images)
    np.testing.assert_allclose(again.call(images)["ssim"], expected["ssim"], rtol=1e-4)


SIZES = [(28, 28, 1), (32, 32, 3), (8, 20, 2)]


@pytest.mark.parametrize(
    ("shape", "pools"),
    [
        # Each shape and each number of pools once; the others of the nine are slow.
        pytest.param(shape, pools, marks=[] if i == 2 - pools else pytest.mark.slow)
        for i, shape in enumerate(SIZES)
        for pools in (0, 1, 2)
    ],
)
def test_images_and_feature_maps_of_many_sizes(shape, pools):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(pools):
                x = nn.avg_pool(nn.Conv(4, (3, 3))(x), (2, 2), (2, 2))
            return x, nn.Dense(3)(x.reshape(x.shape[0], -1))

    images = np.random.default_rng(0).uniform(size=(4, *shape)).astype(np.float32)
    network = Network()
    bound = Partial(network.apply, network.init(KEY, images))
    once = dataclasses.replace(TINY, fmr_epochs=1, lr_epochs=1, gr_epochs=1)
    params, _ = cmag.fit(KEY, bound, images, once)
    seen = cmag.reconstruct(bound, params, images)
    for image in seen:
        assert image.shape == images.shape
        assert image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 10, 12, 1), np.float32), "divisible by 4, got 10x12"),
        (np.zeros((12, 12), np.float32), r"expected images .* got float32 \(12, 12\)"),
        (np.zeros((4, 12, 12, 1)), "float64"),
        (np.full((4, 12, 12, 1), 255, np.uint8), "uint8"),
        (np.full((4, 12, 12, 1), 255, np.float32), "max 255"),
        (np.full((4, 12, 12, 1), np.nan, np.float32), "nan"),
        (np.zeros((0, 12, 12, 1), np.float32), "at least 1 images, got 0"),
        ([[[[0.5]]]], "expected images .* got list"),
    ],
)
def test_wrong_images_are_refused_in_words(images, message):
    with pytest.raises(ValueError, match=message):
        cmag.fit(KEY, victim, images, TINY)


def test_images_of_another_shape_than_the_fitted_are_refused(fitted):
    params, _ = fitted
    images = np.zeros((2, 16, 16, 1), np.float32)
    expected = r"expected images \(B, 12, 12, 1\) float32 in \[0, 1\], got float32 \(2, 16, 16, 1\)"
    for function in (cmag.score, cmag.reconstruct):
        with pytest.raises(ValueError, match=expected):
            function(victim, params, images)
    with pytest.raises(ValueError, match=expected):
        jax.jit(partial(cmag.score, victim, params))(images)


@pytest.mark.parametrize("feature_shape", [(5, 5, 2), (6, 3, 2), (24, 24, 2), (18,)])
def test_feature_maps_that_do_not_fit_are_refused(feature_shape):
    def other(images):
        return jnp.zeros((images.shape[0], *feature_shape)), jnp.zeros((images.shape[0], 3))

    with pytest.raises(ValueError, match="whole number"):
        cmag.fit(KEY, other, clean_images(0, 4), TINY)


@pytest.mark.parametrize(
    "options",
    [
        *({"mu_fmr": 1.5}, {"temperature": 0.0}, {"gr_epochs": 0}, {"batch_size": 2.5}),
        *({"learning_rate": np.inf}, {"scores": "l2"}, {"scores": ("l2", "l2")}),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        CMAGConfig(**options)


PLUS = dataclasses.replace(
    CMAG_PLUS, batch_size=32, fmr_epochs=40, lr_epochs=20, gr_epochs=60, fmr_width=16, lr_width=16,
    gr_width=64,
)  # fmt: skip


@pytest.fixture(scope="module", name="fitted_plus")
def _fitted_plus():
    return cmag.fit(KEY, victim, clean_images(0, 256), PLUS, held_out=clean_images(1, 256))


def test_cmag_plus_has_its_scores_and_finds_a_fooled_victim(fitted_plus):
    params, _ = fitted_plus
    thresholds = cmag.calibrate(cmag.score(victim, params, clean_images(4, 400)), fpr=0.05)
    clean = cmag.score(victim, params, clean_images(5, 400))
    assert set(clean) == {"rarity"}
    assert np.mean(cmag.detect(clean, thresholds)) < 0.12

    def fooled(images):
        feature_maps, logits = victim(images)
        return feature_maps, jnp.roll(logits, 1, axis=-1)

    flags = cmag.detect(cmag.score(fooled, params, clean_images(6, 400)), thresholds)
    assert np.mean(flags) > 0.9


def test_the_rarity_of_cmag_plus_is_that_of_its_scores_among_held_out_images(
    fitted_plus,
):
    params, _ = fitted_plus
    images = clean_images(9, 20)
    apart = cmag.scores_apart(victim, params, images)
    assert set(apart) == set(CMAG_PLUS.scores)
    of_held_out = tails(cmag.scores_apart(victim, params, clean_images(1, 256)))
    found = cmag.score(victim, params, images)["rarity"]
    np.testing.assert_allclose(found, rarity(apart, of_held_out), rtol=1e-3, atol=1e-3)


def test_who_decides_by_rarity_needs_held_out_images():
    with pytest.raises(ValueError, match="expected held_out images"):
        cmag.fit(KEY, victim, clean_images(0, 256), PLUS)
    with pytest.raises(ValueError, match="expected at least 20 held-out images, got 1"):
        cmag.fit(KEY, victim, clean_images(0, 256), PLUS, held_out=clean_images(1, 1))


def test_of_no_images_there_are_no_scores(fitted, fitted_plus):
    for params, _ in (fitted, fitted_plus):
        scores = cmag.score(victim, params, clean_images(0, 0))
        assert {values.shape for values in scores.values()} == {(0,)}


def test_what_makes_the_victim_answer_no_number_is_flagged(fitted, fitted_plus):
    def broken(images):
        feature_maps, logits = victim(images)
        return feature_maps, logits.at[0].set(jnp.nan)

    for params, _ in (fitted, fitted_plus):
        clean = cmag.score(victim, params, clean_images(4, 400))
        scores = cmag.score(broken, params, clean_images(5, 20))
        flags = cmag.detect(scores, cmag.calibrate(clean, fpr=0.0))
        assert flags[0] and not flags[1:].all()


def test_gr_of_cmag_plus_answers_a_wrong_class_with_the_negative(fitted_plus):
    """The contrast of its loss: x from its own class, 1 - x from another."""
    params, _ = fitted_plus
    images = clean_images(7, 50)

    def told_wrongly(x):
        feature_maps, logits = victim(x)
        return feature_maps, jnp.roll(logits, 1, axis=-1)

    right = cmag.reconstruct(victim, params, images).gr
    wrong = cmag.reconstruct(told_wrongly, params, images).gr
    assert np.mean((right - images) ** 2) < np.mean((right - (1 - images)) ** 2)
    assert np.mean((wrong - (1 - images)) ** 2) < np.mean((wrong - images) ** 2)


def test_fmr_of_cmag_plus_loses_less_to_noise_than_the_papers(fitted, fitted_plus):
    clean = clean_images(8, 100)
    noise = np.random.default_rng(0).normal(scale=0.3, size=clean.shape)
    noisy = np.clip(clean + noise, 0, 1).astype(np.float32)

    def error(params, seen):
        return np.mean((cmag.reconstruct(victim, params, seen).fmr - clean) ** 2)

    paper, plus = (error(p, noisy) / error(p, clean) for p in (fitted[0], fitted_plus[0]))
    assert plus < 0.85 * paper


def test_cmag_plus_exports_and_differentiates(fitted_plus):
    params, _ = fitted_plus
    images = clean_images(10, 3)
    (batch,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(partial(cmag.score, victim, params)))(
        jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
    )
    expected = cmag.score(victim, params, images)
    found = jax.export.deserialize(exported.serialize()).call(images)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)
    total = jax.grad(lambda x: sum(s.sum() for s in cmag.score(victim, params, x).values()))
    assert np.isfinite(total(images)).all()


def test_a_score_of_another_name_is_refused():
    with pytest.raises(ValueError, match="'sim'"):
        cmag.fit(KEY, victim, clean_images(0, 4), dataclasses.replace(TINY, scores=("sim",)))
