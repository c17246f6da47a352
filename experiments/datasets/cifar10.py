"""CIFAR-10, in its binary version: a tar of records, each with a label and 3x32x32 bytes."""

import contextlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.datasets.archives import DataError, check_label, reading, unpack
from experiments.datasets.builder import ArchiveBuilder, Example, image_feature, integer_feature

ARCHIVE = "cifar-10-binary.tar.gz"
CLASSES = 10
RECORD = 1 + 3 * 32 * 32
MOST_BYTES = 200_000_000  # limit for the unpacked tar, which has about 184,392,704
MEMBERS = {
    "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["cifar-10-batches-bin/test_batch.bin"],
}


class Cifar10(ArchiveBuilder, skip_registration=True):
    """Small photographs (Krizhevsky, 2009): 50,000 + 10,000 images of 32x32x3."""

    URLS = {ARCHIVE: f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"}  # noqa: RUF012
    FEATURES = {"image": image_feature(32, 32, 3), "label": integer_feature()}  # noqa: RUF012

    def _check(self, files: dict[str, Path]) -> None:
        """Unpacks the tar once and checks its members, in two seconds."""
        with _opened(files[ARCHIVE]):
            pass

    def _read(self, files: dict[str, Path], split: str) -> Iterator[Example]:
        path, index = files[ARCHIVE], 0
        with _opened(path) as tar:
            for member in MEMBERS[split]:
                raw = tar.extractfile(member).read()  # type: ignore[union-attr]
                for record in np.frombuffer(raw, np.uint8).reshape(-1, RECORD):
                    label = check_label(int(record[0]), CLASSES, f"{path}: {member}")
                    image = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                    yield index, {"image": image, "label": label}
                    index += 1


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Unpacks the tar into memory, and checks that all its members are there and whole."""
    content = unpack(path, MOST_BYTES)
    with reading(path), tarfile.open(fileobj=content, mode="r:") as tar:
        members = {member.name: member for member in tar.getmembers()}
        names = [name for names in MEMBERS.values() for name in names]
        missing = sorted(set(names) - set(members))
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}")
        for name in names:
            size = members[name].size
            if not members[name].isreg() or not 0 < size <= MOST_BYTES or size % RECORD:
                raise DataError(
                    f"{path}: {name} is no whole number of {RECORD}-byte records ({size} bytes)"
                )
        yield tar
