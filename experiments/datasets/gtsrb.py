"""GTSRB, the German traffic sign recognition benchmark: zips of PPM images beside CSV files."""

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.datasets.archives import DataError, reading
from experiments.datasets.builder import ArchiveBuilder, Example, image_feature, integer_feature

TRAIN, TEST, TRUTH = (
    f"GTSRB_Final_{part}.zip" for part in ("Training_Images", "Test_Images", "Test_GT")
)
TEST_CSV = "GT-final_test.csv"
CLASSES = 43
SIZE = 32  # CMAG, section 4.1: scaled whole to 32x32, not cut to the region of interest


class Gtsrb(ArchiveBuilder, skip_registration=True):
    """German traffic signs (Stallkamp et al., 2011), scaled to 32x32x3: 39,209 + 12,630.

    `track` numbers the physical sign that the frames of a track all show (-1 in the test set,
    whose frames are single): near-duplicates, which a validation split has to keep together.
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
        """Opens every zip, which reads its list of members, and looks for the CSV files."""
        members = {}
        for file, path in files.items():
            with reading(path), zipfile.ZipFile(path) as archive:
                members[file] = set(archive.namelist())
        needed = {TRAIN: [_train_csv(label) for label in range(CLASSES)], TRUTH: [TEST_CSV]}
        for file, names in needed.items():
            missing = [name for name in names if name not in members[file]]
            if missing:
                raise DataError(f"{files[file]} lacks {missing[0]} ({len(missing)} such files)")

    def _read(self, files: dict[str, Path], split: str) -> Iterator[Example]:
        return _read_train(files[TRAIN]) if split == "train" else _read_test(files)


def _train_folder(label: int) -> str:
    return f"GTSRB/Final_Training/Images/{label:05d}"


def _train_csv(label: int) -> str:
    return f"{_train_folder(label)}/GT-{label:05d}.csv"


def _read_train(path: Path) -> Iterator[Example]:
    index = 0
    tracks: dict[tuple[int, str], int] = {}  # (class, its track's name) -> a number of its own
    with reading(path), zipfile.ZipFile(path) as archive:
        for label in range(CLASSES):
            for row in _rows(archive, _train_csv(label), path):
                # 00007_00012.ppm: frame 12 of the class's track 7
                track = tracks.setdefault((label, row["Filename"].split("_")[0]), len(tracks))
                image = _image(archive, f"{_train_folder(label)}/{row['Filename']}")
                yield index, {"image": image, "label": int(row["ClassId"]), "track": track}
                index += 1


def _read_test(files: dict[str, Path]) -> Iterator[Example]:
    with reading(files[TRUTH]), zipfile.ZipFile(files[TRUTH]) as archive:
        rows = list(_rows(archive, TEST_CSV, files[TRUTH]))
    with reading(files[TEST]), zipfile.ZipFile(files[TEST]) as archive:
        for index, row in enumerate(rows):
            image = _image(archive, f"GTSRB/Final_Test/Images/{row['Filename']}")
            yield index, {"image": image, "label": int(row["ClassId"]), "track": -1}


def _rows(archive: zipfile.ZipFile, member: str, path: Path) -> Iterator[dict[str, str]]:
    text = archive.read(member).decode()
    reader = csv.DictReader(io.StringIO(text), delimiter=";")
    if not {"Filename", "ClassId"} <= set(reader.fieldnames or ()):
        raise DataError(f"{path}: {member} has no columns Filename and ClassId")
    return reader


def _image(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    image = Image.open(io.BytesIO(archive.read(member))).convert("RGB")
    return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
