"""Defense-GAN: the gradient penalty by hand, the search by a plain loop, and a fit that learns."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmag_jax import _wgan as wgan
from cmag_jax import defense_gan
from cmag_jax.defense_gan import DefenseGANConfig

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
CLASSES = 4
TINY = DefenseGANConfig(
    generator="dense",
    critic="dense",
    generator_width=8,
    critic_width=8,
    latent_size=8,
    learning_rate=5e-3,
    batch_size=32,
    epochs=40,
    search_steps=60,
    restarts=3,
    search_rate=5.0,
)
CONVOLUTIONAL = dataclasses.replace(
    TINY, generator="convolutional", critic="convolutional", generator_width=4, epochs=3
)
PROTOTYPES = np.random.default_rng(7).uniform(size=(CLASSES, *SHAPE)).astype(np.float32)


def victim(images):
    raise AssertionError("Defense-GAN does not ask the victim")


def clean_images(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=count)
    noise = rng.normal(scale=0.02, size=(count, *SHAPE))
    return np.clip(PROTOTYPES[labels] + noise, 0, 1).astype(np.float32)


@pytest.fixture(scope="module", name="fitted")
def _fitted():
    return defense_gan.fit(KEY, victim, clean_images(0, 256), TINY)


@pytest.fixture(scope="module", name="convolutional")
def _convolutional():
    """Untrained, which is nothing to the search, but that images are near it."""
    params = defense_gan.init(KEY, victim, clean_images(0, 1), CONVOLUTIONAL)
    return params, None


# That both give the same under jit is always tested, and what it is of the dense one.
BOTH = ["fitted", pytest.param("convolutional", marks=pytest.mark.slow)]


@pytest.fixture(name="either", params=["fitted", "convolutional"])
def _either(request):
    params, _ = request.getfixturevalue(request.param)
    return params


def norms(differences):
    return np.linalg.norm(np.asarray(differences).reshape(len(differences), -1), axis=1)


def test_the_gradient_penalty_of_critics_whose_gradient_is_known():
    real, fake = clean_images(1, 5), clean_images(2, 5)
    weights = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    linear = wgan.gradient_penalty(KEY, lambda x: jnp.sum(x * weights, (1, 2, 3)), real, fake)
    np.testing.assert_allclose(linear, (np.linalg.norm(weights) - 1) ** 2, rtol=1e-5)
    flat = wgan.gradient_penalty(KEY, lambda x: jnp.zeros(len(x)), real, fake)
    np.testing.assert_allclose(flat, 1, rtol=1e-4)
    square = partial(wgan.gradient_penalty, KEY, lambda x: jnp.sum(x**2, (1, 2, 3)) / 2)
    np.testing.assert_allclose(square(real, real), np.mean((norms(real) - 1) ** 2), rtol=1e-5)
    # From a unit vector to its double: the mean of share^2, each pair with a share of its own.
    units = np.tile(real[:1] / norms(real[:1]), (3000, 1, 1, 1))
    np.testing.assert_allclose(square(units, 2 * units), 1 / 3, atol=0.02)


def test_training_moves_the_generator_towards_the_data(fitted):
    params, info = fitted
    assert info.critic_loss.shape == info.generator_loss.shape == (40,)
    z = jax.random.normal(jax.random.key(5), (200, 8))

    def distance(params):
        samples = np.asarray(defense_gan.generate(params, z))
        return np.mean([norms(PROTOTYPES - sample).min() for sample in samples])

    untrained = defense_gan.init(KEY, victim, clean_images(0, 1), TINY)
    assert distance(params) < 0.7 * distance(untrained)


def test_convolutional_networks_are_trained_as_well():
    images = clean_images(0, 64)
    params, info = defense_gan.fit(KEY, victim, images, CONVOLUTIONAL)
    start = defense_gan.init(KEY, victim, images, CONVOLUTIONAL)
    assert np.isfinite(info.critic_loss).all() and info.critic_loss[-1] < info.critic_loss[0]
    for after, before in zip(*map(jax.tree.leaves, (params.gan, start.gan)), strict=True):
        # The critic's losses are differences, which its last bias is no part of.
        assert after.size == 1 or np.any(after != before)


@pytest.fixture(scope="module", name="short")
def _short():
    """Two steps an epoch: the generator's turn is the fifth step, in the third epoch."""
    seen = []
    config = dataclasses.replace(TINY, epochs=3)
    params, info = defense_gan.fit(
        KEY, victim, clean_images(0, 64), config, on_epoch=lambda *what: seen.append(what)
    )
    return params, info, seen


