"""Detectors fitted through the cache: what determines one is in its key."""

import dataclasses

import jax
import numpy as np
import pytest

from cmag_jax import CMAGConfig, cmag
from experiments import datasets, victims
from experiments.pipeline import detectors

CONFIG = CMAGConfig(
    batch_size=200, fmr_epochs=1, lr_epochs=1, gr_epochs=1, fmr_width=4, lr_width=4, gr_width=8
)


@pytest.fixture(scope="module", name="data")
def _data():
    data = datasets.load("digits")
    few = datasets.Split(data.train.images[:200], data.train.labels[:200])
    return dataclasses.replace(data, train=few)


@pytest.fixture(scope="module", name="victim")
def _victim(data, tmp_path_factory):
    config = victims.VictimConfig((2, 4), dense=8, epochs=1, batch_size=100)
    return victims.get(data, config, seed=0, cache_dir=tmp_path_factory.mktemp("victim"))


def test_a_module_that_is_given_is_used_and_is_part_of_the_key(data, victim, tmp_path):
    start = cmag.init(jax.random.key(0), victim.features_and_logits, data.train.images[:1], CONFIG)
    zeros = jax.tree.map(np.zeros_like, start.lr)

    def fitted(**given):
        return detectors.fit(
            "CMAG", CONFIG, data, victim, seed=0, cache_dir=tmp_path,
            given={"fmr": start.fmr} | given,
        )  # fmt: skip

    first, again, other = fitted(lr=start.lr), fitted(lr=start.lr), fitted(lr=zeros)
    assert first.key == again.key != other.key
    jax.tree.map(np.testing.assert_array_equal, other.params.lr, zeros)
    jax.tree.map(np.testing.assert_array_equal, first.params.gr, again.params.gr)
    differs = jax.tree.map(lambda a, b: not np.array_equal(a, b), first.params.gr, other.params.gr)
    assert any(jax.tree.leaves(differs))  # GR was trained on what LR makes, not read from a cache


def test_every_table_and_program_draws_the_same_clean_images(data):
    few, again, other = (data.samples(30, seed=seed) for seed in (0, 0, 1))
    for part in ("validation", "test"):
        a, b, c = (getattr(one, part).images for one in (few, again, other))
        assert len(a) == 30
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    assert few.noise.shape == few.test.images.shape
    assert len(data.samples(None, seed=0).validation) == len(data.validation)
