"""MagNet: the scores and the drop rate by hand, and autoencoders that learn to denoise."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from scipy.spatial.distance import jensenshannon

from cmag_jax import magnet

KEY = jax.random.key(0)
SHAPE = (12, 12, 1)
TINY = magnet.MagNetConfig(width=6, batch_size=32, learning_rate=0.03, epochs=60)
REPORTED: list[tuple] = []  # what `on_epoch` was given while fitting
ROWS = np.linspace(-1, 1, 12)
# Four smooth blobs: unlike noise, something that half the resolution can hold.
BLOBS = np.stack(
    [
        np.exp(-3 * ((ROWS[:, None] - y) ** 2 + (ROWS[None] - x) ** 2))[..., None]
        for y in (-0.4, 0.4)
        for x in (-0.4, 0.4)
    ]
).astype(np.float32)


def victim(images):
    return images, -jnp.sum((images[:, None] - BLOBS) ** 2, axis=(2, 3, 4))


def clean_images(seed, count):
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.5, 1, size=(count, 1, 1, 1))
    return (strength * BLOBS[rng.integers(len(BLOBS), size=count)]).astype(np.float32)


def noisy(images, sd=0.1):
    noise = np.random.default_rng(9).normal(scale=sd, size=images.shape)
    return np.clip(images + noise, 0, 1).astype(np.float32)


@pytest.fixture(scope="module", name="fitted")
def _fitted():
    REPORTED.clear()
    return magnet.fit(
        KEY, victim, clean_images(0, 64), TINY, on_epoch=lambda *what: REPORTED.append(what)
    )


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def test_fitting_lowers_both_losses(fitted):
    _, info = fitted
    for losses in info:
        assert losses.shape == (60,)
        assert losses[-1] < 0.3 * losses[0]


def test_reforming_takes_noise_off_what_was_not_in_training(fitted):
    params, _ = fitted
    clean = clean_images(1, 50)
    given, reformed = noisy(clean), magnet.reform(params, noisy(clean))
    assert np.mean((reformed - clean) ** 2) < 0.7 * np.mean((given - clean) ** 2)
    np.testing.assert_array_equal(reformed, magnet.autoencode(params, given).I)
    assert reformed.min() >= 0 and reformed.max() <= 1


def test_the_default_autoencoders_are_the_papers():
    images = np.zeros((1, 28, 28, 1), np.float32)
    start = partial(magnet.init, config=magnet.MagNetConfig())
    params = jax.eval_shape(start, KEY, victim=Partial(victim), images=images)
    kernels = {
        name: [layer["kernel"].shape for layer in getattr(params, name)["params"].values()]
        for name in magnet.MODULES
    }
    first, hidden, last = (3, 3, 1, 3), (3, 3, 3, 3), (3, 3, 3, 1)
    assert kernels == {"I": [first, hidden, hidden, hidden, last], "II": [first, hidden, last]}


def test_in_colour_nothing_is_halved():
    start = partial(magnet.init, config=magnet.MAGNET_COLOUR)
    images = np.zeros((1, 31, 31, 3), np.float32)
    params = jax.eval_shape(start, KEY, victim=Partial(victim), images=images)
    for name in magnet.MODULES:
        layers = getattr(params, name)["params"].values()
        assert [layer["kernel"].shape for layer in layers] == [(3, 3, 3, 3)] * 3


def convolve(images, weights):
    """sigmoid(3x3 convolution)."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    z = np.einsum("nhwcij,ijcd->nhwd", windows, weights["kernel"]) + weights["bias"]
    return 1 / (1 + np.exp(-z))


def test_the_autoencoders_by_hand(fitted):
    params, _ = fitted
    images = clean_images(2, 2)
    rebuilt = magnet.autoencode(params, images)
    one, two = (list(weights["params"].values()) for weights in (params.I, params.II))
    x = convolve(images, one[0])
    x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    x = convolve(convolve(x, one[1]), one[2])
    x = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(rebuilt.I, convolve(convolve(x, one[3]), one[4]), rtol=1e-4)
    x = convolve(convolve(convolve(images, two[0]), two[1]), two[2])
    np.testing.assert_allclose(rebuilt.II, x, rtol=1e-4)


