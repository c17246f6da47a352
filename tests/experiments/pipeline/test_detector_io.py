"""Detectors on disk: what was saved is loaded; what is damaged or crafted is refused by name."""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.datasets import DataError
from experiments.pipeline import detector_io
from tests.experiments.pipeline import saved_detector


@pytest.fixture(scope="module", name="saved")
def _saved(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    saved_detector.save(run)
    return run


@pytest.fixture(name="run")
def _run(saved, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


def craft(run: Path, name: str, change) -> None:
    """Changes a JSON file of the detector, and its digest with it."""
    folder = run / "detectors" / "CMAG+"
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    digests = json.loads((folder / "digest.json").read_text())
    digests[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "digest.json").write_text(json.dumps(digests))


def test_what_was_saved_is_loaded(saved):
    victim, params, thresholds = detector_io.load(saved)
    system = saved_detector.tiny()
    assert thresholds == saved_detector.THRESHOLDS
    for loaded, made in ((params, system.params), (victim.args[0], system.victim.params)):
        assert jax.tree.structure(loaded) == jax.tree.structure(made)
        for one, other in zip(jax.tree.leaves(loaded), jax.tree.leaves(made), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("system", ["../../x", "MagNet", "", "cmag", None, "CMAG+/../CMAG+"])
def test_a_system_that_is_never_saved_is_refused(saved, system):
    with pytest.raises(ValueError, match="expected a system among CMAG, CMAG\\+, got"):
        detector_io.load(saved, system)


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("image_shape",), [100_000, 100_000, 3], "image_shape of 1 to 16777216 values"),
        (("image_shape",), [28, 28], "height, width and channels"),
        (("image_shape",), [28, 28, -1], "image_shape of 1 to"),
        (("image_shape",), [28.0, 28, 1], "height, width and channels"),
        (("image_shape",), "28x28", "height, width and channels"),
        (("classes",), 10**9, "from 2 to 100000 classes"),
        (("classes",), "ten", "from 2 to 100000 classes"),
        (("classes",), True, "from 2 to 100000 classes"),
        (("victim", "channels"), [10**9, 4], "channels from 1 to 16384"),
        (("victim", "channels"), [4] * 1000, "channels of one to 16 blocks, got 1000"),
        (("victim", "channels"), ["4", "8"], "expected channels as"),
        (("victim", "channels"), 4, "expected channels as"),
        (("victim", "convolutions"), 10**9, "convolutions of at most 64"),
        (("victim", "dense"), 2.5, "expected dense as 128 is, got 2.5"),
        (("victim", "dropout"), float("nan"), "dropout in"),
        (("victim", "standardise"), "yes", "expected standardise as False is"),
        (("victim", "colour"), 1, "expected batch_size, channels"),
        (("cmag", "gr_width"), 10**9, "at most 2,147,483,648 bytes of weights"),
        (("cmag", "scores"), ["ssim", "surprise"], "expected different scores among"),
        (("cmag", "decision"), "sometimes", "expected decision among"),
        (("cmag",), None, "expected batch_size"),
        (("more",), 1, "expected classes, cmag, image_shape, victim"),
    ],
)
def test_networks_that_can_t_be_are_refused_before_memory_is_asked_for(run, keys, value, told):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    craft(run, "networks.json", change)
    with pytest.raises(DataError, match=r"networks\.json is damaged \(") as error:
        detector_io.load(run)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("paper", "rarity"), "high", "finite threshold of 'rarity' by 'paper', got 'high'"),
        (("paper", "rarity"), float("nan"), "got nan"),
        (("paper", "rarity"), float("inf"), "got inf"),
        (("paper", "rarity"), True, "got True"),
        (("paper", "rarity"), None, "got None"),
        (("paper", "rarity"), 10**40, "expected a finite threshold"),
        (("paper", "ssim"), 0.5, "expected rarity, got"),
        (("paper",), {}, "expected rarity, got"),
        (("paper",), 2.5, "expected rarity, got 2.5"),
    ],
)
def test_thresholds_that_no_score_can_be_put_to_are_refused(run, keys, value, told):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    craft(run, "thresholds.json", change)
    with pytest.raises(DataError, match=r"thresholds\.json is damaged \(") as error:
        detector_io.load(run)
    assert told in str(error.value)


def test_another_threshold_than_was_saved_is_refused(run):
    file = run / "detectors" / "CMAG+" / "thresholds.json"
    file.write_text(file.read_text().replace("1.5", "9.5"))
    with pytest.raises(DataError, match=r"thresholds\.json is damaged .*digest\.json speaks of"):
        detector_io.load(run)


def test_weights_of_another_detector_are_refused(run, tmp_path):
    """Whole in themselves, and of the same networks."""
    other = saved_detector.save(tmp_path / "other", seed=1)
    weights = run / "detectors" / "CMAG+" / "weights"
    shutil.rmtree(weights)
    shutil.copytree(other / "weights", weights)
    with pytest.raises(DataError, match=r"weights is damaged .*digest\.json speaks of"):
        detector_io.load(run)


@pytest.mark.parametrize("name", ["digest.json", "networks.json", "thresholds.json", "weights"])
def test_a_missing_part_is_named(run, name):
    path = run / "detectors" / "CMAG+" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        detector_io.load(run)


def test_one_saved_before_there_were_digests_is_refused_with_the_way_to_a_new_one(run):
    (run / "detectors" / "CMAG+" / "digest.json").unlink()
    with pytest.raises(DataError, match=r"experiments\.cmag, run again with the same options"):
        detector_io.load(run)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '"digest"', "[[]]", "[" * 100_000])
def test_a_digest_that_is_none_is_refused(run, content):
    (run / "detectors" / "CMAG+" / "digest.json").write_text(content)
    with pytest.raises(DataError, match=r"digest\.json is damaged"):
        detector_io.load(run)


def test_a_file_of_a_size_that_no_detector_s_has_is_not_read(run):
    file = run / "detectors" / "CMAG+" / "digest.json"
    file.write_text(" " * 2**21)
    with pytest.raises(DataError, match="expected at most 1,048,576 bytes, got 2,097,152"):
        detector_io.load(run)