def test_epochs_are_reported_as_they_end(short):
    _, info, seen = short
    assert [what[:3] for what in seen] == [("gan", 1, 3), ("gan", 2, 3), ("gan", 3, 3)]
    np.testing.assert_array_equal([what[3] for what in seen], info.critic_loss)


def moved(params):
    """How far (generator, critic) have come from where training starts."""
    start = defense_gan.init(KEY, victim, clean_images(0, 1), TINY)
    distances = jax.tree.map(lambda a, b: jnp.sum(jnp.abs(a - b)), params.gan, start.gan)
    return [float(sum(jax.tree.leaves(network))) for network in distances]


def test_the_generator_takes_every_fifth_turn(short):
    params, info, _ = short
    np.testing.assert_array_equal(np.isfinite(info.generator_loss), [False, False, True])
    generator, critic = moved(params)
    assert 0 < generator < critic


@pytest.mark.parametrize(("final_rate", "expected"), [(1.0, [0.1] * 3), (0.2, [0.1, 0.06, 0.02])])
def test_the_learning_rate_falls_along_a_cosine_if_it_is_told_to(final_rate, expected):
    """Adam's step for a gradient of 1 again and again is its rate."""
    optimiser = wgan._adam(0.1, final_rate, (0.5, 0.9), 2)
    state, moves = optimiser.init(jnp.zeros(())), []
    for _ in expected:
        move, state = optimiser.update(jnp.ones(()), state)
        moves.append(-move)
    np.testing.assert_allclose(moves, expected, rtol=1e-5)


def test_fitting_module_by_module_is_fitting_to_the_bit(short):
    images, config = clean_images(0, 64), short[0].config
    params = defense_gan.init(KEY, victim, images, config)
    again, losses = defense_gan.fit_module("gan", KEY, victim, params, images)
    jax.tree.map(np.testing.assert_array_equal, again, short[0])
    jax.tree.map(np.testing.assert_array_equal, losses, short[1]._asdict())
    other = defense_gan.init(jax.random.key(1), victim, images, config)
    assert np.all(params.starts != other.starts)
    with pytest.raises(ValueError, match=r"\('gan',\), got 'mr'"):
        defense_gan.fit_module("mr", KEY, victim, params, images)


def test_the_compiled_epochs_of_an_accelerator_train_as_the_host_loop_does(short, monkeypatch):
    monkeypatch.setattr(wgan, "_host_epoch", wgan._compiled_epoch)
    params, info = defense_gan.fit(KEY, victim, clean_images(0, 64), short[0].config)
    np.testing.assert_allclose(info.critic_loss, short[1].critic_loss, rtol=1e-4)
    np.testing.assert_allclose(info.generator_loss, short[1].generator_loss, rtol=1e-4)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), params, short[0])


def test_the_image_of_a_latent_is_found_again(fitted):
    params, _ = fitted
    z = jax.random.normal(jax.random.key(3), (6, 8))
    images = defense_gan.generate(params, z)
    untouched = dataclasses.replace(params, config=dataclasses.replace(TINY, search_steps=1))
    before = defense_gan.score(victim, untouched, images)["l2"]
    patient = dataclasses.replace(params, config=dataclasses.replace(TINY, search_steps=500))
    after = defense_gan.score(victim, patient, images)["l2"]
    assert np.all(after < 0.1 * before)


def test_the_search_is_a_plain_loop_over_images_and_restarts(fitted):
    """The generator by hand, one latent at a time, and its gradient by central differences in
    float64."""
    params, _ = fitted
    layers = params.gan.generator["params"]
    weights = [
        [np.asarray(layers[f"Dense_{i}"][name], np.float64) for name in ("kernel", "bias")]
        for i in range(3)
    ]

    def error(z, image):
        x = z
        for kernel, bias in weights[:2]:
            x = x @ kernel + bias
            x = np.where(x > 0, x, 0.2 * x)
        made = 1 / (1 + np.exp(-(x @ weights[2][0] + weights[2][1])))
        return np.mean((made - image.ravel()) ** 2, axis=-1)

    images, steps, h = clean_images(3, 2), 15, 1e-5
    start = np.asarray(jax.random.normal(KEY, (2, 3, 8)))
    expected = start.astype(np.float64)
    for i in range(2):
        for r in range(3):
            z, velocity = expected[i, r].copy(), 0.0
            for _ in range(steps):
                around = error(z + h * np.eye(8), images[i]) - error(z - h * np.eye(8), images[i])
                velocity = 0.7 * velocity + around / (2 * h)
                z -= 5.0 * velocity
            expected[i, r] = z
    found = defense_gan.project(params, images, start, steps)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.abs(found - start).max() > 0.1


