"""What every detector does at its edge: with victims in half precision, in 64 bits, changed in
place or wrong, with no images, and with numbers that are none."""

import dataclasses
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from cmag_jax import (
    CMAG_PLUS,
    CMAGConfig,
    calibrate,
    cmag,
    defense_gan,
    detect,
    feature_squeezing,
    global_ssim,
    magnet,
    windowed_ssim,
)
from cmag_jax.cmag import scores
from cmag_jax.victim import ready
from tests.cmag_jax.test_cmag import CLASSES, SHAPE, clean_images, victim
from tests.compilations import counted

KEY = jax.random.key(0)
SHORT = {"batch_size": 32, "fmr_epochs": 1, "lr_epochs": 1, "gr_epochs": 1}
GAN = defense_gan.DefenseGANConfig(
    generator="dense", critic="dense", generator_width=4, critic_width=4, latent_size=4, epochs=1,
    search_steps=2, restarts=2,
)  # fmt: skip
DETECTORS = {
    "CMAG": (cmag, CMAGConfig(**SHORT)),
    "CMAG+": (cmag, replace(CMAG_PLUS, **SHORT)),
    "MagNet": (magnet, magnet.MagNetConfig(epochs=1)),
    "Defense-GAN": (defense_gan, GAN),
    "feature squeezing": (feature_squeezing, feature_squeezing.FeatureSqueezingConfig()),
}
ASKS = [name for name in DETECTORS if name != "Defense-GAN"]  # their victim


def fit(name, victim=victim, images=None):
    module, config = DETECTORS[name]
    images = clean_images(0, 64) if images is None else images
    held_out = {"held_out": clean_images(5, 40)} if name == "CMAG+" else {}
    return module, module.fit(KEY, victim, images, config, **held_out)[0]


def narrow(kind, images):
    feature_maps, logits = victim(images)
    return feature_maps.astype(kind), logits.astype(kind)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_victim_in_half_precision_gives_finite_scores_in_float32(name, kind):
    half = partial(narrow, kind)
    module, params = fit(name, half)
    found = module.score(half, params, clean_images(1, 50))
    module.calibrate(found, fpr=0.1)  # which refuses what is not finite
    for values in found.values():
        assert values.dtype == jnp.float32 and np.isfinite(values).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_with_64_bits_a_victim_that_insists_on_float32_is_served(name):
    def picky(images):
        if images.dtype != jnp.float32:
            raise TypeError(f"float32 only, got {images.dtype}")
        return victim(images)

    module, expected = fit(name)
    with jax.enable_x64(True):
        _, params = fit(name, picky)
        found = module.score(picky, params, clean_images(1, 4))
    assert {values.dtype for values in found.values()} == {np.dtype(np.float32)}
    for leaf, like in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
        assert leaf.dtype == like.dtype and leaf.shape == like.shape


@pytest.mark.parametrize("name", ASKS)
def test_weights_that_changed_in_place_are_the_ones_asked(name):
    held = {"scale": jnp.float32(1.0)}

    def scaled(images):
        feature_maps, logits = victim(images)
        return feature_maps * held["scale"], logits * held["scale"]

    module, params = fit(name, scaled)
    images = clean_images(1, 6)
    before = module.score(scaled, params, images)
    with counted() as compiled:
        module.score(scaled, params, images)
    assert not compiled
    held["scale"] = jnp.float32(0.2)
    expected = module.score(lambda x: scaled(x), params, images)
    after = module.score(scaled, params, images)
    assert any(np.any(before[key] != after[key]) for key in before)
    for key, values in after.items():
        np.testing.assert_allclose(values, expected[key], atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS)
