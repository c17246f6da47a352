"""Records what files a data set was prepared from, so that a later change is detected."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from experiments.datasets.archives import reading
from experiments.runtime import cache

FILE = "sources.json"


def note(folder: Path, files: Mapping[str, Path]) -> None:
    """Records in the folder which files (name -> path) its data set is made from."""
    text = json.dumps({"listing": _listing(files), "contents": _contents(files)})
    (folder / FILE).write_text(text)


def unchanged(folder: Path, files: Mapping[str, Path]) -> bool:
    """Returns whether the files are those recorded in the folder.

    Equal names, sizes and times decide at once. Otherwise the contents decide, since a copy of a
    file has another time.
    """
    try:
        noted = json.loads((folder / FILE).read_text())
        listing, contents = noted["listing"], noted["contents"]
    except (OSError, ValueError, KeyError, TypeError):  # an old or damaged copy without a record
        return False
    return listing == _listing(files) or contents == _contents(files)


def _listing(files: Mapping[str, Path]) -> str:
    stats = []
    for name, path in sorted(files.items()):
        with reading(path):
            stat = path.stat()
        stats.append((name, stat.st_size, stat.st_mtime_ns))
    return cache.key(files=stats)


def _contents(files: Mapping[str, Path]) -> str:
    digests = []
    for name, path in sorted(files.items()):
        with reading(path), path.open("rb") as file:
            digests.append((name, hashlib.file_digest(file, "sha256").hexdigest()))
    return cache.key(files=digests)
