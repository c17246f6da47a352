"""GTSRB, the German traffic sign recognition benchmark: zip files of PPM images and CSV files."""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.datasets import images
from experiments.datasets.archives import DataError, check_label, reading
from experiments.datasets.builder import ArchiveBuilder, Example, image_feature, integer_feature

TRAIN, TEST, TRUTH = (
    f"GTSRB_Final_{part}.zip" for part in ("Training_Images", "Test_Images", "Test_GT")
)
TEST_CSV = "GT-final_test.csv"
CLASSES = 43
MOST_BYTES = 2**24  # limit for a member of a zip; images and tables have far fewer
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # other methods have unbounded output
SIZE = 32  # CMAG, section 4.1: the whole image is scaled to 32x32, not the region of interest


class Gtsrb(ArchiveBuilder, skip_registration=True):
    """German traffic signs (Stallkamp et al., 2011), scaled to 32x32x3: 39,209 + 12,630.

    `track` is the number of the physical sign that all frames of a track show. The frames are
    near-duplicates, so a validation split must keep them together. `track` is -1 in the test set,
    whose frames are single.
    """

    URLS = {  # noqa: RUF012
        f: f"https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/{f}"
        for f in (TRAIN, TEST, TRUTH)
    }
    FEATURES = {  # noqa: RUF012
        "image": image_feature(SIZE, SIZE, 3),
        "label": integer_feature(),
        "track": integer_feature(),
    }

    def _check(self, files: dict[str, Path]) -> None:
        """Opens every zip, which reads its list of members, checks that the CSV files exist, and
        reads the one of the test images, which `_read` reads late."""
        members = {}
        for file, path in files.items():
            with reading(path), zipfile.ZipFile(path) as archive:
                members[file] = set(archive.namelist())
        needed = {TRAIN: [_train_csv(label) for label in range(CLASSES)], TRUTH: [TEST_CSV]}
        for file, names in needed.items():
            missing = [name for name in names if name not in members[file]]
            if missing:
                raise DataError(f"{files[file]} lacks {missing[0]} ({len(missing)} such files)")
        _test_rows(files[TRUTH])

    def _read(self, files: dict[str, Path], split: str) -> Iterator[Example]:
        return _read_train(files[TRAIN]) if split == "train" else _read_test(files)


def _train_folder(label: int) -> str:
    return f"GTSRB/Final_Training/Images/{label:05d}"


def _train_csv(label: int) -> str:
    return f"{_train_folder(label)}/GT-{label:05d}.csv"


def _read_train(path: Path) -> Iterator[Example]:
    index = 0
    tracks: dict[tuple[int, str], int] = {}  # (class, track name) -> unique number
    with reading(path), zipfile.ZipFile(path) as archive:
        for label in range(CLASSES):
            member = _train_csv(label)
            for name, class_id in _rows(archive, member, path):
                if class_id != label:
                    raise DataError(
                        f"{path}: {member} has the ClassId {class_id} for {name}; expected {label}"
                    )
                if not re.fullmatch(r"\d+_\d+\.ppm", name):
                    raise DataError(f"{path}: {member} names {name!r}; expected TRACK_FRAME.ppm")
                # 00007_00012.ppm: frame 12 of the class's track 7
                track = tracks.setdefault((label, name.split("_")[0]), len(tracks))
                image = _image(archive, f"{_train_folder(label)}/{name}", path)
                yield index, {"image": image, "label": label, "track": track}
                index += 1


def _read_test(files: dict[str, Path]) -> Iterator[Example]:
    rows = _test_rows(files[TRUTH])
    with reading(files[TEST]), zipfile.ZipFile(files[TEST]) as archive:
        for index, (name, class_id) in enumerate(rows):
            image = _image(archive, f"GTSRB/Final_Test/Images/{name}", files[TEST])
            yield index, {"image": image, "label": class_id, "track": -1}


def _test_rows(path: Path) -> list[tuple[str, int]]:
    with reading(path), zipfile.ZipFile(path) as archive:
        return _rows(archive, TEST_CSV, path)


def _rows(archive: zipfile.ZipFile, member: str, path: Path) -> list[tuple[str, int]]:
    """Returns (file name, class) for each line of the CSV file."""
    where = f"{path}: {member}"
    text = _member(archive, member, path).decode("utf-8", errors="replace")
    reader = csv.DictReader(io.StringIO(text), delimiter=";")
    if not {"Filename", "ClassId"} <= set(reader.fieldnames or ()):
        raise DataError(f"{where} has no columns Filename and ClassId")
    rows = []
    for row in reader:
        name, class_id = row["Filename"], row["ClassId"]
        if not name or not (class_id or "").strip().isdecimal():
            raise DataError(
                f"{where}, line {reader.line_num}: expected a Filename and a ClassId from 0 to"
                f" {CLASSES - 1}, got {name!r} and {class_id!r}"
            )
        rows.append((name, check_label(int(class_id), CLASSES, f"{where}: {name}")))
    if not rows:
        raise DataError(f"{where} names no images")
    return rows


def _image(archive: zipfile.ZipFile, member: str, path: Path) -> np.ndarray:
    content = io.BytesIO(_member(archive, member, path))
    return images.read(content, f"{path}: {member}", colour=True, size=(SIZE, SIZE))


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    """Returns the member's bytes. It unpacks at most the declared size, and that at most
    MOST_BYTES."""
    info = archive.getinfo(name)
    if info.is_dir() or info.file_size > MOST_BYTES or info.compress_type not in COMPRESSIONS:
        raise DataError(
            f"{path}: {name} has {info.file_size:,} bytes (packed by method {info.compress_type});"
            f" expected a file of at most {MOST_BYTES:,}, stored or deflated"
        )
    with archive.open(info) as file:
        return file.read(info.file_size)
