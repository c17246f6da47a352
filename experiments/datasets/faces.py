"""Face data sets with one folder per person (VGG-Face2's and the ORL faces' layout): any image
format."""

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from experiments.datasets import images, sources
from experiments.datasets.archives import DataError
from experiments.datasets.builder import VERSION, Example, image_feature, integer_feature
from experiments.datasets.folders import find_people, is_empty

TEST_SHARE = 5  # every fifth image of a person is a test image


class Faces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Faces, with one folder per person. Labels number the folders in the order of their names.

    Every fifth image of a person is a test image. With fewer than five images (at least three), the
    last one is. `folders.py` says which files are skipped, and `images.py` how an image is read.
    Images are gray if all files are gray, else in colour. They keep their size, which must be the
    same for all, unless `size` (height, width) scales them.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, folder: Path, size: tuple[int, int] | None = None, **kwargs):
        self._size = size
        self._people = find_people(folder)
        self._first = next(iter(self._people.values()))[0]
        # Check all files first, so that an unreadable one is reported at once.
        kinds = [images.is_colour(path) for files in self._people.values() for path in files]
        self._colour = any(kinds)
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        shape = self._image(self._first).shape
        features = {"image": image_feature(*shape), "label": integer_feature()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").strip(),
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[Example]]:
        sources.note(self.data_path, named(self._people))
        return {"train": self._read(test=False), "test": self._read(test=True)}

    def _generate_examples(self) -> Iterator[Example]:
        raise NotImplementedError

    def _read(self, *, test: bool) -> Iterator[Example]:
        shape, index = self.info.features["image"].shape, 0
        for label, files in enumerate(self._people.values()):
            for number, path in enumerate(files):
                if _is_test(number, len(files)) != test:
                    continue
                image = self._image(path)
                if image.shape != shape:
                    raise DataError(
                        f"{path} is {image.shape}, the first image ({self._first}) {shape};"
                        " give --face-size=HEIGHT WIDTH to scale them all"
                    )
                yield index, {"image": image, "label": label}
                index += 1

    def _image(self, path: Path):
        return images.read(path, str(path), colour=self._colour, size=self._size)


def find_images(folder: Path) -> dict[str, Path] | None:
    """Returns PERSON/FILE -> its path, or None if the folder is empty or missing."""
    return None if is_empty(folder) else named(find_people(folder))


def named(people: dict[str, list[Path]]) -> dict[str, Path]:
    return {f"{person}/{path.name}": path for person, files in people.items() for path in files}


def _is_test(number: int, count: int) -> bool:
    """Returns whether image `number` of a person with `count` images is a test image."""
    return number == count - 1 if count < TEST_SHARE else number % TEST_SHARE == TEST_SHARE - 1
