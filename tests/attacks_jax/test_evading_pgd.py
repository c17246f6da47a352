"""Selective and orthogonal PGD: steps worked by hand on linear classifiers and detectors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import attacks_jax
from tests.attacks_jax import toys
from tests.compilations import counted

KEY = jax.random.key(0)
IMAGE = np.array([0.6, 0.6, 0.5, 0.5], np.float32).reshape(1, 2, 2, 1)  # logits (.3, -.3)
LINEAR = attacks_jax.stateless(toys.linear)
LEAD = np.array([2.0, 4.0, -2.0, 1.0])  # the gradient of logit 0 minus logit 1
SHAPE = (5, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
SCORES = toys.random_network(jax.random.key(2), SHAPE, classes=1)
ORACLE = attacks_jax.stateless(LOGITS)
IMAGES = toys.some_images(0, 12, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))
MODES = ("selective", "orthogonal")


def plane(slope, offset=10.0):
    """A linear detector of 2x2 images, which flags all there are by default."""
    return Partial(_plane, np.asarray(slope, np.float32), np.float32(offset))


def _plane(slope, offset, images):
    return (images.reshape(len(images), -1) - 0.5) @ slope + offset


def flagged(images):
    """A detector that flags about every other image."""
    return SCORES(images)[:, 0]


def step(slope, label, **options):
    """Where one step of length .01 goes from IMAGE (4,); it is taken for class 0."""
    attack = attacks_jax.evading_pgd(
        detector=plane(slope), eps=0.3, step_size=0.01, num_steps=1, **options
    )
    result = attacks_jax.run(attack, LINEAR, KEY, IMAGE, np.array([label]))
    assert not result.success.any()  # flagged all the same
    return np.asarray(result.images - IMAGE).ravel() / 0.01


def unit(vector):
    return vector / np.linalg.norm(vector)


def across(vector, other):
    return vector - (vector @ other) / (other @ other) * other


@pytest.mark.parametrize("targeted", [False, True])
def test_while_not_fooled_a_step_is_the_classifier_s(targeted):
    """Away from class 0; or towards 1, which is the same with two classes."""
    slope = np.array([1.0, 1.0, 0.0, 2.0])
    options = {"label": int(targeted), "targeted": targeted, "norm": "l2"}
    if not targeted:
        selective = step(slope, mode="selective", **options)
        np.testing.assert_allclose(selective, unit(-LEAD), atol=1e-4)
    orthogonal = step(slope, mode="orthogonal", **options)
    np.testing.assert_allclose(orthogonal, unit(across(-LEAD, slope)), atol=1e-4)
    assert abs(orthogonal @ slope) < 1e-4  # the detector notices nothing


@pytest.mark.parametrize("targeted", [False, True])
def test_while_fooled_a_step_is_the_detector_s(targeted):
    slope = np.array([1.0, 1.0, 0.0, 2.0])
    options = {"label": int(not targeted), "targeted": targeted, "norm": "l2"}
    if not targeted:
        selective = step(slope, mode="selective", **options)
        np.testing.assert_allclose(selective, unit(-slope), atol=1e-4)
    orthogonal = step(slope, mode="orthogonal", **options)
    np.testing.assert_allclose(orthogonal, unit(across(-slope, LEAD)), atol=1e-4)
    assert abs(orthogonal @ LEAD) < 1e-4  # the classifier notices nothing


def test_in_linf_the_sign_is_taken_after_the_projection():
    slope = np.array([0.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(step(slope, 0, mode="selective"), [-1, -1, 1, -1], atol=1e-4)
    np.testing.assert_allclose(step(slope, 0, mode="orthogonal"), [-1, 0, 1, -1], atol=1e-4)
    # Fooled: -slope without its part along LEAD / 5, by hand (8, -9, -8, 4) / 25.
    np.testing.assert_allclose(step(slope, 1, mode="selective"), [0, -1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(step(slope, 1, mode="orthogonal"), [1, -1, -1, 1], atol=1e-4)


def test_orthogonal_gradients_leave_the_modes_alike():
    slope = np.array([2.0, -1.0, 0.0, 0.0])
    for label in (0, 1):
        steps = [step(slope, label, mode=mode, norm="l2") for mode in MODES]
        np.testing.assert_allclose(steps[0], steps[1], atol=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_parallel_gradients_leave_no_orthogonal_step_and_rounding_makes_none(norm):
    for label, part in itertools.product((0, 1), (-0.3, 0.3)):
        steps = [step(part * LEAD, label, mode=mode, norm=norm) for mode in MODES]
        np.testing.assert_allclose(steps[0], steps[1], atol=1e-4)
        assert np.abs(steps[0]).max() > 0.1


def test_steps_fall_along_half_a_cosine_to_the_share_that_is_left():
    """A detector of no slope, a classifier of a constant one: how far the image went is the sum."""
    attack = attacks_jax.evading_pgd(
        detector=plane(np.zeros(4)), eps=1.0, step_size=0.01, final_step=0.2, num_steps=4,
        mode="selective",
    )  # fmt: skip
    result = attacks_jax.run(attack, LINEAR, KEY, IMAGE, np.array([0]))
    shares = 0.2 + 0.8 * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    moved = np.abs(result.images - IMAGE).ravel()
    assert np.argmax(toys.linear(result.images)) == 0  # or the last steps would be to hide
    np.testing.assert_allclose(moved, 0.01 * shares.sum(), atol=1e-6)


def test_momentum_keeps_a_share_of_the_directions_before():
    """By hand: two steps in l2, to fool, then, fooled, to hide."""
    slope = np.array([1.0, 1.0, 0.0, 2.0])
    attack = attacks_jax.evading_pgd(
        detector=plane(slope), eps=1.0, step_size=0.2, decay=0.5, num_steps=2, norm="l2",
        mode="selective", loss=attacks_jax.margin,
    )  # fmt: skip
    result = attacks_jax.run(attack, LINEAR, KEY, IMAGE, np.array([0]))
    first = -LEAD / np.abs(LEAD).sum()
    second = 0.5 * first - slope / np.abs(slope).sum()
    images = IMAGE.ravel() + 0.2 * unit(first)
    assert np.argmax(toys.linear(images.reshape(IMAGE.shape))) == 1
    images = images + 0.2 * unit(second)
    np.testing.assert_allclose(result.images.ravel(), images, atol=1e-6)


def test_success_is_fooled_and_unseen():
    attack = attacks_jax.evading_pgd(detector=flagged, eps=0.1, step_size=0.01, num_steps=30)
    result = attacks_jax.run(attack, ORACLE, KEY, IMAGES, LABELS)
    fooled = np.argmax(LOGITS(result.images), -1) != LABELS
    unseen = np.asarray(flagged(result.images)) <= 0
    np.testing.assert_array_equal(result.success, fooled & unseen)
    assert fooled.sum() > result.success.sum() > 0  # what fails to hide is returned fooling
    assert np.abs(result.images - IMAGES).max() <= 0.1 + 1e-6
    assert result.images.min() >= 0 and result.images.max() <= 1


def test_more_is_evaded_than_by_one_who_knows_the_classifier_only():
    options = {"eps": 0.1, "step_size": 0.01, "num_steps": 30}
    known = attacks_jax.evading_pgd(detector=flagged, **options)
    blind = attacks_jax.bim(**options, early_stop=True)
    known, blind = (attacks_jax.run(a, ORACLE, KEY, IMAGES, LABELS) for a in (known, blind))
    assert known.success.sum() > (blind.success & (flagged(blind.images) <= 0)).sum() + 1


def test_stopping_early_saves_queries_and_going_on_hides_better():
    options = {"detector": flagged, "eps": 0.2, "step_size": 0.02, "num_steps": 30}
    early = attacks_jax.run(attacks_jax.evading_pgd(**options), ORACLE, KEY, IMAGES, LABELS)
    late = attacks_jax.evading_pgd(**options, early_stop=False)
    late = attacks_jax.run(late, ORACLE, KEY, IMAGES, LABELS)
    won = np.asarray(early.success)
    np.testing.assert_array_equal(late.success, won)
    assert np.all(late.queries[won] == 1 + 30 + 2) and np.all(early.queries[won] < 33)
    assert np.all(flagged(late.images)[won] < flagged(early.images)[won])


def test_what_evades_both_already_is_left_alone_and_what_is_flagged_is_not():
    """The images are taken for 0; the second is bright."""
    images = np.concatenate([IMAGE, IMAGE + 0.1])
    bright = plane([0.25] * 4, offset=-0.1)
    attack = attacks_jax.evading_pgd(detector=bright, eps=0.2, step_size=0.02, num_steps=20)
    result = attacks_jax.run(attack, LINEAR, KEY, images, np.array([1, 1]))
    assert result.success.all() and np.all(bright(result.images) <= 0)
    assert result.distance[0] == 0 < result.distance[1] and result.queries[0] == 3


def test_of_what_fools_but_stays_flagged_the_least_flagged_is_returned():
    """A detector that lowers its answer in a band that the steps cross, and flags everywhere."""

    def band(images):
        return 1.0 + 10 * jnp.abs(images[:, 0, 0, 0] - 0.75)

    def threshold(images):  # class 1 above .55
        return jnp.stack([jnp.zeros(len(images)), images[:, 0, 0, 0] - 0.55], axis=1)

    image = np.full((1, 1, 1, 1), 0.5, np.float32)
    attack = attacks_jax.evading_pgd(detector=band, eps=0.5, step_size=0.1, num_steps=6)
    result = attacks_jax.run(attack, attacks_jax.stateless(threshold), KEY, image, np.array([0]))
    assert not result.success.any()
    np.testing.assert_allclose(np.abs(result.images - 0.75), 0.05, atol=1e-5)


def test_an_example_alone_and_a_compiled_batch_are_the_same():
    attack = attacks_jax.evading_pgd(detector=flagged, eps=0.1, step_size=0.01, num_steps=30)
    whole = attacks_jax.run(attack, ORACLE, KEY, IMAGES, LABELS)

    @jax.jit
    def compiled(attack, images, labels):
        return attacks_jax.run(attack, ORACLE, KEY, images, labels)

    inside = compiled(attack, IMAGES, LABELS)
    np.testing.assert_allclose(inside.images, whole.images, atol=1e-4)
    np.testing.assert_array_equal(inside.success, whole.success)
    for i in range(4):
        one = attacks_jax.run(attack, ORACLE, KEY, IMAGES[i : i + 1], LABELS[i : i + 1])
        np.testing.assert_allclose(one.images[0], whole.images[i], atol=1e-4)
        assert (one.success[0], one.queries[0]) == (whole.success[i], whole.queries[i])


def constantly(value, images):
    return 0 * images.sum((1, 2, 3)) + value


@pytest.mark.parametrize("answer", [np.nan, np.inf, 0.0])
def test_a_detector_that_says_nothing(answer):
    """What is no number flags everything; a constant zero nothing."""
    constant = Partial(constantly, np.float32(answer))
    attack = attacks_jax.evading_pgd(detector=constant, eps=0.3, num_steps=20, step_size=0.05)
    result = attacks_jax.run(attack, ORACLE, KEY, IMAGES, LABELS)
    fooled = np.argmax(LOGITS(result.images), -1) != LABELS
    np.testing.assert_array_equal(result.success, fooled & (answer == 0))
    assert fooled.any() and np.isfinite(result.images).all()


def test_a_sweep_of_strengths_and_of_detectors_compiles_once():
    def bright(threshold, images):
        return images.mean((1, 2, 3)) - threshold

    for strength in (0.4, 0.5, 0.6):
        detector = Partial(bright, jnp.float32(strength))
        attack = attacks_jax.evading_pgd(detector=detector, eps=strength, num_steps=2)
        with counted() as compiled:
            attacks_jax.run(attack, ORACLE, KEY, IMAGES, LABELS)
        assert strength == 0.4 or not compiled


def test_options_that_make_no_sense_are_refused():
    for options in (
        {"eps": -1.0},
        {"step_size": 0.0},
        {"num_steps": 0},
        {"final_step": 0.0},
        {"decay": -1},
    ):
        (name,) = options
        with pytest.raises(ValueError, match=f"expected {name} to be"):
            attacks_jax.evading_pgd(detector=flagged, **options)
    with pytest.raises(ValueError, match="expected mode to be one of 'selective', 'orthogonal'"):
        attacks_jax.evading_pgd(detector=flagged, mode="both")
    attack = attacks_jax.evading_pgd(detector=SCORES)
    with pytest.raises(ValueError, match=r"a detector that answers \(12,\) float.*\(12, 1\)"):
        attacks_jax.run(attack, ORACLE, KEY, IMAGES, LABELS)
