"""What `run` does at its edge: labels that would wrap, oracles that are none, options in pixels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from tests.attacks_jax import toys, zoo
from tests.attacks_jax.scaled import attacked, some, turned

KEY = jax.random.key(0)
SHAPE, CLASSES = (4, 4, 1), 4
LOGITS = toys.random_network(jax.random.key(1), SHAPE, CLASSES)
ORACLE = attacks_jax.stateless(LOGITS)
IMAGES = toys.some_images(0, 3, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))
FGSM = attacks_jax.fgsm()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([2**32 + 2, 0, 0]), r"in \[0, K\), got 0 to 4294967298"),
        (np.array([-(2**40), 0, 0]), r"in \[0, K\), got -1099511627776 to 0"),
        (np.array([2**63, 0, 0], np.uint64), r"in \[0, K\)"),
        (np.array([None, 1, 2]), "integer type, got object"),
        (["a", "b", "c"], "integer type, got <U1"),
        ([[1], [2, 3], [4]], "integer type, got list"),
        (None, "integer type, got object"),
    ],
)
def test_labels_are_not_wrapped_around(labels, message):
    with pytest.raises(ValueError, match=message):
        attacks_jax.run(FGSM, ORACLE, KEY, IMAGES, labels)
    with pytest.raises(ValueError, match="expected labels"):
        attacks_jax.guarded_state(labels)


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (1, "expected oracle to be a function, got 1"),
        (LOGITS, "positional argument"),
        (lambda s, x: LOGITS(x), r"answers \(state, logits \(B, K\)\), got float32 \(3, 4\)"),
        (lambda s, x: (s, LOGITS(x), 1), "got tuple of"),
        (lambda s, x: (s, (LOGITS(x), x)), r"of a floating type, got tuple of"),
        (lambda s, x: (s, jnp.argmax(LOGITS(x), -1)), "got int32"),
        (attacks_jax.stateless(lambda x: (x, LOGITS(x))), r"take the logits: stateless\("),
        (attacks_jax.stateless(lambda x: None), "got NoneType"),
        (attacks_jax.stateless(lambda x: LOGITS(x)[0]), r"expected an oracle with logits"),
    ],
)
def test_what_is_no_oracle_is_refused_in_words(oracle, message):
    with pytest.raises((ValueError, TypeError), match=message):
        attacks_jax.run(FGSM, oracle, KEY, IMAGES, LABELS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(attacks_jax.fgsm, loss=1), "expected loss to be a function, got 1"),
        (
            partial(attacks_jax.square, eps=0.1, loss="margin"),
            "loss to be a function, got 'margin'",
        ),
        (partial(attacks_jax.evading_pgd, detector=None), "detector to be a function, got None"),
        (partial(attacks_jax.stateless, 3), "logits_fn to be a function, got 3"),
        (partial(attacks_jax.eot, 3, samples=2), "oracle to be a function, got 3"),
        (partial(attacks_jax.fgsm, bounds=0.5), r"bounds \(low, high\) with low < high, got 0.5"),
        (partial(attacks_jax.fgsm, bounds="01"), "got '01'"),
        (partial(attacks_jax.fgsm, bounds=(0, 1, 2)), r"got \(0, 1, 2\)"),
        (partial(attacks_jax.pgd, num_steps=2**31), "num_steps of at most 2147483647"),
    ],
)
def test_options_of_the_wrong_kind_are_refused_in_words(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_value_beyond_the_bounds_is_named_with_the_digits_that_matter():
    images = np.array(IMAGES)
    images[0, 0, 0, 0] = 1.0000001
    with pytest.raises(ValueError, match=r"max 1\.0000001"):
        attacks_jax.run(FGSM, ORACLE, KEY, images, LABELS)


IN_PIXELS = {
    "fgsm": "eps", "least_likely": "eps", "bim": "eps", "pgd": "step_size", "mifgsm": "eps",
    "apgd": "eps", "auto_attack": "eps", "nes": "sigma", "square": "eps", "jsma": "theta",
}  # fmt: skip


@pytest.mark.parametrize("name", IN_PIXELS)
def test_what_is_in_pixels_has_to_be_given_with_other_bounds(name):
    make = getattr(attacks_jax, name)
    make()
    given = {} if IN_PIXELS[name] in ("eps", "theta") else {"eps": 8.0}
    with pytest.raises(ValueError, match=rf"expected {IN_PIXELS[name]}, in units of the pixels"):
        make(bounds=(0.0, 255.0), **given)


@pytest.mark.parametrize("bounds", [(0.0, 255.0), (-255.0, 0.0)])
@pytest.mark.parametrize("name", ["deepfool", "jsma, targeted", "carlini_wagner_l2", "atn"])
def test_other_bounds_change_nothing_but_the_scale(name, bounds):
    """The whole zoo: tests/campaign/test_shapes_and_bounds.py."""
    network, images, labels = some((6, 5, 1), 24)
    attack, targeted = zoo.EVERY[name]
    goals = (labels + 1) % 4 if targeted else labels
    success, distance, _ = attacked(attack, network, images, goals)
    again, distance_again, _ = attacked(zoo.every(bounds)[name][0], network, images, goals, bounds)
    assert success.any() or name == "atn"
    assert (success == again).mean() > 0.9
    both = success & again
    np.testing.assert_allclose(distance_again[both], distance[both], rtol=0.05, atol=1e-3)


@pytest.mark.parametrize("shape", [(16, 2, 1), (12, 3, 3)])
def test_tiles_cover_a_tall_image_as_they_cover_a_wide_one(shape):
    """Square's first perturbation in l2 has norm eps, whichever way the image lies."""
    attack = attacks_jax.square(eps=0.5, norm="l2", num_steps=1)
    network, images, labels = some(shape, 16)
    for one in (images, turned(images)):
        _, distance, changed = attacked(
            attack, lambda x: network(x.reshape(-1, *shape)), one, labels
        )
        asked = changed > 0
        assert asked.any() and np.all(distance[asked] > 0.2)


