"""Finds the people and their images in a folder of faces, and skips unrelated files."""

import re
import unicodedata
from pathlib import Path
from typing import Any

from experiments.datasets.archives import DataError, reading

# Files and folders that operating systems, editors and browsers leave behind.
LEFTOVERS = re.compile(
    r"\..*"  # hidden: .DS_Store, .git, ._1.jpg
    r"|__macosx|icon\r|thumbs\.db|ehthumbs\.db|desktop\.ini|@eadir|#recycle|\$recycle\.bin"
    r"|system volume information|lost\+found"
    r"|.*~|#.*#|.*\.(bak|swp|tmp|part|partial|crdownload)",
    re.IGNORECASE | re.DOTALL,
)
# Other files that are common beside images.
NOTES = re.compile(
    r"readme|licen[cs]e|copying"
    r"|.*\.(txt|md|html?|pdf|csv|tsv|json|ya?ml|xml|log|mat|npy|npz|pts|zip|gz|tgz|tar|sha256|md5)",
    re.IGNORECASE | re.DOTALL,
)
SUFFIXES = (
    ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
LEAST_IMAGES = 3  # one each for training, validation and test


def find_people(folder: Path) -> dict[str, list[Path]]:
    """Returns person -> images, both in natural order (s2 before s10, 01 before 1).

    It skips LEFTOVERS and NOTES, and other files beside the people's folders. All other files in a
    person's folder must be images, whatever their suffix.

    Raises:
      DataError: there are no people; a person has fewer than LEAST_IMAGES; two people differ only
        by case, Unicode form or a link; a person's folder contains a folder; an image is beside the
        people's folders; a link is broken.
    """
    people = [entry for entry in _entries(folder) if _is_person(entry)]
    if not people:
        raise DataError(
            f"{folder} holds no faces; expected one folder a person with images"
            f" ({', '.join(SUFFIXES)}) in it. Name the folder above it with --manual-dir."
        )
    _check_different(people)
    return {person.name: _images(person) for person in people}


def is_empty(folder: Path) -> bool:
    """Returns whether the folder is missing, or holds only LEFTOVERS and NOTES."""
    return not _entries(folder)


def natural(name: str) -> tuple[list[Any], str]:
    """Returns a sort key: numbers in names compare as numbers, and ties by the names themselves."""
    parts = re.split(r"(\d+)", name)  # text and digits alternate
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def _entries(folder: Path) -> list[Path]:
    with reading(folder):
        found = list(folder.iterdir()) if folder.is_dir() else []
        kept = [
            path
            for path in found
            if not LEFTOVERS.fullmatch(path.name)
            and not (NOTES.fullmatch(path.name) and path.is_file())
        ]
    return sorted(kept, key=lambda path: natural(path.name))


def _is_person(path: Path) -> bool:
    if path.is_dir():
        return True
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path} is a broken link; mend or remove it")
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"{path} lies beside the people's folders; move it into one, or away")
    return False


def _images(person: Path) -> list[Path]:
    images = _entries(person)
    for path in images:
        if path.is_dir():
            raise DataError(f"{path} is a folder; expected images alone in {person}, a person's")
        if not path.is_file():
            raise DataError(f"{path} is a broken link, or no regular file; mend or remove it")
    if len(images) < LEAST_IMAGES:
        raise DataError(
            f"{person} holds {len(images)} images; expected at least {LEAST_IMAGES} a person: one"
            " each to train, to validate and to test. Add some, or remove the folder."
        )
    return images


def _check_different(people: list[Path]) -> None:
    seen: dict[Any, Path] = {}
    for person in people:
        for same in (unicodedata.normalize("NFC", person.name.casefold()), person.resolve()):
            if same in seen:
                raise DataError(
                    f"{seen[same]} and {person} are one but for case, Unicode form or a link;"
                    " keep one of them, or merge them"
                )
            seen[same] = person
