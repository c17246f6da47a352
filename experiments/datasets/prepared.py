"""Prepares a data set's TFDS copy if it is missing or out of date, and reads it."""

import contextlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.datasets import sources
from experiments.datasets.archives import DataError, find
from experiments.datasets.images import MAX_PIXELS
from experiments.runtime import cache

FACES = ("orl_faces", "vggface2")
NAMES = ("digits", "mnist", "fashion_mnist", "cifar10", "gtsrb", *FACES)


class Source(NamedTuple):
    home: Path  # folder of the data set's prepared versions
    files: Callable[[], Mapping[str, Path] | None]  # what it is made from; None if that is gone
    builder: Callable[[Path], Any]  # folder -> TFDS builder that prepares the data set in it


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
    """Prepares the data set in `data_dir`, if needed, and returns its TFDS builder.

    It is prepared again if its archives, or its folder of faces, still exist with other contents. A
    prepared data set no longer needs them.

    Args:
      name: one of NAMES, except "digits", which needs no preparation.
      data_dir: folder of prepared TFDS data sets; TFDS_DATA_DIR by default.
      manual_dir: folder of the publishers' archives, with one sub-folder per data set; MANUAL_DIR,
        or data_dir/downloads/manual, by default. Missing archives are downloaded.
      face_size: (height, width) to scale faces to.

    Raises:
      DataError: an archive is damaged, or is missing and can't be downloaded; a folder can't be
        written to; the disk is full. No half-prepared copy is left behind.
    """
    from experiments.datasets.builder import VERSION  # takes half a second; `digits` avoids it

    if name not in NAMES or name == "digits":
        raise DataError(f"expected a data set to prepare among {NAMES[1:]}, got {name!r}")
    if face_size is not None:
        _check_size(face_size)
    data_dir = Path(data_dir or default_data_dir()).expanduser()
    manual_dir = Path(manual_dir or default_manual_dir(data_dir)).expanduser()
    source = _source(name, data_dir, manual_dir / name, face_size)
    folder = source.home / VERSION
    try:
        if not _is_current(folder, source):
            print(f"preparing {name} in {folder}")
            for pattern in ("incomplete.*", f"{cache.PARTIAL}*"):  # left by a killed run
                cache.sweep(source.home, pattern)
            cache.write_atomically(
                folder, lambda path: _make(source, path, downloads=data_dir / "downloads")
            )
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError
        raise DataError(
            f"can't prepare {name} in {folder}: {' '.join(str(error).split())}. Make room or give"
            " the right to write there, or name another folder with --data-dir."
        ) from error
    finally:
        for empty in (source.home, source.home.parent):
            with contextlib.suppress(OSError):  # keeps folders that are not empty
                empty.rmdir()
    return _open(folder)


def _check_size(face_size: tuple[int, int]) -> None:
    height, width = face_size
    if min(face_size) < 1 or height * width > MAX_PIXELS:
        raise DataError(
            "expected --face-size of a HEIGHT and a WIDTH from 1, of at most"
            f" {MAX_PIXELS:,} pixels, got {height} {width}"
        )


def _source(name: str, data_dir: Path, archives: Path, face_size: tuple[int, int] | None) -> Source:
    if name in FACES:
        from experiments.datasets.faces import Faces, find_images

        size = "x".join(map(str, face_size)) if face_size else "original"
        return Source(
            home=data_dir / name / size / "faces",
            files=lambda: find_images(archives),
            builder=lambda folder: Faces(folder=archives, size=face_size, data_dir=folder),
        )

    from experiments.datasets.cifar10 import Cifar10
    from experiments.datasets.gtsrb import Gtsrb
    from experiments.datasets.mnist import FashionMnist, Mnist

    builders = {"mnist": Mnist, "fashion_mnist": FashionMnist, "cifar10": Cifar10, "gtsrb": Gtsrb}
    kind, home = builders[name], data_dir / name

    def files() -> Mapping[str, Path] | None:
        with contextlib.suppress(DataError):  # some are gone: only the prepared copy is left
            return find(archives, list(kind.URLS))
        return None

    return Source(home, files, lambda folder: kind(archives=archives, home=home, data_dir=folder))


def _is_current(folder: Path, source: Source) -> bool:
    """Returns whether the folder holds the data set, prepared from its present source, or from one
    that is gone."""
    if not (folder / "dataset_info.json").exists():
        return False
    files = source.files()
    return files is None or sources.unchanged(folder, files)


def _make(source: Source, folder: Path, *, downloads: Path) -> None:
    """Prepares the data set as `folder`, which does not exist yet."""
    import tensorflow_datasets as tfds

    builder = source.builder(folder.with_name("tfds"))
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints a temporary path
        builder.download_and_prepare(
            file_format="array_record",
            download_dir=downloads,
            download_config=tfds.download.DownloadConfig(
                compute_stats=tfds.download.ComputeStatsMode.SKIP
            ),
        )
    os.rename(builder.data_path, folder)


def _open(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    with _reading(folder):
        return tfds.builder_from_directory(folder)


def read(builder: Any, split: str) -> dict[str, np.ndarray]:
    """Returns the split's arrays: "image" (N, H, W, C) uint8, "label" (N,), GTSRB's "track" (N,).

    Raises:
      DataError: the copy is damaged or empty.
    """
    folder = Path(builder.data_path)
    with _reading(folder):
        if not builder.info.splits[split].num_examples:
            raise ValueError(f"its {split} split is empty")
        source = builder.as_data_source(split)
        examples = source.__getitems__(range(len(source)))
        part = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
        images, labels = part["image"], part["label"]
        if images.dtype != np.uint8 or images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"expected images (N, H, W, C) of uint8 with a label each, got {images.dtype}"
                f" {images.shape} with labels {labels.shape}"
            )
    return part


@contextlib.contextmanager
def _reading(folder: Path):
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # damage can make TFDS and array_record raise anything
        what = " ".join(str(error).split())
        raise DataError(
            f"{folder} is damaged ({what}); delete it, and the data set is prepared again"
        ) from error
