"""Finds and opens the publishers' archives. Errors name the file at fault."""

import contextlib
import csv
import gzip
import io
import socket
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

from experiments.runtime.errors import DataError as DataError

NETWORK_TIMEOUT = 3.0  # seconds until a publisher's server counts as unreachable
GZIP = b"\x1f\x8b"
# The readers' exceptions for a layer that is damaged, malicious or of an unsupported kind.
DAMAGE = (
    *(EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, tarfile.TarError, csv.Error),
    *(RuntimeError, ValueError, OverflowError, struct.error),
)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns the exceptions of a damaged or unreadable archive, in any layer, into a DataError."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{path} is truncated or corrupt ({error}); delete it, and fetch it again"
        ) from error
    except KeyError as error:
        raise DataError(
            f"{path} is incomplete: {error.args[0]}; delete it, and fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"can't read {path} ({error.strerror or error})") from error


def unpack(path: Path, most: int) -> io.BytesIO:
    """Returns the file's contents, unpacked if it is gzip.

    Raises:
      DataError: the contents have more than `most` bytes; the rest is not read.
    """
    content = io.BytesIO()
    with reading(path), path.open("rb") as packed:
        is_gzip = packed.read(len(GZIP)) == GZIP
        packed.seek(0)
        with gzip.open(packed) if is_gzip else packed as file:
            while block := file.read(2**20):
                content.write(block)
                if content.tell() > most:
                    raise DataError(f"{path} unpacks to too much; expected at most {most:,} bytes")
    content.seek(0)
    return content


def check_label(label: int, classes: int, where: str) -> int:
    if not 0 <= label < classes:
        raise DataError(
            f"{where} has the label {label}; expected 0 to {classes - 1}; fetch it again"
        )
    return label


def find(folder: Path, names: list[str]) -> dict[str, Path] | None:
    """Returns the named files in the folder, or None if it holds none of them.

    Raises:
      DataError: the folder holds only some of them.
    """
    with reading(folder):
        there = {name: folder / name for name in names if (folder / name).is_file()}
    missing = sorted(set(names) - set(there))
    if there and missing:
        raise DataError(f"{folder} lacks {', '.join(missing)} (it has {', '.join(there)})")
    return there or None


def check_reachable(url: str) -> None:
    """Raises DataError within seconds if the url's server can't be reached.

    Downloaders retry for minutes before they give up, so this check comes first.
    """
    parts = urlparse(url)
    if {parts.scheme, "all"} & set(getproxies()):
        return  # the proxy reaches the server
    address = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    errors: list[OSError] = [TimeoutError(f"no answer within {NETWORK_TIMEOUT:g} s")]

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=NETWORK_TIMEOUT).close()
            errors.clear()
        except OSError as error:
            errors[:] = [error]

    # In a thread, because the name look-up has no timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT)
    if errors:
        raise DataError(f"can't reach {parts.hostname} ({errors[0]})") from errors[0]
