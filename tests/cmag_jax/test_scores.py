"""CMAG+'s scores: by hand, on images that show what each is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from cmag_jax.cmag import scores
from cmag_jax.cmag.scores import Evidence

RNG = np.random.default_rng(0)


def seen(**changes) -> Evidence:
    """A legitimate image, rebuilt perfectly, of whose class nobody doubts."""
    images = jnp.asarray(RNG.uniform(0.3, 0.7, size=(3, 12, 12, 1)), jnp.float32)
    logits = jnp.asarray([[9.0, 0, 0], [0, 9, 1], [0, 2, 9]])
    legitimate = Evidence(images, logits, images, images, logits, logits)
    return legitimate._replace(**changes)


def test_pixels_counts_those_off_by_more_than_benign_noise():
    rebuilt = seen().images
    changed = np.array(rebuilt)
    changed[:, :3] += 0.2  # three of twelve rows
    changed[:, 3:] += 0.02  # noise
    found = scores.pixels(seen(images=jnp.asarray(changed), fmr=rebuilt))
    np.testing.assert_allclose(found, 0.25, atol=0.02)


def test_edges_does_not_count_what_neighbours_share():
    rebuilt = seen().images
    blurred = rebuilt + 0.2  # off everywhere alike
    signs = jnp.asarray(RNG.choice([-1.0, 1.0], size=rebuilt.shape), jnp.float32)
    assert np.all(scores.edges(seen(images=blurred, fmr=rebuilt)) < 0.01)
    assert np.all(scores.edges(seen(images=rebuilt + 0.1 * signs, fmr=rebuilt)) > 0.6)


def test_doubt_is_the_lead_negated():
    np.testing.assert_allclose(scores.doubt(seen()), [-9, -8, -7])


def test_tremor_is_the_divergence_of_two_looks():
    moved = jnp.asarray([[9.0, 0, 0], [9, 0, 1], [0, 9, 2]])
    found = scores.tremor(seen(logits_moved=moved))
    here = np.asarray(jax.nn.softmax(seen().logits / 4))
    there = np.asarray(jax.nn.softmax(moved / 4))
    divergence = jensenshannon(here, there, axis=1) ** 2
    np.testing.assert_allclose(found, np.log(divergence + 1e-5), atol=1e-3)


def test_drift_is_the_change_of_the_log_odds():
    """Of image 0 the victim goes from class 0 by 9 to class 2 by 3 in all three looks: 12."""
    elsewhere = jnp.asarray([[0.0, 0, 3], [0, 9, 1], [0, 2, 9]])
    found = scores.drift(seen(logits_of_fmr=elsewhere, logits_moved=elsewhere))
    np.testing.assert_allclose(found, [12, 0, 0], atol=1e-5)
    moved_only = scores.drift(seen(logits_moved=elsewhere))
    np.testing.assert_allclose(moved_only[0], (9 * 0 + 12 * 2) / 3, atol=1e-5)


def test_images_are_moved_both_ways_with_their_edges_repeated():
    image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    down, up = (x[0, :, :, 0] for x in scores.move(image))
    np.testing.assert_array_equal(down, [[0, 0, 1], [0, 0, 1], [3, 3, 4]])
    np.testing.assert_array_equal(up, [[4, 5, 5], [7, 8, 8], [7, 8, 8]])


def test_what_is_usual_is_learnt_and_taken_off():
    """A score that is 3 + 2 * lead, with a spread of its own: its surprise is the spread's sign."""
    count = 400
    images = jnp.asarray(RNG.uniform(size=(count, 6, 6, 1)), jnp.float32)
    lead = RNG.uniform(0, 2, size=count)
    logits = jnp.asarray(np.stack([lead, np.zeros(count)], axis=1), jnp.float32)
    legitimate = Evidence(images, logits, images, images, logits, logits)
    coin = RNG.choice([-1.0, 1.0], size=count)
    score = jnp.asarray(3 + 2 * lead + 0.5 * coin, jnp.float32)
    usual = scores.usual_of(score, scores.context(legitimate))
    found = scores.surprise(score, usual, legitimate)
    assert np.corrcoef(found, coin)[0, 1] > 0.95
    assert abs(np.corrcoef(found, lead)[0, 1]) < 0.05
    np.testing.assert_allclose(np.std(found), 1, atol=0.2)


@pytest.mark.parametrize("name", sorted(set(scores.SCORES) - {"ssim"}))
def test_every_score_has_a_finite_gradient_and_looks_at_one_image(name):
    evidence = seen()

    def total(evidence):
        return scores.SCORES[name](evidence).sum()

    for leaf in jax.tree.leaves(jax.grad(total)(evidence)):
        assert np.isfinite(leaf).all()
    alone = [scores.SCORES[name](jax.tree.map(lambda a, i=i: a[i : i + 1], evidence))[0]
             for i in range(3)]  # fmt: skip
    np.testing.assert_allclose(alone, scores.SCORES[name](evidence), rtol=1e-5, atol=1e-6)
