"""Faces in one folder a person (VGG-Face2's layout, and the ORL faces'): any image format."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, UnidentifiedImageError

from experiments.datasets.archives import DataError
from experiments.datasets.builder import VERSION, Example, image_feature, integer_feature

SUFFIXES = {".pgm", ".ppm", ".png", ".jpg", ".jpeg", ".bmp"}
TEST_SHARE = 5  # every fifth image of a person is a test image


class Faces(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """One folder a person; labels number the folders in the order of their names.

    Images are gray or coloured as the first one is, and keep their own size, which must be the
    same for all, unless `size` (height, width) scales them.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, folder: Path, size: tuple[int, int] | None = None, **kwargs):
        self._folder, self._size = folder, size
        self._mode: str | None = None  # "L" or "RGB", as the first image has it
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        people = find_people(self._folder)
        first = self._image(next(iter(people.values()))[0])
        features = {"image": image_feature(*first.shape), "label": integer_feature()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=(type(self).__doc__ or "").strip(),
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[Example]]:
        return {"train": self._read(test=False), "test": self._read(test=True)}

    def _generate_examples(self) -> Iterator[Example]:
        raise NotImplementedError

    def _read(self, *, test: bool) -> Iterator[Example]:
        shape, index = self.info.features["image"].shape, 0
        for label, files in enumerate(find_people(self._folder).values()):
            for number, path in enumerate(files):
                if (number % TEST_SHARE == TEST_SHARE - 1) != test:
                    continue
                image = self._image(path)
                if image.shape != shape:
                    raise DataError(
                        f"{path} is {image.shape}, the first image {shape};"
                        " give --face-size=HEIGHT WIDTH to scale them all"
                    )
                yield index, {"image": image, "label": label}
                index += 1

    def _image(self, path: Path) -> np.ndarray:
        try:
            opened = Image.open(path)
            self._mode = self._mode or ("L" if opened.mode == "L" else "RGB")
            image = opened.convert(self._mode)
        except (UnidentifiedImageError, OSError, EOFError) as error:
            raise DataError(f"{path} is not a readable image ({error})") from error
        if self._size is not None:
            image = image.resize(self._size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels


def find_people(folder: Path) -> dict[str, list[Path]]:
    """Person -> the person's images, both sorted naturally (s2 before s10)."""

    def natural(path: Path):
        parts = re.split(r"(\d+)", path.name)  # text and digits, in turns
        return [int(part) if part.isdigit() else part for part in parts]

    people = {}
    if folder.is_dir():
        for person in sorted((p for p in folder.iterdir() if p.is_dir()), key=natural):
            files = sorted(
                (f for f in person.iterdir() if f.suffix.lower() in SUFFIXES), key=natural
            )
            if files:
                people[person.name] = files
    if not people:
        raise DataError(
            f"{folder} holds no faces; expected one folder a person with images"
            f" ({', '.join(sorted(SUFFIXES))}) in it. Name the folder above it with --manual-dir."
        )
    return people