@pytest.mark.parametrize("name", zoo.ONCE)
def test_an_oracle_that_insists_on_float32_is_served_with_64_bits(name):
    attack, targeted = zoo.ONCE[name]

    def oracle(state, images):
        assert images.dtype == jnp.float32
        return state, LOGITS(images)

    goals = (LABELS + 1) % CLASSES if targeted else LABELS
    with jax.enable_x64(True):
        result = jax.eval_shape(
            lambda key: attacks_jax.run(
                attack, oracle, key, jnp.asarray(IMAGES), jnp.asarray(goals, jnp.int32)
            ),
            KEY,
        )
    assert result.images.dtype == jnp.float32


def test_every_pair_of_pixels_is_tried_in_blocks_as_at_once():
    from attacks_jax._attacks import jsma

    rng = np.random.default_rng(0)
    gain, relief = rng.normal(size=(2, 3, 70)).astype(np.float32)
    whole = jsma._try_all(jnp.asarray(gain), jnp.asarray(relief))
    products = np.maximum(gain[:, :, None] + gain[:, None], 0) * np.maximum(
        relief[:, :, None] + relief[:, None], 0
    )
    products[:, np.arange(70), np.arange(70)] = 0
    flat = products.reshape(3, -1)
    np.testing.assert_allclose(whole[2], flat.max(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(whole[0], flat.argmax(axis=1) // 70)
    small, jsma.AT_ONCE = jsma.AT_ONCE, 3 * 70 * 4  # four rows at a time, of which two are none
    try:
        for a, b in zip(whole, jsma._try_all(jnp.asarray(gain), jnp.asarray(relief)), strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        jsma.AT_ONCE = small


@pytest.mark.parametrize("name", zoo.ONCE)
def test_images_that_are_stored_in_8_bits_are_asked_about_again(name):
    """What `run` says with `round_to` is what the oracle says of the file."""
    attack, targeted = zoo.ONCE[name]
    clean = (np.round(toys.some_images(3, 12, SHAPE) * 255) / 255).astype(np.float32)
    labels = np.argmax(LOGITS(clean), -1)
    goals = (labels + 1) % CLASSES if targeted else labels
    exact = attacks_jax.run(attack, ORACLE, KEY, clean, goals)
    result = attacks_jax.run(attack, ORACLE, KEY, clean, goals, round_to=255)
    files = np.round(np.asarray(result.images) * 255).astype(np.uint8)
    read = (files / 255).astype(np.float32)
    np.testing.assert_allclose(read, result.images, atol=1e-7)
    answers = np.argmax(LOGITS(read), -1)
    np.testing.assert_array_equal(
        result.success, exact.success & ((answers == goals) if targeted else (answers != goals))
    )
    eps = getattr(attack, "eps", None)
    if eps is not None and attack.norm == "linf":
        assert np.abs(result.images - clean).max() <= eps + 1e-6
    assert np.abs(result.images - exact.images).max() <= 1 / 255 + 1e-6
    np.testing.assert_array_equal(result.queries, exact.queries + 1)
    if attack.norm == "l0":  # untouched pixels are untouched
        assert np.all(result.distance <= exact.distance)


def test_rounding_costs_attacks_that_end_on_the_boundary_their_success():
    clean = (np.round(toys.some_images(4, 60, SHAPE) * 255) / 255).astype(np.float32)
    labels = np.argmax(LOGITS(clean), -1)
    attack = attacks_jax.deepfool(overshoot=0.0)
    exact = attacks_jax.run(attack, ORACLE, KEY, clean, labels).success.mean()
    stored = attacks_jax.run(attack, ORACLE, KEY, clean, labels, round_to=255).success.mean()
    assert exact > 0.95 and 0.2 < stored < 0.8
    for wrong in (0, 2.5, "255"):
        with pytest.raises(ValueError, match="expected round_to"):
            attacks_jax.run(attack, ORACLE, KEY, clean, labels, round_to=wrong)