def test_the_loss_is_denoising_and_regularisation():
    """One epoch of one batch reports the loss of the untrained autoencoder, here by hand."""
    images = clean_images(3, 8)
    config = dataclasses.replace(TINY, epochs=1, noise=0.0, regularisation=1e-3)
    params = magnet.init(KEY, victim, images, config)
    x, activity = images, 0.0
    for layer in params.II["params"].values():
        x = convolve(x, layer)
        activity += np.sum(x**2)
    expected = np.mean((x - images) ** 2) + 1e-3 * activity
    _, losses = magnet.fit_module("II", KEY, victim, params, images)
    np.testing.assert_allclose(losses["II"], [expected], rtol=1e-4)


def test_scores_are_the_errors_and_the_divergences(fitted):
    params, _ = fitted
    images = noisy(clean_images(4, 6))
    rebuilt = magnet.autoencode(params, images)
    scores = magnet.score(victim, params, images)
    assert {name: s.shape for name, s in scores.items()} == dict.fromkeys(
        ("l2", "l1", "jsd10", "jsd40"), (6,)
    )
    squared, absolute = (images - rebuilt.I) ** 2, np.abs(images - rebuilt.II)
    np.testing.assert_allclose(scores["l2"], np.mean(squared, axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(scores["l1"], np.mean(absolute, axis=(1, 2, 3)), rtol=1e-5)
    before, after = (np.asarray(victim(x)[1], np.float64) for x in (images, rebuilt.I))
    for t in (10, 40):
        divergence = jensenshannon(softmax(before / t), softmax(after / t), axis=1) ** 2
        np.testing.assert_allclose(scores[f"jsd{t}"], divergence, rtol=1e-3, atol=2e-7)


def test_temperatures_name_their_scores(fitted):
    params, _ = fitted
    for temperatures, names in (((), set()), ((0.5, 100.0), {"jsd0.5", "jsd100"})):
        config = dataclasses.replace(TINY, temperatures=temperatures)
        other = dataclasses.replace(params, config=config)
        assert magnet.score(victim, other, clean_images(4, 2)).keys() == {"l2", "l1"} | names


def test_jensen_shannon_is_scipys():
    rng = np.random.default_rng(0)
    p, q = rng.normal(scale=4, size=(2, 20, 10))
    expected = jensenshannon(softmax(p), softmax(q), axis=1) ** 2
    np.testing.assert_allclose(magnet.jensen_shannon(p, q), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_jensen_shannon_stays_finite_when_equal_and_when_probabilities_underflow(scale):
    p = scale * np.array([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], np.float32)
    q = scale * np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], np.float32)
    values, pull_back = jax.vjp(jax.jit(magnet.jensen_shannon), p, q)
    disjoint = np.log(2) if scale > 1 else values[1]
    np.testing.assert_allclose(values, [0, disjoint], rtol=1e-6, atol=1e-6)
    for gradient in pull_back(jnp.ones(2)):
        assert np.isfinite(gradient).all()


def test_noise_stands_out(fitted):
    params, _ = fitted
    thresholds = magnet.calibrate(magnet.score(victim, params, clean_images(5, 400)), fpr=0.05)
    fresh = clean_images(6, 400)
    clean_flags = magnet.detect(magnet.score(victim, params, fresh), thresholds)
    flags = magnet.detect(magnet.score(victim, params, noisy(fresh, 0.3)), thresholds)
    assert np.mean(clean_flags) < 0.12
    assert np.mean(flags) > 0.9


def test_score_under_jit_and_in_parts_is_the_same(fitted):
    params, _ = fitted
    images = noisy(clean_images(7, 6))
    plain = magnet.score(victim, params, images)
    jitted = jax.jit(partial(magnet.score, victim, params))(images)
    parts = [magnet.score(victim, params, images[i : i + 1]) for i in range(6)]
    for name in plain:
        np.testing.assert_allclose(jitted[name], plain[name], rtol=1e-4, atol=2e-7)
        alone = [part[name][0] for part in parts]
        np.testing.assert_allclose(alone, plain[name], rtol=1e-4, atol=2e-7)


def test_scores_have_finite_gradients_that_are_not_zero(fitted):
    params, _ = fitted
    images = noisy(clean_images(8, 2))
    gradients = jax.jacobian(partial(magnet.score, victim, params))(images)
    for gradient in gradients.values():
        assert np.isfinite(gradient).all()
        assert np.any(gradient != 0)


def test_fitting_one_autoencoder_is_its_part_of_fitting(fitted):
    params, info = fitted
    images = clean_images(0, 64)
    start = magnet.init(KEY, victim, images, TINY)
    alone, losses = magnet.fit_module("II", KEY, victim, start, images)
    jax.tree.map(np.testing.assert_array_equal, alone, dataclasses.replace(params, I=start.I))
    np.testing.assert_array_equal(losses["II"], info.II_loss)
    with pytest.raises(ValueError, match=r"\('I', 'II'\), got 'III'"):
        magnet.fit_module("III", KEY, victim, params, images)


def test_epochs_are_reported_as_they_end(fitted):
    _, info = fitted
    each = [(name, epoch, 60) for name in ("I", "II") for epoch in range(1, 61)]
    assert [what[:3] for what in REPORTED] == each
    np.testing.assert_allclose([what[3] for what in REPORTED], np.concatenate(info), rtol=1e-6)


def test_a_drop_rate_is_every_scores_own():
    scores = {"a": np.arange(1000.0), "b": -np.arange(1000.0)}
    assert magnet.calibrate(scores, drop_rate=0.001) == {"a": 998.0, "b": -1.0}
    # Each drops two of a thousand, and not the same two.
    thresholds = magnet.calibrate(scores, drop_rate=0.0029)
    assert thresholds == {"a": 997.0, "b": -2.0}
    assert int(np.sum(magnet.detect(scores, thresholds))) == 4
    assert magnet.calibrate(scores, drop_rate=0.0) == {"a": 999.0, "b": 0.0}
    # Of a hundred nothing may be dropped; the authors' marks[-0] would be the smallest mark.
    assert magnet.calibrate({"a": np.arange(100.0)}, drop_rate=0.001) == {"a": 99.0}
    # With ties at the threshold, fewer.
    assert magnet.calibrate({"a": np.array([0.0, 1, 1, 1])}, drop_rate=0.5) == {"a": 1.0}


def test_fpr_is_all_scores_together():
    scores = {"a": np.arange(100.0), "b": -np.arange(100.0)}
    thresholds = magnet.calibrate(scores, fpr=0.02)
    assert int(np.sum(magnet.detect(scores, thresholds))) == 2


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({"a": np.zeros(3)}, {}, "either fpr or drop_rate"),
        ({"a": np.zeros(3)}, {"fpr": 0.1, "drop_rate": 0.1}, "either fpr or drop_rate"),
        ({"a": np.zeros(3)}, {"drop_rate": 1.0}, r"drop_rate in \[0, 1\), got 1.0"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, {"drop_rate": 0.1}, "one shape"),
        ({}, {"drop_rate": 0.1}, "one shape"),
        ({"a": np.array([1.0, np.nan])}, {"drop_rate": 0.1}, "NaN or infinity"),
    ],
)
def test_nonsense_is_refused_in_words(scores, options, message):
    with pytest.raises(ValueError, match=message):
        magnet.calibrate(scores, **options)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 11, 12, 1), np.float32), "even H and W, got 11x12"),
        (np.zeros((12, 12), np.float32), r"expected images .* got float32 \(12, 12\)"),
        (np.full((4, 12, 12, 1), 255, np.uint8), "uint8"),
        (np.full((4, 12, 12, 1), np.nan, np.float32), "nan"),
        (np.zeros((0, 12, 12, 1), np.float32), "at least 1 images, got 0"),
    ],
)
def test_wrong_images_are_refused_in_words(images, message):
    with pytest.raises(ValueError, match=message):
        magnet.fit(KEY, victim, images, TINY)


def test_images_of_another_shape_than_the_fitted_are_refused(fitted):
    params, _ = fitted
    images = np.zeros((2, 16, 16, 1), np.float32)
    expected = r"expected images \(B, 12, 12, 1\) float32 in \[0, 1\], got float32 \(2, 16, 16, 1\)"
    for function in (magnet.reform, magnet.autoencode, partial(magnet.score, victim)):
        with pytest.raises(ValueError, match=expected):
            function(params, images)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"noise": -0.1},
        {"learning_rate": 0.0},
        {"temperatures": (0.0,)},
        {"temperatures": (10.0, 10.0)},
        {"temperatures": 10.0},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        magnet.MagNetConfig(**options)
