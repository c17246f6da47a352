"""Loads data sets by name, whole into memory. TFDS prepares them once, without TensorFlow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.datasets import prepared
from experiments.datasets.archives import DataError as DataError
from experiments.datasets.prepared import FACES as FACES
from experiments.datasets.prepared import NAMES as NAMES
from experiments.datasets.prepared import default_data_dir as default_data_dir
from experiments.datasets.prepared import default_manual_dir as default_manual_dir
from experiments.datasets.prepared import prepare as prepare
from experiments.runtime import cache

CLASSES = {"digits": 10, "mnist": 10, "fashion_mnist": 10, "cifar10": 10, "gtsrb": 43}
# Shares of the training set held out for calibration and model choice. The digits are few, so their
# share is larger.
VALIDATION_SHARE = 0.1
DIGITS_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    images: np.ndarray  # (N, H, W, C) float32 in [0, 1]
    labels: np.ndarray  # (N,) int32

    def __len__(self) -> int:
        return len(self.images)


def sample(split: Split, most: int | None, random: np.random.Generator) -> Split:
    """Returns `most` random images of the split, of any class, or all of them; shuffled."""
    rows = random.permutation(len(split))[:most]
    return Split(split.images[rows], split.labels[rows])


class Samples(NamedTuple):
    """Clean images that a detector scores. One function draws them, so that all tables and programs
    calibrate a detector on the same images."""

    validation: Split
    test: Split
    noise: np.ndarray  # (N, H, W, C) standard normal, for the test images


@dataclass(frozen=True)
class Dataset:
    """`validation` is held out of the publisher's training set. `test` is the publisher's."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    digest: str  # hash of all pixels and labels, for cache keys

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.images.shape[1:]

    def samples(self, most: int | None, *, seed: int) -> Samples:
        """Returns `most` of the validation images and of the test images, or all of them."""
        random = np.random.default_rng(seed)
        test = sample(self.test, most, random)
        validation = sample(self.validation, most, random)
        noise = random.normal(size=test.images.shape).astype(np.float32)
        return Samples(validation, test, noise)


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
    face_size: tuple[int, int] | None = None,
) -> Dataset:
    """Loads the whole data set into memory, and prepares it first if needed (see `prepare`).

    A fixed part of the publisher's training images is held out as `validation`, with equal shares
    of all classes. GTSRB holds out whole tracks, because the frames of a track are near-duplicates.

    Raises:
      DataError: as `prepare`; the prepared copy is damaged; a class has too few images to train and
        to validate.
    """
    if name == "digits":
        from experiments.datasets import digits

        parts = digits.read()
    else:
        builder = prepare(name, data_dir=data_dir, manual_dir=manual_dir, face_size=face_size)
        parts = {split: prepared.read(builder, split) for split in ("train", "test")}

    train, test = parts["train"], parts["test"]
    classes = _check_labels(name, train["label"], test["label"])
    share = DIGITS_VALIDATION_SHARE if name == "digits" else VALIDATION_SHARE
    held_out = _held_out(name, train["label"], train.get("track"), share)
    splits = {
        "train": _split(train, ~held_out),
        "validation": _split(train, held_out),
        "test": _split(test, slice(None)),
    }
    return Dataset(
        name=name,
        **splits,
        classes=classes,
        digest=cache.digest(*(a for s in splits.values() for a in (s.images, s.labels))),
    )


def _check_labels(name: str, train: np.ndarray, test: np.ndarray) -> int:
    """Returns the number of classes. Each of them has training images.

    Raises:
      DataError: a label is outside the classes; a class has no training images.
    """
    classes = CLASSES.get(name, int(max(train.max(), test.max())) + 1)
    found = np.union1d(train, test)
    if found[0] < 0 or found[-1] >= classes:
        raise DataError(f"{name} has labels {found[0]} to {found[-1]}; expected 0 to {classes - 1}")
    absent = sorted(set(range(classes)) - set(train.tolist()))
    if absent:
        raise DataError(f"{name} has no training images of the classes {absent}")
    return classes


def _held_out(name: str, labels: np.ndarray, tracks: np.ndarray | None, share: float) -> np.ndarray:
    """Returns (N,) bool: the images to hold out, `share` of each class or of each class's tracks.

    Raises:
      DataError: a class would have no images left to train on.
    """
    rng = np.random.default_rng(0)
    units = np.arange(len(labels)) if tracks is None else tracks
    chosen = []
    for label in np.unique(labels):
        of_label = np.unique(units[labels == label])
        count = max(1, round(share * len(of_label)))
        if count == len(of_label):
            unit = "image" if tracks is None else "track"
            raise DataError(
                f"{name} has too few training images of class {label}: expected at least"
                f" {count + 1} {unit}s, of which {count} is held out to validate, got {count}"
            )
        chosen.append(rng.choice(of_label, count, replace=False))
    return np.isin(units, np.concatenate(chosen))


def _split(part: dict[str, np.ndarray], rows: Any) -> Split:
    images = part["image"][rows].astype(np.float32) / 255
    return Split(images, part["label"][rows].astype(np.int32))
