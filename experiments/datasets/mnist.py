"""MNIST and Fashion-MNIST: gzipped IDX files (LeCun's format)."""

import gzip
import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.datasets.archives import DataError, check_label, reading
from experiments.datasets.builder import ArchiveBuilder, Example, image_feature, integer_feature

CLASSES = 10
MOST_BYTES = 60_000 * 28 * 28  # data in the largest file
PREFIX = {"train": "train", "test": "t10k"}
FILES = tuple(
    f"{prefix}-{kind}-ubyte.gz"
    for prefix in PREFIX.values()
    for kind in ("images-idx3", "labels-idx1")
)


class Mnist(ArchiveBuilder, skip_registration=True):
    """Handwritten digits (LeCun, Cortes and Burges): 60,000 + 10,000 images of 28x28x1."""

    URLS = {f: f"https://storage.googleapis.com/cvdf-datasets/mnist/{f}" for f in FILES}  # noqa: RUF012
    FEATURES = {"image": image_feature(28, 28, 1), "label": integer_feature()}  # noqa: RUF012

    def _check(self, files: dict[str, Path]) -> None:
        for split in PREFIX:  # the files are small, so the check reads them whole
            _read_split(files, split)

    def _read(self, files: dict[str, Path], split: str) -> Iterator[Example]:
        images, labels = _read_split(files, split)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image[..., None], "label": int(label)}


class FashionMnist(Mnist, skip_registration=True):
    """Clothes (Xiao, Rasul and Vollgraf, 2017), in MNIST's shape and format."""

    URLS = {  # noqa: RUF012
        f: f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{f}" for f in FILES
    }


def _read_split(files: dict[str, Path], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (images (N, 28, 28), labels (N,)), uint8."""
    images_path = files[f"{PREFIX[split]}-images-idx3-ubyte.gz"]
    labels_path = files[f"{PREFIX[split]}-labels-idx1-ubyte.gz"]
    images = read_idx(images_path, dimensions=3)
    labels = read_idx(labels_path, dimensions=1)
    if len(images) != len(labels) or images.shape[1:] != (28, 28):
        raise DataError(
            f"{images_path} holds images {images.shape} for {len(labels)} labels;"
            " expected one label an image of 28x28"
        )
    check_label(int(labels.max()), CLASSES, str(labels_path))
    return images, labels


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """Reads a gzipped IDX file of unsigned bytes: magic (0, 0, 8, dimensions), sizes, data.

    It unpacks no more than one byte beyond the declared sizes, which are at most MOST_BYTES.
    """
    with reading(path), gzip.open(path) as file:
        header = file.read(4 + 4 * dimensions)
        if len(header) < 4 + 4 * dimensions or header[:4] != bytes([0, 0, 8, dimensions]):
            raise DataError(
                f"{path} is not an IDX file of unsigned bytes in {dimensions} dimensions"
            )
        shape = struct.unpack(f">{dimensions}i", header[4:])
        promised = math.prod(shape)
        if min(shape) < 1 or promised > MOST_BYTES:
            raise DataError(
                f"{path} is corrupt: its header says {shape};"
                f" expected sizes from 1, of {MOST_BYTES:,} bytes at most"
            )
        data = file.read(promised + 1)
    if len(data) != promised:
        found = f"{len(data):,}" if len(data) < promised else f"more than {promised:,}"
        raise DataError(f"{path} is truncated or corrupt: {found} bytes for {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)