def test_no_images_have_no_scores_and_no_network_is_asked(name):
    def picky(images):
        assert images.shape[0], "asked about nothing"
        return victim(images.reshape((images.shape[0], -1)).reshape(-1, *SHAPE))

    module, params = fit(name, picky)
    none = np.zeros((0, *SHAPE), np.float32)
    some = module.score(picky, params, clean_images(1, 2))
    found = module.score(picky, params, none)
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
        k: ((0,), v.dtype) for k, v in some.items()
    }
    thresholds = module.calibrate(module.score(picky, params, clean_images(2, 20)), fpr=0.1)
    assert module.detect(found, thresholds).shape == (0,)
    for more in ("reconstruct", "autoencode", "reform", "scores_apart", "differentiable_score"):
        function = getattr(module, more, None)
        if function is not None:
            takes_victim = name in ("CMAG", "CMAG+") or more == "differentiable_score"
            args = (picky, params) if takes_victim else (params,)
            assert all(leaf.shape[0] == 0 for leaf in jax.tree.leaves(function(*args, none)))


@pytest.mark.parametrize("name", ASKS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: victim(x)[1], r"expected a victim that gives \(feature maps .* got float32"),
        (lambda x: (victim(x)[0], None), r"expected a victim with logits \(\d+, K\)"),
        (lambda x: (victim(x)[0], victim(x)[1][:, 0]), r"logits \(\d+, K\) of a floating type"),
        (lambda x: (victim(x)[0], jnp.argmax(victim(x)[1], -1)[:, None]), "got int32"),
        ("victim", "expected victim to be a function, got 'victim'"),
    ],
)
def test_a_victim_that_is_none_is_refused_in_words(name, wrong, message):
    module, params = fit(name)
    with pytest.raises(ValueError, match=message):
        module.score(wrong, params, clean_images(1, 2))


def test_a_module_in_training_is_refused_in_words():
    norm = nnx.BatchNorm(1, rngs=nnx.Rngs(0))

    def training(images):
        return victim(norm(images))

    with pytest.raises(ValueError, match=r"module\.eval\(\)"):
        cmag.fit(KEY, training, clean_images(0, 64), CMAGConfig(**SHORT))


@pytest.mark.parametrize("maps", [None, jnp.zeros((1, 3)), {"a": jnp.zeros((1, 3, 3, 4))}])
def test_feature_maps_that_are_none_are_refused_in_words(maps):
    with pytest.raises(ValueError, match=r"expected feature maps \(B, h, w, c\)"):
        cmag.fit(KEY, lambda x: (maps, victim(x)[1]), clean_images(0, 64), CMAGConfig(**SHORT))


@pytest.mark.parametrize("name", ["CMAG", "CMAG+"])
def test_a_fit_with_numbers_that_are_none_ends_in_words(name):
    def broken(images):
        feature_maps, logits = victim(images)
        return feature_maps * jnp.nan, logits

    with pytest.raises(ValueError, match="expected a finite loss, got nan in epoch 1"):
        fit(name, broken)
    config = replace(DETECTORS[name][1], learning_rate=1e30)
    with pytest.raises(ValueError, match=r"learning rate of 1e\+30"):
        cmag.fit(KEY, victim, clean_images(0, 64), config, held_out=clean_images(5, 40))


def test_held_out_scores_that_are_not_finite_are_refused():
    """A victim that is sound on the training images, and not on those held out."""

    def broken(images):
        feature_maps, logits = victim(images)
        dark = images.max(axis=(1, 2, 3))[:, None] < 0.01
        return feature_maps, jnp.where(dark, jnp.nan, logits)

    held_out = np.array(clean_images(5, 40))
    held_out[3] = 0
    with pytest.raises(ValueError, match="NaN or infinity for 1 of 40 images"):
        cmag.fit(KEY, broken, clean_images(0, 64), DETECTORS["CMAG+"][1], held_out=held_out)


@pytest.mark.parametrize("call", [detect, lambda s, t: calibrate(s, fpr=0.1)])
@pytest.mark.parametrize("wrong", [None, 3, np.zeros(4), [("l2", np.zeros(4))]])
def test_scores_that_are_no_dict_are_refused_in_words(call, wrong):
    with pytest.raises(ValueError, match="as a dict from name to value, got"):
        call(wrong, {"l2": 1.0})
    with pytest.raises(ValueError, match="expected thresholds as a dict"):
        detect({"l2": np.zeros(2)}, wrong)


