"""SPT's table IX: standards, comparator and AMI, on small networks and small faces."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from PIL import Image

from experiments import datasets, victims
from experiments.datasets import Split
from experiments.spt import ami, faces
from experiments.victims.blocks import ConvUnit

SIZE = (16, 16)


def hand_made(logits, embed=None) -> victims.Victim:
    return victims.Victim(Partial(logits), Partial(logits), "hand-made", {}, embed)


def of_corner(images):
    """(B, 2): the class is read off two corner pixels."""
    return 10.0 * images[:, 0, :2, 0]


def flat(images):
    return images.reshape(len(images), -1)


def with_corner(corner, rest=0.0) -> np.ndarray:
    image = np.full((*SIZE, 1), rest, np.float32)
    image[0, :2, 0] = corner
    return image


def test_the_standard_of_a_class_is_its_surest_image_among_those_classified_rightly():
    corners = [(0.6, 0.4), (0.9, 0.1), (0.0, 1.0), (0.8, 0.2), (0.4, 0.6)]
    images = np.stack([with_corner(corner) for corner in corners])
    split = Split(images, np.array([0, 0, 0, 1, 1], np.int32))
    standards = faces.choose_standards(hand_made(of_corner), split)
    np.testing.assert_array_equal(standards, images[[1, 4]])


def two_people(rng, count):
    """Two faces (bright above, bright below), noisy, whose corners say who they are."""
    labels = np.arange(count) % 2
    images = rng.uniform(0, 0.3, (count, *SIZE, 1)).astype(np.float32)
    images[labels == 0, :8] += 0.6
    images[labels == 1, 8:] += 0.6
    images[:, 0, :2, 0] = np.stack([1 - labels, labels], axis=1)
    return Split(images, labels.astype(np.int32))


def test_the_comparator_flags_an_image_with_a_foreign_label_and_few_others():
    rng = np.random.default_rng(0)
    victim = hand_made(of_corner, Partial(flat))
    config = faces.FacesConfig(fpr=0.1, attack_batch=8)
    standards = faces.choose_standards(victim, two_people(rng, 10))
    calibration = two_people(rng, 40)
    system, limit = faces.calibrated(victim, victim, victim, standards, calibration, config)
    alike = faces.similarities(system, calibration.images, 8)
    assert np.sum(alike < limit) == 4  # a tenth of forty

    clean = calibration.images
    foreign = clean.copy()
    foreign[:, 0, :2] = foreign[:, 0, 1::-1]  # the label, not the face
    steered = ami.AMI(victim.logits, ())
    judged = faces.judge({"comparator": system}, steered, np.r_[clean, foreign], config)
    np.testing.assert_array_equal(judged["comparator"][:40], alike < limit)
    assert judged["comparator"][40:].all()


class Contrasts(nn.Module):
    """One map of bright pixels and one of dark ones, behind them sums of both."""

    @nn.compact
    def __call__(self, images):
        maps = ConvUnit(2, kernel=1, normalise=False)(images, train=False)
        return maps.sum(axis=(1, 2))


KERNEL = {"kernel": jnp.array([[[[1.0, -1.0]]]]), "bias": jnp.array([-0.5, 0.5])}
CONTRASTS = Partial(Contrasts().apply, {"params": {"ConvUnit_0": {"Conv_0": KERNEL}}})


def test_a_witness_moves_with_its_attribute_and_with_nothing_else():
    rng = np.random.default_rng(0)
    people = rng.uniform(0.0, 0.4, (6, 40, 40, 1)).astype(np.float32)  # dark, all over
    for box in ami.ATTRIBUTES.values():  # but bright attributes
        inside = ami.mask(box, (40, 40))
        people = np.where(inside, rng.uniform(0.6, 1.0, people.shape), people).astype(np.float32)
    found = ami.fit(CONTRASTS, people, ami.AMIConfig(pairs=5))
    (witnesses,) = found.witnesses
    assert witnesses.tolist() == [True, False]


def test_witnesses_are_strengthened_and_what_exceeds_them_is_weakened():
    values = jnp.array([[1.0, 3.0, 4.0, 1.5]])  # mean 2, sigma 1, min 1 of the witnesses
    witness = jnp.array([True, True, False, False])
    config = ami.AMIConfig(weakening=2.0, strengthening=4.0, gain=1.1)
    steered = ami._steer(values, witness, config, conserve=False)
    expected = [1.1, 3 * (2.1 - np.exp(-2 / 4)), 4 * np.exp(-2 / 2), 1.5]
    np.testing.assert_allclose(steered[0], expected, rtol=1e-6)
    # One witness has no sigma, and none leaves the layer alone.
    alone = ami._steer(values, jnp.array([True, False, False, False]), config, conserve=False)
    np.testing.assert_allclose(alone[0], [1.1, 3.0, 4.0, 1.5], rtol=1e-6)
    nobody = ami._steer(values, jnp.zeros(4, bool), config, conserve=True)
    np.testing.assert_array_equal(nobody, values)


def test_ami_flags_where_the_steered_model_disagrees():
    bright, dark = np.full((1, 4, 4, 1), 0.9, np.float32), np.full((1, 4, 4, 1), 0.1, np.float32)
    images = np.concatenate([bright, dark])
    witnesses = (jnp.array([True, False]),)
    found = ami.AMI(CONTRASTS, witnesses)
    assert not ami.detect(found, images, ami.AMIConfig()).any()
    # What the witness sees of a dark image with a bright edge is made to count.
    two = np.concatenate([dark, np.where(np.arange(4)[:, None] < 3, dark, bright)])
    harsh = ami.AMIConfig(gain=40.0)
    assert ami.detect(found, two, harsh).tolist() == [False, True]


def test_the_attribute_conserving_transformation_enlarges_the_inner_part():
    maps = jnp.zeros((1, 14, 14, 1)).at[:, 0].set(9.0).at[:, :, -1].set(9.0)  # all on the margin
    np.testing.assert_allclose(ami._without_margin(maps), 0.0, atol=1e-6)
    assert ami._without_margin(jnp.ones((1, 2, 2, 3))).shape == (1, 2, 2, 3)  # nothing to cut


def test_the_paper_s_values_are_those_printed():
    assert list(faces.PAPER["AMI"].values()) == [0.97, 0.91, 0.99, 0.97, 0.91, 0.90]
    assert list(faces.PAPER["comparator"].values()) == [1.0, 0.99, 1.0, 1.0, 1.0, 1.0]
    names = [spec.name for spec in faces.specs(faces.FacesConfig())]
    assert names == list(faces.PAPER["AMI"]) == list(faces.PAPER["comparator"])


@pytest.mark.parametrize("wrong", [{"fpr": 1.0}, {"images_per_class": 0}, {"fgsm_eps": -1.0}])
def test_a_configuration_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        faces.FacesConfig(**wrong)
    with pytest.raises(ValueError, match="expected"):
        ami.AMIConfig(pairs=0)


def write_people(folder, people=3, images=10):
    """Stripes on gray, of a width and a brightness a person, with noise."""
    rng = np.random.default_rng(0)
    rows = np.arange(16)[:, None]
    for person in range(people):
        (folder / f"s{person}").mkdir(parents=True)
        for number in range(images):
            stripes = 30 * np.sin(rows * (person + 1) / 2)
            pixels = 60 + 68 * person + stripes + rng.normal(0, 8, SIZE)
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(folder / f"s{person}" / f"{number}.pgm")


TINY = faces.FacesConfig(
    face_size=SIZE, classifier="LeNet", fallback="LeNet", epochs=12, batch_size=8,
    fgsm_eps=0.3, bim_eps=0.2, bim_steps=5, cw_steps=20, cw_rounds=3, patch_size=6,
    patch_steps=3, attack_batch=3, attacks=("Patch", "CW-l2", "BIM"), ami=ami.AMIConfig(pairs=2),
)  # fmt: skip


def test_table_ix_end_to_end(tmp_path):
    write_people(tmp_path / "manual" / "orl_faces")
    places = {
        "seed": 0, "cache_dir": tmp_path / "cache", "data_dir": tmp_path / "tfds",
        "manual_dir": tmp_path / "manual",
    }  # fmt: skip
    rows, drawn = faces.measure(TINY, tmp_path / "run", **places)
    by = {(row.table, row.system, row.attack, row.metric): row for row in rows}
    assert len(by) == len(rows)
    assert all(0 <= r.value <= 1 for r in rows if r.metric.endswith(("rate", "fpr", "accuracy")))
    assert by[faces.EXTRA, "Classifier1", "none", "accuracy"].value == 1.0
    won = [r for r in rows if r.metric == "attack_success_rate" and r.value > 0]
    assert {"BIM", "CW-l2"} <= {r.attack for r in won}
    for success in won:
        for system in ("comparator", "comparator (own embedding)", "AMI"):
            row = by[faces.TABLE, system, success.attack, "detection_rate"]
            assert row.n == round(success.value * success.n)
            assert row.paper == faces.PAPER.get(system, {}).get(success.attack)
    assert len(drawn) == len(won) + 1
    assert all(path.parent == tmp_path / "run" / "figures" for path in drawn.values())
    assert all(path.stat().st_size > 1000 for path in drawn.values())
    kept = sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").iterdir())
    assert len([name for name in kept if name.startswith("attack-")]) == 3, kept
    assert len([name for name in kept if name.startswith("victim-")]) == 2, kept


@pytest.mark.slow
def test_on_real_faces_the_comparator_finds_what_ami_and_its_own_embedding_miss(tmp_path):
    if not (datasets.default_manual_dir(datasets.default_data_dir()) / "orl_faces").is_dir():
        pytest.skip("the ORL faces are not at hand")
    config = dataclasses.replace(faces.FacesConfig.quick(), cw_steps=100, cw_rounds=150)
    rows, _ = faces.measure(config, tmp_path / "run", seed=0, cache_dir=tmp_path / "cache")
    rate = {(r.system, r.attack): r.value for r in rows if r.metric == "detection_rate"}
    fpr = {r.system: r.value for r in rows if r.metric == "fpr"}
    unattacked = [r for r in rows if r.attack == "none"]
    assert all(r.value > 0.9 for r in unattacked if r.metric == "accuracy")
    assert fpr["comparator"] <= 0.15
    for name in faces.PAPER["comparator"]:
        assert rate["comparator", name] >= 0.7
        assert rate["comparator", name] > rate["comparator (own embedding)", name]
        assert rate["comparator", name] > rate["AMI", name]
