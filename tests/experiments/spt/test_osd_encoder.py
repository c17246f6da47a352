"""OSD's encoder: trained, kept, and nearer to an image's versions than to other images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.spt import osd_encoder

CONFIG = osd_encoder.EncoderConfig(dimensions=8, channels=(4, 4), epochs=1, batch_size=64)


@pytest.fixture(scope="module", name="digits")
def _digits():
    digits = datasets.load("digits")
    few = datasets.Split(digits.train.images[:256], digits.train.labels[:256])
    return dataclasses.replace(digits, train=few)


def test_an_encoder_is_trained_once_and_what_determines_it_makes_another(
    digits, tmp_path, monkeypatch
):
    first = osd_encoder.get(digits, CONFIG, seed=0, cache_dir=tmp_path)
    call = jax.jit(lambda encode: encode(digits.test.images[:5]))
    encodings = call(first)
    assert encodings.shape == (5, 8) and encodings.dtype == np.float32
    with monkeypatch.context() as patch:
        patch.setattr(osd_encoder, "train_encoder", None)  # training would fail
        again = osd_encoder.get(digits, CONFIG, seed=0, cache_dir=tmp_path)
        for config, seed in ((CONFIG, 1), (dataclasses.replace(CONFIG, epochs=2), 0)):
            with pytest.raises(TypeError, match="not callable"):
                osd_encoder.get(digits, config, seed=seed, cache_dir=tmp_path)
    np.testing.assert_array_equal(call(again), encodings)
    assert jax.tree.structure(again) == jax.tree.structure(first)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_loss_is_small_for_versions_that_are_near_and_others_that_are_far():
    def encode(x):
        return x

    # (images, their versions): near by 1, and 3 apart from each other.
    pairs = jnp.array([[0.0, 0], [3, 0], [0, 1], [3, 1]])
    np.testing.assert_allclose(osd_encoder.contrastive_loss(encode, pairs, 10**0.5), 1 + 10 - 9)
    np.testing.assert_allclose(osd_encoder.contrastive_loss(encode, pairs, 2.0), 1)


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
def test_transformed_images_are_versions_of_their_own_within_the_range(shape):
    rng = np.random.default_rng(0)
    coarse = rng.random((6, 4, 4, shape[-1]))
    images = np.asarray(jax.image.resize(coarse, (6, *shape), "linear"), np.float32).clip(0, 1)
    versions = np.asarray(jax.jit(osd_encoder.transform)(jax.random.key(0), images))
    assert versions.shape == images.shape and versions.dtype == np.float32
    assert versions.min() >= 0 and versions.max() <= 1
    distances = np.square(versions[:, None] - images).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(6))
    assert (np.diag(distances) > 1e-4).all()


@pytest.mark.parametrize(
    "options",
    [
        {"dimensions": 0},
        {"epochs": 0},
        {"batch_size": 1},
        {"channels": ()},
        {"margin": 0.0},
        {"learning_rate": 0.0},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=f"expected .*{next(iter(options))}"):
        osd_encoder.EncoderConfig(**options)


@pytest.mark.slow
def test_versions_are_nearer_than_other_images():
    digits = datasets.load("digits")
    config = osd_encoder.EncoderConfig(dimensions=32, channels=(8, 16), epochs=60)
    encode = osd_encoder.train_encoder(jax.random.key(0), digits.train.images, config)
    images = digits.test.images[:200]
    versions = osd_encoder.transform(jax.random.key(1), images)
    originals, versions = jnp.split(jax.jit(encode)(jnp.concatenate([images, versions])), 2)
    near = np.linalg.norm(originals - versions, axis=-1)
    far = np.linalg.norm(originals - np.roll(originals, 1, axis=0), axis=-1)
    assert np.mean(near < far) > 0.9
    assert np.median(near) < np.median(far) / 2