def test_scores_that_are_no_numbers_and_rates_that_are_none_are_refused_in_words():
    with pytest.raises(ValueError, match="expected scores that are numbers, got 'l2' <U1"):
        calibrate({"l2": np.array(["a", "b"])}, fpr=0.1)
    for rate in ("0.1", True, [0.1], 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=r"expected fpr in \[0, 1\), got"):
            calibrate({"l2": np.zeros(3)}, fpr=rate)


@pytest.mark.parametrize("value", ["a", None, True, (1.0,)])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (CMAGConfig, "learning_rate"), (CMAGConfig, "mu_fmr"), (CMAGConfig, "fmr_noise"),
        (CMAGConfig, "batch_size"), (magnet.MagNetConfig, "noise"),
        (defense_gan.DefenseGANConfig, "penalty"), (defense_gan.DefenseGANConfig, "momentum"),
        (defense_gan.DefenseGANConfig, "epochs"),
    ],
)  # fmt: skip
def test_options_that_are_no_numbers_are_refused_in_words(make, name, value):
    with pytest.raises(ValueError, match=f"expected {name} to be"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, *SHAPE), 1.0000001, np.float32), r"max 1\.0000001"),
        (np.array([[[[object()]]]]), "got object"),
        (np.zeros((2, *SHAPE), np.complex64), "got complex64"),
        ("images", "got str images"),
        (None, "got NoneType"),
    ],
)
def test_images_of_every_wrong_kind_are_refused_with_the_digits_that_matter(images, message):
    module, params = fit("feature squeezing")
    with pytest.raises(ValueError, match=message):
        module.score(victim, params, images)


IMAGE = np.random.default_rng(0).uniform(size=(2, 12, 12, 1)).astype(np.float32)


@pytest.mark.parametrize(
    "function",
    [
        partial(global_ssim, IMAGE), partial(windowed_ssim, IMAGE),
        partial(feature_squeezing.bit_depth, bits=3),
        partial(feature_squeezing.median_smooth, size=3),
    ],
)  # fmt: skip
def test_image_functions_refuse_whole_numbers_and_other_shapes(function):
    with pytest.raises(ValueError, match="got uint8"):
        function((IMAGE * 255).astype(np.uint8))
    with pytest.raises(ValueError, match="max 255"):
        function(np.full_like(IMAGE, 255))
    with pytest.raises(ValueError, match="nan"):
        function(np.full_like(IMAGE, np.nan))
    with pytest.raises(ValueError, match="expected images"):
        function(IMAGE[0, :, :, 0])


def test_ssim_refuses_images_of_two_shapes():
    for ssim in (global_ssim, windowed_ssim):
        with pytest.raises(ValueError, match="expected images of one shape"):
            ssim(IMAGE, IMAGE[:1])
    with pytest.raises(ValueError, match="at least two pixels"):
        global_ssim(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32))


def test_rounding_does_not_decide_a_regression():
    """Nearly collinear contexts, in any order, and in parts that are summed by another tree."""
    rng = np.random.default_rng(0)
    count, width = 3000, 22
    base = rng.normal(size=(count, 4))
    about = np.concatenate(
        [base, base @ rng.normal(size=(4, width - 4)) + 1e-4 * rng.normal(size=(count, width - 4))],
        axis=1,
    ).astype(np.float32)
    score = (about @ rng.normal(size=width) + 0.1 * rng.normal(size=count)).astype(np.float32)
    one = scores.usual_of(jnp.asarray(score), jnp.asarray(about))
    order = rng.permutation(count)
    other = scores.usual_of(jnp.asarray(score[order]), jnp.asarray(about[order]))
    np.testing.assert_allclose(one.mean, other.mean, atol=1e-5)
    np.testing.assert_allclose(about @ one.mean, about @ other.mean, atol=1e-4)
    exact = np.linalg.solve(
        about.astype(float).T @ about + 1e-3 * np.eye(width), about.astype(float).T @ score
    )
    np.testing.assert_allclose(one.mean, exact, atol=1e-4)


def test_a_victim_made_ready_twice_is_the_same_program():
    once = ready(Partial(victim))
    assert jax.tree.structure(once) == jax.tree.structure(ready(once))


def test_params_of_a_fit_name_their_types():
    _, params = fit("CMAG+")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert dataclasses.is_dataclass(params) and CLASSES == 4
