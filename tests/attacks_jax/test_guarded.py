"""The classifier behind a detector as an oracle: its margin by hand, and attacks on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

import attacks_jax
from attacks_jax import guarded, guarded_state
from tests.attacks_jax import toys
from tests.compilations import counted

KEY = jax.random.key(0)
IMAGE = np.array([0.6, 0.6, 0.5, 0.5], np.float32).reshape(1, 2, 2, 1)  # logits (.3, -.3)
LINEAR = attacks_jax.stateless(toys.linear)
SHAPE = (5, 4, 1)
LOGITS = toys.random_network(jax.random.key(1), SHAPE, classes=4)
ORACLE = attacks_jax.stateless(LOGITS)
IMAGES = toys.some_images(0, 12, SHAPE)
LABELS = np.asarray(np.argmax(LOGITS(IMAGES), -1))
MEANS = IMAGES.mean((1, 2, 3))


def uneven(images):
    """Flags where the left half is darker or brighter than the right one."""
    return jnp.abs(images[:, :, :2].mean((1, 2, 3)) - images[:, :, 2:].mean((1, 2, 3))) - 0.2


@jax.jit
def spelt(logits, flagged, labels, scale):
    """What a guarded oracle answers to images whose pixels are the logits and the detector's
    answer, the margins that makes, and the gradient of these by the pixels (B, K + 1)."""
    images = jnp.concatenate([logits, flagged[:, None]], 1)[:, None, :, None]
    behind = guarded(lambda s, x: (s, x[:, 0, :-1, 0]), lambda x: x[:, 0, -1, 0], scale=scale)

    def margin(x):
        _, answer = behind(guarded_state(labels), x)
        margins = attacks_jax.margin(answer, labels, x)
        return margins.sum(), (answer, margins)

    gradient, (answer, margins) = jax.grad(margin, has_aux=True)(images)
    return answer, margins, gradient[:, 0, :, 0]


VALUES = st.floats(-50, 50, width=32)


@settings(max_examples=20)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES, VALUES), min_size=3, max_size=3))
def test_the_margin_is_the_lower_of_both_and_the_other_logits_stay(rows):
    rows = np.array(rows, np.float32)
    logits, flagged, labels = rows[:, :3], rows[:, 3], np.array([0, 1, 2])
    answer, margin, _ = spelt(logits, flagged, labels, 2.0)
    own = np.eye(3, dtype=bool)
    fooled = np.where(own, -np.inf, logits).max(-1) - logits[own]
    np.testing.assert_allclose(margin, np.minimum(fooled, -2 * flagged), atol=1e-4)
    assert not np.any((margin > 0) & ((fooled <= 0) | (flagged >= 0)))
    np.testing.assert_array_equal(answer[~own], logits[~own])


def test_the_gradient_is_that_of_whichever_is_worse():
    cases = [
        ((3.0, 1.0, 0.0), -9.0, (-1, 1, 0, 0)),  # not fooled
        ((3.0, 1.0, 0.0), 1.0, (-1, 1, 0, 0)),  # nor unseen, but the classifier is farther away
        ((3.0, 2.0, 0.0), 9.0, (0, 0, 0, -0.5)),  # the detector is
        ((1.0, 3.0, 0.0), 1.0, (0, 0, 0, -0.5)),  # fooled and flagged
        ((1.0, 3.0, 0.0), np.nan, (0, 0, 0, 0)),
    ]
    logits, flagged, expected = (np.array(column) for column in zip(*cases, strict=True))
    _, _, gradient = spelt(logits, flagged, np.zeros(len(cases), int), 0.5)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_what_is_not_a_number_is_flagged_and_nothing_infinite_comes_out():
    logits = np.array([[0.0, 1.0]] * 4)  # all fooled
    flagged = np.array([np.nan, np.inf, -np.inf, -1.0])
    answer, _, _ = spelt(logits, flagged, np.zeros(4, int), 1.0)
    assert np.isfinite(answer).all()
    np.testing.assert_array_equal(np.argmax(answer, -1), [0, 0, 1, 1])


def moved(slack, images):
    """Flags where pixel 1 of a 2x2 image has moved by more than the slack."""
    return 10 * (jnp.abs(images[:, 0, 1, 0] - 0.6) - slack)


def test_cw_finds_the_nearest_image_that_both_let_pass():
    """The weights' difference is (2, 4, -2, 1), of length 5, and the lead .6. A detector that holds
    pixel 1 within .01 leaves .56 to the other three, of length 3."""

    def nearest(slack, confidence=0.0):
        behind = guarded(LINEAR, Partial(moved, np.float32(slack)))
        attack = attacks_jax.carlini_wagner_l2(
            confidence=confidence, num_steps=300, binary_search_steps=6, step_size=0.02,
            initial_const=0.1,
        )  # fmt: skip
        labels = np.array([0])
        return attacks_jax.run(
            attack, behind, KEY, IMAGE, labels, oracle_state=guarded_state(labels)
        )

    plain, hidden, sure = nearest(1.0), nearest(0.01), nearest(0.01, confidence=0.05)
    assert plain.success.all() and hidden.success.all() and sure.success.all()
    assert moved(0.01, plain.images) > 0 > moved(0.01, hidden.images)
    assert toys.linear(hidden.images).argmax(-1) == 1
    np.testing.assert_allclose(plain.distance, 0.6 / 5, rtol=0.05)
    np.testing.assert_allclose(hidden.distance, np.hypot(0.56 / 3, 0.01), rtol=0.05)
    # Confidence is asked of both.
    assert moved(0.01, sure.images) < -0.049 and np.ptp(toys.linear(sure.images)) > 0.049


def test_nobody_evades_a_detector_that_flags_whatever_is_misclassified():
    def sure(images):
        return 0.01 - (toys.linear(images)[:, 0] - toys.linear(images)[:, 1])

    attack = attacks_jax.pgd(eps=0.3, num_steps=30, loss=attacks_jax.margin)
    labels, there = np.array([0]), IMAGE + np.array([[-0.3, -0.3], [0.3, -0.3]])[..., None]
    assert toys.linear(there).argmax(-1) == 1  # in the ball's corner, say
    result = attacks_jax.run(
        attack, guarded(LINEAR, sure), KEY, IMAGE, labels, oracle_state=guarded_state(labels)
    )
    assert not result.success.any()


def test_what_is_misclassified_but_flagged_is_not_adversarial_yet():
    labels = np.array([1, 1])  # of images that are taken for 0; the second is bright

    def bright(images):
        return images.mean((1, 2, 3)) - 0.6

    images = np.concatenate([IMAGE, IMAGE + 0.1])
    attack = attacks_jax.bim(eps=0.2, step_size=0.02, num_steps=20, loss=attacks_jax.margin)
    behind = guarded(LINEAR, bright)
    result = attacks_jax.run(
        attack, behind, KEY, images, labels, oracle_state=guarded_state(labels)
    )
    assert result.success.all() and result.distance[0] == 0 < result.distance[1]
    assert np.all(bright(result.images) < 0)


def attacked(attack, images=IMAGES, labels=LABELS):
    behind = guarded(ORACLE, uneven, scale=5.0)
    return attacks_jax.run(attack, behind, KEY, images, labels, oracle_state=guarded_state(labels))


BIM = attacks_jax.bim(eps=0.2, step_size=0.02, num_steps=15, loss=attacks_jax.margin)


@pytest.mark.parametrize(
    "attack", [BIM, attacks_jax.square(eps=0.3, num_steps=60)], ids=["bim", "square"]
)
def test_success_is_fooled_and_unseen(attack):
    result = attacked(attack)
    unseen = np.asarray(uneven(result.images)) < 0
    fooled = np.argmax(LOGITS(result.images), -1) != LABELS
    np.testing.assert_array_equal(result.success, fooled & unseen)
    assert result.success.sum() > 3


def test_an_example_alone_and_a_compiled_batch_are_the_same():
    whole = attacked(BIM)
    inside = jax.jit(attacked)(BIM, IMAGES, LABELS)
    np.testing.assert_allclose(inside.images, whole.images, atol=1e-4)
    for i in range(3):  # with its own label
        one = attacked(BIM, IMAGES[i : i + 1], LABELS[i : i + 1])
        np.testing.assert_allclose(one.images[0], whole.images[i], atol=1e-4)
        assert one.queries[0] == whole.queries[i]


def test_the_memory_behind_the_guard_is_threaded():
    def counting(count, images):
        return count + 1, LOGITS(images)

    behind = guarded(guarded(counting, uneven), uneven)  # a guard behind a guard, too
    state = guarded_state(LABELS, guarded_state(LABELS, jnp.zeros((), int)))
    for count in range(3):
        assert state.oracle_state.oracle_state == count
        state, _ = behind(state, IMAGES)


def test_a_sweep_of_scales_and_of_detectors_compiles_once():
    def bright(threshold, images):
        return images.mean((1, 2, 3)) - threshold

    for strength in (0.4, 0.5, 0.6):
        detector = Partial(bright, jnp.float32(strength))
        behind = guarded(ORACLE, detector, scale=strength)
        state = guarded_state(LABELS)
        with counted() as compiled:
            attacks_jax.run(attacks_jax.fgsm(), behind, KEY, IMAGES, LABELS, oracle_state=state)
        assert strength == 0.4 or not compiled


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="expected scale to be a number above 0"):
        guarded(ORACLE, uneven, scale=0.0)
    behind = guarded(ORACLE, uneven)
    with pytest.raises(
        ValueError, match=r"expected oracle_state=guarded_state\(labels\), got \(\)"
    ):
        behind((), IMAGES)
    with pytest.raises(ValueError, match=r"labels \(12,\), one an image, got \(5,\)"):
        behind(guarded_state(LABELS[:5]), IMAGES)
    for detector, got in (
        (lambda x: uneven(x) > 0, r"bool \(12,\)"),
        (lambda x: uneven(x)[:, None], r"float32 \(12, 1\)"),
    ):
        with pytest.raises(ValueError, match=rf"a detector that answers \(12,\) float.*got {got}"):
            guarded(ORACLE, detector)(guarded_state(LABELS), IMAGES)