@pytest.mark.parametrize("either", BOTH, indirect=True)
def test_the_best_restart_is_the_one_that_counts(either):
    images = clean_images(4, 5)
    starts = jnp.broadcast_to(either.starts, (5, 3, 8))
    z = defense_gan.project(either, images, starts, TINY.search_steps)
    made = np.stack([defense_gan.generate(either, z[i]) for i in range(5)])
    distances = np.stack([norms(made[i] - images[i]) for i in range(5)])
    scores = defense_gan.score(victim, either, images)
    assert scores.keys() == {"l2"}
    np.testing.assert_allclose(scores["l2"], distances.min(axis=1), rtol=1e-4)
    expected = made[np.arange(5), distances.argmin(axis=1)]
    np.testing.assert_allclose(defense_gan.reconstruct(either, images), expected, atol=1e-4)


def test_score_under_jit_and_in_parts_is_the_same(either):
    """Without jit the convolutional search is a host loop on a CPU, under jit a compiled one."""
    images = clean_images(7, 4)
    plain = defense_gan.score(victim, either, images)["l2"]
    jitted = jax.jit(partial(defense_gan.score, victim))(either, images)["l2"]
    parts = [defense_gan.score(victim, either, images[i : i + 1])["l2"][0] for i in range(4)]
    np.testing.assert_allclose(jitted, plain, rtol=1e-3)
    np.testing.assert_allclose(parts, plain, rtol=1e-3)


def test_the_search_goes_on_from_where_it_is_told(fitted):
    params, _ = fitted
    still = dataclasses.replace(params, config=dataclasses.replace(TINY, momentum=0.0))
    images = clean_images(8, 2)
    start = jnp.broadcast_to(params.starts, (2, 3, 8))
    halfway = defense_gan.project(still, images, start, 10)
    whole = defense_gan.project(still, images, start, 20)
    np.testing.assert_allclose(
        defense_gan.project(still, images, halfway, 10), whole, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(defense_gan.project(still, images, start, 0), start)


def test_the_search_can_be_differentiated_through_its_steps(fitted):
    """By central differences, of one latent with respect to one pixel's shift."""
    params, _ = fitted
    images, h = clean_images(8, 1) * 0.8 + 0.1, 1e-2
    direction = np.zeros_like(images)
    direction[0, 3, 4, 0] = 1

    def first(images):
        return defense_gan.project(params, images, params.starts[None], 10)[0, 0, 0]

    expected = (first(images + h * direction) - first(images - h * direction)) / (2 * h)
    found = np.sum(jax.grad(first)(images) * direction)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-3)
    assert abs(found) > 1e-3


def total(params, images):
    return jnp.sum(defense_gan.score(victim, params, images)["l2"])


@pytest.mark.parametrize("either", BOTH, indirect=True)
def test_the_gradient_of_the_score_holds_the_latent_constant(either):
    images = clean_images(8, 3)
    apart = images - np.asarray(defense_gan.reconstruct(either, images))
    expected = apart / norms(apart)[:, None, None, None]
    for function in (jax.grad(total, 1), jax.jit(jax.grad(total, 1))):
        np.testing.assert_allclose(function(either, images), expected, atol=1e-3)


def test_where_the_search_converges_that_is_the_true_gradient(fitted):
    """The envelope theorem, by central differences of the whole search."""
    config = dataclasses.replace(TINY, search_steps=1500, restarts=1)
    params = dataclasses.replace(fitted[0], config=config, starts=fitted[0].starts[:1])
    image, h = clean_images(9, 1) * 0.8 + 0.1, 1e-2
    direction = np.random.default_rng(0).choice([-1.0, 1.0], size=image.shape).astype(np.float32)
    around = [total(params, image + s * h * direction) for s in (1, -1)]
    expected = np.sum(jax.grad(total, 1)(params, image) * direction)
    np.testing.assert_allclose((around[0] - around[1]) / (2 * h), expected, rtol=0.05, atol=0.02)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only a CPU has the host loop")
