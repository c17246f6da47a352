"""Folders of images as people's disks have them: who is a person, which file is an image."""

import re
import unicodedata
from pathlib import Path
from typing import Any

from experiments.datasets.archives import DataError, reading

# What systems, editors and browsers leave behind, files and folders.
LEFTOVERS = re.compile(
    r"\..*"  # hidden: .DS_Store, .git, ._1.jpg
    r"|__macosx|icon\r|thumbs\.db|ehthumbs\.db|desktop\.ini|@eadir|#recycle|\$recycle\.bin"
    r"|system volume information|lost\+found"
    r"|.*~|#.*#|.*\.(bak|swp|tmp|part|partial|crdownload)",
    re.IGNORECASE | re.DOTALL,
)
# Files that people keep beside images.
NOTES = re.compile(
    r"readme|licen[cs]e|copying"
    r"|.*\.(txt|md|html?|pdf|csv|tsv|json|ya?ml|xml|log|mat|npy|npz|pts|zip|gz|tgz|tar|sha256|md5)",
    re.IGNORECASE | re.DOTALL,
)
SUFFIXES = (
    ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
)  # fmt: skip
LEAST_IMAGES = 3  # one each to train on, to validate and to test


def find_people(folder: Path) -> dict[str, list[Path]]:
    """Person -> the person's images, both sorted naturally (s2 before s10, 01 before 1).

    LEFTOVERS and NOTES are passed over, and other files beside the people's folders. Everything
    else in a person's folder has to be an image, whatever its suffix.

    Raises:
      DataError: no people; a person with fewer than LEAST_IMAGES; two who are one but for case,
        Unicode form or a link; a folder in a person's; an image beside the people; a broken link.
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
    """Whether the folder isn't there, or holds nothing but LEFTOVERS and NOTES."""
    return not _entries(folder)


def natural(name: str) -> tuple[list[Any], str]:
    """A key to sort names by: numbers as numbers, then what is alike by the names themselves."""
    parts = re.split(r"(\d+)", name)  # text and digits, in turns
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
