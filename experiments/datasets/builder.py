"""The base class of our TFDS builders. It needs only numpy, while TFDS's own builders of these data
sets import TensorFlow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.util import DownloadError

from experiments.datasets import sources
from experiments.datasets.archives import DataError, check_reachable, find

Example = tuple[int, dict[str, Any]]
# The version of our prepared data sets. Raise it when their contents change.
VERSION = "1.0.0"


class ArchiveBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set made from its publisher's archives.

    Sub-classes define the archives (`URLS`), the contents of an example (`FEATURES`), how to detect
    damage (`_check`) and how to read the archives (`_read`).
    """

    VERSION = tfds.core.Version(VERSION)
    URLS: ClassVar[dict[str, str]]  # file name -> where the publisher has it
    FEATURES: ClassVar[dict[str, Any]]

    def __init__(self, *, archives: Path, home: Path, **kwargs):
        """
        Args:
          archives: a folder with the publisher's files. If it has none, they are downloaded.
          home: the folder of the prepared data set, for error messages.
        """
        self._archives, self._home = archives, home
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # Tensor, not Image: an Image feature imports TensorFlow when it gets an array.
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").strip(),
            features=tfds.features.FeaturesDict(self.FEATURES),
            disable_shuffling=True,  # examples keep their publisher's order
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[Example]]:
        files = find(self._archives, list(self.URLS))
        if files is None:
            files = self._download(dl_manager)
        self._check(files)
        sources.note(self.data_path, files)
        return {split: self._read(files, split) for split in ("train", "test")}

    def _download(self, dl_manager) -> dict[str, Path]:
        try:
            check_reachable(next(iter(self.URLS.values())))  # all are on one server
            paths = dl_manager.download(self.URLS)
        except (DataError, DownloadError, requests.RequestException) as error:
            raise DataError(
                f"{self.name} is not prepared in {self._home}, its archives"
                f" ({', '.join(self.URLS)}) are not in {self._archives}, and can't be downloaded:"
                f" {error}. Put the archives there, or name the folder above it with --manual-dir."
            ) from error
        return {name: Path(path) for name, path in paths.items()}

    def _generate_examples(self) -> Iterator[Example]:  # required by TFDS, never called
        raise NotImplementedError

    def _check(self, files: dict[str, Path]) -> None:
        """Raises DataError for damage that is quick to detect, before anything is prepared."""
        raise NotImplementedError

    def _read(self, files: dict[str, Path], split: str) -> Iterator[Example]:
        """Yields (index, example) of one split, "train" or "test"."""
        raise NotImplementedError


def image_feature(height: int, width: int, channels: int) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(height, width, channels), dtype=np.uint8)


def integer_feature() -> tfds.features.Scalar:
    return tfds.features.Scalar(dtype=np.int64)
