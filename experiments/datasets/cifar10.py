"""CIFAR-10: the binary version, one tar of records of a label and 3x32x32 bytes."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.datasets.archives import DataError, reading
from experiments.datasets.builder import ArchiveBuilder, Example, image_feature, integer_feature

ARCHIVE = "cifar-10-binary.tar.gz"
RECORD = 1 + 3 * 32 * 32
MEMBERS = {
    "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["cifar-10-batches-bin/test_batch.bin"],
}


class Cifar10(ArchiveBuilder, skip_registration=True):
    """Small photographs (Krizhevsky, 2009): 50,000 + 10,000 images of 32x32x3."""

    URLS = {ARCHIVE: f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"}  # noqa: RUF012
    FEATURES = {"image": image_feature(32, 32, 3), "label": integer_feature()}  # noqa: RUF012

    def _check(self, files: dict[str, Path]) -> None:
        """Unpacks the tar once without reading it: two seconds."""
        path = files[ARCHIVE]
        with reading(path), tarfile.open(path) as tar:
            missing = {name for names in MEMBERS.values() for name in names} - set(tar.getnames())
        if missing:
            raise DataError(f"{path} lacks {', '.join(sorted(missing))}")

    def _read(self, files: dict[str, Path], split: str) -> Iterator[Example]:
        path, index = files[ARCHIVE], 0
        with reading(path), tarfile.open(path) as tar:
            for member in MEMBERS[split]:
                raw = tar.extractfile(member).read()  # type: ignore[union-attr]
                if len(raw) % RECORD:
                    raise DataError(f"{path}: {member} is no whole number of {RECORD}-byte records")
                for record in np.frombuffer(raw, np.uint8).reshape(-1, RECORD):
                    image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                    yield index, {"image": image, "label": int(record[0])}
                    index += 1
