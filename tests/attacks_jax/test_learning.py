"""Attacks that learn: the patch covers what it says, the network stays near; both carry over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import attacks_jax
from attacks_jax._attacks.atn import rerank
from tests.attacks_jax import toys

KEY = jax.random.key(0)
SHAPE = (9, 8, 3)
# Bright where a class's quarter of the image is bright: what is learnt on some images holds on
# others, unlike on noise in front of a random network.
QUARTERS = np.zeros((*SHAPE, 4), np.float32)
for quarter, (rows, columns) in enumerate(
    [(slice(0, 4), slice(0, 4)), (slice(0, 4), slice(4, 8)),
     (slice(5, 9), slice(0, 4)), (slice(5, 9), slice(4, 8))]
):  # fmt: skip
    QUARTERS[rows, columns, :, quarter] = 0.2


def logits(images):
    return jnp.tensordot(images, QUARTERS, 3)


ORACLE = attacks_jax.stateless(logits)


def some(seed, count=40):
    labels = np.random.default_rng(seed).integers(0, 4, count)
    images = 0.4 * toys.some_images(seed, count, SHAPE)
    images += 0.3 * (QUARTERS.transpose(3, 0, 1, 2)[labels] > 0)
    return images, labels


IMAGES, LABELS = some(0)


def test_the_data_are_classified_rightly_at_first():
    assert np.mean(np.argmax(logits(IMAGES), -1) == LABELS) > 0.9


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_a_patch_changes_what_it_covers_and_nothing_else(shape):
    attack = attacks_jax.patch(
        size=4, shape=shape, rotation=0.0, place=(4.5, 3.5), num_steps=20, batch_size=40
    )
    result = attacks_jax.run(attack, ORACLE, KEY, IMAGES, LABELS)
    changed = np.any(np.asarray(result.images) != IMAGES, axis=-1)
    box = np.zeros(SHAPE[:2], bool)
    box[3:7, 2:6] = True
    assert changed[:, box].any() and not changed[:, ~box].any()
    np.testing.assert_array_equal(changed.sum((1, 2)), result.distance)
    # All carry the same picture.
    stuck = np.asarray(result.images)[np.asarray(result.distance) > 0][:, 3:7, 2:6]
    if shape == "square":
        np.testing.assert_allclose(stuck, np.broadcast_to(stuck[0], stuck.shape), atol=1e-6)


def test_a_patch_fits_into_the_image_wherever_it_is_stuck():
    attack = attacks_jax.patch(size=4, shape="square", rotation=0.0)
    keys = jax.random.split(KEY, 200)
    black, white = jnp.zeros((200, *SHAPE)), jnp.ones((4, 4, 3))
    covered = attack.stick(keys, black, white).sum((1, 2)) / 1.0
    np.testing.assert_allclose(covered, 16.0, rtol=1e-4)  # between pixels, its light is shared
    places = np.asarray(attack.stick(keys, black, white)).argmax(axis=1)
    assert len(np.unique(places)) > 3


def test_a_loss_of_one_s_own_sees_the_images_with_the_patch_on():
    attack = attacks_jax.patch(
        size=4,
        num_steps=5,
        step_size=0.1,
        loss=lambda logits, labels, images: images.sum((1, 2, 3)),
    )
    trained = attacks_jax.fit(attack, ORACLE, KEY, IMAGES, LABELS)
    assert np.max(trained.trained) > 0.9  # it brightens


def test_a_targeted_patch_carries_over_to_other_images():
    targets = np.zeros(40, int)
    attack = attacks_jax.patch(
        size=4, place=(2.0, 2.0), rotation=10.0, num_steps=60, step_size=0.1, targeted=True
    )
    trained = attacks_jax.fit(attack, ORACLE, KEY, IMAGES, targets)
    assert trained.trained.shape == (4, 4, 3)
    others, _ = some(7)
    result = attacks_jax.run(trained, ORACLE, KEY, others, targets)
    before = np.mean(np.argmax(logits(others), -1) == 0)
    assert before < 0.5 and np.mean(result.success) > 0.75
    assert np.all(result.queries == 2)  # no training: a look, and the re-check


@pytest.mark.parametrize("targeted", [False, True])
def test_a_network_carries_over_to_other_images(targeted):
    goals = np.zeros(40, int) if targeted else LABELS
    attack = attacks_jax.atn(num_steps=150, targeted=targeted, beta=1.0)
    trained = attacks_jax.fit(attack, ORACLE, KEY, IMAGES, goals)
    others, labels = some(7)
    result = attacks_jax.run(
        trained, ORACLE, KEY, others, np.zeros(40, int) if targeted else labels
    )
    assert np.mean(result.success) > 0.7  # before: none, or a quarter
    assert np.all(result.queries == 2)


def test_beta_keeps_the_network_near():
    near, far = (
        attacks_jax.run(
            attacks_jax.atn(num_steps=150, beta=beta), ORACLE, KEY, IMAGES, LABELS
        ).distance.mean()
        for beta in (30.0, 0.1)
    )
    assert near < 0.8 * far


def test_what_has_learnt_treats_each_example_by_itself():
    for attack in (attacks_jax.patch(num_steps=5, size=4), attacks_jax.atn(num_steps=5)):
        trained = attacks_jax.fit(attack, ORACLE, KEY, IMAGES, LABELS)
        whole = attacks_jax.run(trained, ORACLE, KEY, IMAGES, LABELS)
        part = attacks_jax.run(trained, ORACLE, KEY, IMAGES[5:8], LABELS[5:8])
        np.testing.assert_allclose(part.images, whole.images[5:8], atol=1e-5)


def test_rerank_is_the_paper_s_by_hand():
    probabilities = jnp.array([[0.5, 0.3, 0.2]])
    expected = np.array([0.5, 0.3, 1.5 * 0.5]) / (0.5 + 0.3 + 0.75)
    np.testing.assert_allclose(rerank(probabilities, jnp.array([2]), 1.5)[0], expected, rtol=1e-6)


def test_what_can_not_learn_and_nothing_to_learn_from_are_refused():
    with pytest.raises(ValueError, match=r"an attack that learns \(patch, atn\), got FGSM"):
        attacks_jax.fit(attacks_jax.fgsm(), ORACLE, KEY, IMAGES, LABELS)
    with pytest.raises(ValueError, match="at least one image to learn from"):
        attacks_jax.fit(attacks_jax.atn(), ORACLE, KEY, IMAGES[:0], LABELS[:0])
    with pytest.raises(ValueError, match="expected shape to be one of 'circle', 'square'"):
        attacks_jax.patch(shape="star")
    with pytest.raises(ValueError, match="expected scale"):
        attacks_jax.patch(scale=(2.0, 1.0))
