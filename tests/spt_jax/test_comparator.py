"""The comparator: similarity with the standard image of the label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import spt_jax
from tests.spt_jax import toys

IMAGES = np.random.default_rng(0).uniform(size=(40, *toys.SHAPE)).astype(np.float32)
LABELS = np.argmax(toys.classifier(IMAGES), -1)
WEIGHTS = np.random.default_rng(1).normal(size=(16, 6)).astype(np.float32)


def embed(weights, images):
    return images.reshape(len(images), -1) @ weights


@pytest.mark.parametrize("kind", ["squares", "cosine"])
def test_who_is_unlike_the_standard_of_its_label_is_answered_by_the_fallback(kind):
    of_label = toys.STANDARDS[LABELS]
    if kind == "squares":
        similarity = toys.similarity
        expected = -np.square(IMAGES - of_label).mean((1, 2, 3))
    else:
        similarity = spt_jax.cosine(Partial(embed, WEIGHTS))
        a, b = (x.reshape(len(x), -1) @ WEIGHTS for x in (IMAGES, of_label))
        expected = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    middle = np.sort(expected)[19:21].mean()
    system = spt_jax.comparator(toys.classifier, toys.decoy, toys.STANDARDS, similarity, middle)
    evidence = system.automaton.observe(IMAGES, (LABELS,))
    np.testing.assert_allclose(evidence, expected, rtol=1e-4, atol=1e-5)
    _, answers = system.query_clients(system.init_clients(len(IMAGES), toys.SHAPE), IMAGES)
    unlike = expected < middle
    assert unlike.sum() == 20
    np.testing.assert_array_equal(answers.deceived, unlike)
    both = np.where(unlike[:, None], toys.decoy(IMAGES), toys.classifier(IMAGES))
    np.testing.assert_allclose(answers.logits, both, atol=1e-5)
    np.testing.assert_array_equal(answers.label, both.argmax(-1))


def test_standards_may_be_a_tree_and_nothing_is_remembered():
    standards = {"image": toys.STANDARDS, "weight": jnp.arange(float(toys.CLASSES))}

    def similarity(images, of_label):
        assert of_label["image"].shape == images.shape
        return of_label["weight"]  # of the label alone

    system = spt_jax.comparator(toys.classifier, toys.decoy, standards, similarity, 1.5)
    state = system.init(toys.SHAPE)
    assert jax.tree.leaves(state) == []
    state, answers = system.query_stream(state, IMAGES)
    assert jax.tree.leaves(state) == []
    np.testing.assert_array_equal(answers.deceived, LABELS < 2)


def test_cosine_is_within_its_bounds_and_bears_nothing_at_all():
    cosine = spt_jax.cosine(lambda x: x.reshape(len(x), -1))
    assert np.allclose(cosine(IMAGES, IMAGES), 1, atol=1e-6)
    assert np.allclose(cosine(IMAGES - 0.5, 0.5 - IMAGES), -1, atol=1e-6)
    np.testing.assert_array_equal(cosine(0 * IMAGES, IMAGES), 0)


def test_thresholds_are_one_finite_number():
    for threshold in (np.nan, "0", np.ones(3)):
        with pytest.raises(ValueError, match="expected threshold to be one finite number"):
            spt_jax.comparator(
                toys.classifier, toys.decoy, toys.STANDARDS, toys.similarity, threshold
            )
