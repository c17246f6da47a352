"""Data sets by name: prepared once with TFDS (without TensorFlow), then read whole into memory."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import cache
from experiments.datasets.archives import DataError as DataError

CLASSES = {"digits": 10, "mnist": 10, "fashion_mnist": 10, "cifar10": 10, "gtsrb": 43}
FACES = ("orl_faces", "vggface2")
NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "gtsrb", *FACES)
# Of the training set, held out to calibrate and to choose; of so few digits a larger share.
VALIDATION_SHARE = 0.1
DIGITS_VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    images: np.ndarray  # (N, H, W, C) float32 in [0, 1]
    labels: np.ndarray  # (N,) int32

    def __len__(self) -> int:
        return len(self.images)


def sample(split: Split, most: int | None, random: np.random.Generator) -> Split:
    """That many of the split's images, of all classes, or all; shuffled."""
    rows = random.permutation(len(split))[:most]
    return Split(split.images[rows], split.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """`validation` is held out of the publisher's training set; `test` is the publisher's."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: int
    digest: str  # of every pixel and label: what is computed from them is cached under it

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.images.shape[1:]


def default_data_dir() -> Path:
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def default_manual_dir(data_dir: Path) -> Path:
    return Path(os.environ.get("MANUAL_DIR", data_dir / "downloads" / "manual")).expanduser()


def prepare(
    name: str,
    *,
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
    face_size: tuple[int, int] | None = None,
) -> Any:
    """Makes the data set ready in `data_dir`, if it is not, and returns its TFDS builder.

    Args:
      name: one of NAMES, except "digits", which needs no preparing.
      data_dir: where TFDS keeps prepared data sets; TFDS_DATA_DIR by default.
      manual_dir: holds the publishers' archives in one sub-folder a data set; MANUAL_DIR, or
        data_dir/downloads/manual, by default. Without an archive there, it is downloaded.
      face_size: (height, width) to scale faces to.

    Raises:
      DataError: an archive that is missing with no network to fetch it, or damaged. Nothing
        half-prepared is left behind.
    """
    import tensorflow_datasets as tfds  # half a second that `digits` need not pay

    from experiments.datasets.builder import VERSION

    if name not in NAMES or name == "digits":
        raise DataError(f"expected a data set to prepare among {NAMES[1:]}, got {name!r}")
    data_dir = Path(data_dir or default_data_dir()).expanduser()
    manual_dir = Path(manual_dir or default_manual_dir(data_dir)).expanduser()
    root, make_builder = _builder(name, data_dir, manual_dir / name, face_size)
    if (root / VERSION / "dataset_info.json").exists():
        return tfds.builder_from_directory(root / VERSION)

    cache.sweep(root, "incomplete.*")  # what a killed run left
    try:
        builder = make_builder()
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(
                compute_stats=tfds.download.ComputeStatsMode.SKIP
            ),
        )
    except BaseException:
        for folder in (root, root.parent):
            with contextlib.suppress(OSError):  # keeps folders that hold something else
                folder.rmdir()
        raise
    return builder


def _builder(name, data_dir, archives, face_size):
    """(the folder TFDS keeps the data set's versions in, a function that makes its builder)."""
    if name in FACES:
        from experiments.datasets.faces import Faces

        size = "x".join(map(str, face_size)) if face_size else "original"
        home = data_dir / name / size
        return home / "faces", lambda: Faces(folder=archives, size=face_size, data_dir=home)

    from experiments.datasets.cifar10 import Cifar10
    from experiments.datasets.gtsrb import Gtsrb
    from experiments.datasets.mnist import FashionMnist, Mnist

    builders = {"mnist": Mnist, "fashion_mnist": FashionMnist, "cifar10": Cifar10, "gtsrb": Gtsrb}
    return data_dir / name, lambda: builders[name](archives=archives, data_dir=data_dir)


def load(
    name: str,
    *,
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
    face_size: tuple[int, int] | None = None,
) -> Dataset:
    """The whole data set in memory; prepared first if it is not (see `prepare`).

    A fixed part of the publisher's training images is held out as `validation`, in equal shares
    of the classes; of GTSRB whole tracks, whose frames are near-duplicates of each other.
    """
    if name == "digits":
        from experiments.datasets import digits

        parts = digits.read()
    else:
        builder = prepare(name, data_dir=data_dir, manual_dir=manual_dir, face_size=face_size)
        parts = {split: _read_all(builder, split) for split in ("train", "test")}

    train = parts["train"]
    share = DIGITS_VALIDATION_SHARE if name == "digits" else VALIDATION_SHARE
    held_out = _held_out(train["label"], train.get("track"), share)
    splits = {
        "train": _split(train, ~held_out),
        "validation": _split(train, held_out),
        "test": _split(parts["test"], slice(None)),
    }
    labels = [int(split.labels.max()) for split in splits.values()]
    return Dataset(
        name=name,
        **splits,
        classes=CLASSES.get(name, max(labels) + 1),
        digest=cache.digest(*(a for s in splits.values() for a in (s.images, s.labels))),
    )


def _read_all(builder: Any, split: str) -> dict[str, np.ndarray]:
    source = builder.as_data_source(split)
    examples = source.__getitems__(range(len(source)))
    return {key: np.stack([example[key] for example in examples]) for key in examples[0]}


def _held_out(labels: np.ndarray, tracks: np.ndarray | None, share: float) -> np.ndarray:
    """(N,) bool: `share` of each class, or of each class's tracks."""
    rng = np.random.default_rng(0)
    units = np.arange(len(labels)) if tracks is None else tracks
    chosen = []
    for label in np.unique(labels):
        of_label = np.unique(units[labels == label])
        count = max(1, round(share * len(of_label)))
        chosen.append(rng.choice(of_label, count, replace=False))
    return np.isin(units, np.concatenate(chosen))


def _split(part: dict[str, np.ndarray], rows: Any) -> Split:
    images = part["image"][rows].astype(np.float32) / 255
    return Split(images, part["label"][rows].astype(np.int32))