def test_a_gradient_without_jit_keeps_the_fast_loop(convolutional, monkeypatch):
    monkeypatch.setattr(defense_gan, "_compiled_search", None)
    assert np.isfinite(jax.grad(total, 1)(convolutional[0], clean_images(8, 1))).all()


def test_an_image_that_the_generator_makes_has_a_finite_gradient(fitted):
    params, _ = fitted
    image = defense_gan.generate(params, params.starts[:1])
    assert np.isfinite(jax.grad(total, 1)(params, image)).all()


def test_what_is_like_nothing_clean_gives_itself_away(fitted):
    params, _ = fitted
    clean = defense_gan.score(victim, params, clean_images(4, 200))
    thresholds = defense_gan.calibrate(clean, fpr=0.05)
    flags = defense_gan.detect(defense_gan.score(victim, params, clean_images(5, 200)), thresholds)
    assert np.mean(flags) < 0.15
    perturbation = np.random.default_rng(1).choice([-0.2, 0.2], size=(200, *SHAPE))
    attacked = np.clip(clean_images(6, 200) + perturbation, 0, 1).astype(np.float32)
    flags = defense_gan.detect(defense_gan.score(victim, params, attacked), thresholds)
    assert np.mean(flags) > 0.9


@pytest.mark.parametrize(
    ("config", "shape"),
    [(CONVOLUTIONAL, (28, 28, 1)), (CONVOLUTIONAL, (8, 20, 3)), (TINY, (5, 7, 2))],
)
def test_shapes_are_known_without_computing(config, shape):
    """Dense networks take images of any size."""
    params = jax.eval_shape(
        lambda key, images: defense_gan.init(key, victim, images, config),
        KEY,
        jnp.zeros((1, *shape)),
    )
    assert params.image_shape == shape
    assert params.starts.shape == (3, 8)
    made = jax.eval_shape(
        defense_gan.reconstruct, params, jax.ShapeDtypeStruct((5, *shape), jnp.float32)
    )
    assert made.shape == (5, *shape)


def test_a_fitted_detector_exports_and_runs_without_this_library(fitted):
    params, _ = fitted
    (batch,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(partial(defense_gan.score, victim, params)))(
        jax.ShapeDtypeStruct((batch, *SHAPE), jnp.float32)
    )
    again = jax.export.deserialize(exported.serialize())
    images = clean_images(10, 3)
    expected = defense_gan.score(victim, params, images)
    np.testing.assert_allclose(again.call(images)["l2"], expected["l2"], rtol=1e-3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((4, 10, 8, 1), np.float32), "divisible by 4, got 10x8"),
        (np.zeros((8, 8), np.float32), r"expected images .* got float32 \(8, 8\)"),
        (np.zeros((4, 8, 8, 1)), "float64"),
        (np.full((4, 8, 8, 1), 255, np.float32), "max 255"),
        (np.zeros((0, 8, 8, 1), np.float32), "at least 1 images, got 0"),
    ],
)
def test_wrong_images_are_refused_in_words(images, message):
    with pytest.raises(ValueError, match=message):
        defense_gan.fit(KEY, victim, images, CONVOLUTIONAL)


def test_images_and_starts_of_other_shapes_than_the_fitted_are_refused(fitted):
    params, _ = fitted
    images = np.zeros((2, 16, 16, 1), np.float32)
    expected = r"expected images \(B, 8, 8, 1\) float32 in \[0, 1\], got float32 \(2, 16, 16, 1\)"
    for function in (partial(defense_gan.score, victim), defense_gan.reconstruct):
        with pytest.raises(ValueError, match=expected):
            function(params, images)
        with pytest.raises(ValueError, match=expected):
            jax.jit(function)(params, images)
    with pytest.raises(ValueError, match=r"expected z_start \(2, R, 8\), got \(3, 8\)"):
        defense_gan.project(params, clean_images(0, 2), params.starts, 5)
    start = jnp.zeros((2, 1, 8))
    with pytest.raises(ValueError, match="of at least 0, got -1"):
        defense_gan.project(params, clean_images(0, 2), start, -1)


@pytest.mark.parametrize(
    "options",
    [
        {"generator": "transposed"},
        {"critic": "none"},
        {"learning_rate": 0.0},
        {"penalty": -1.0},
        {"momentum": 1.0},
        {"final_rate": 1.5},
        {"restarts": 0},
        {"epochs": 0},
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        DefenseGANConfig(**options)
