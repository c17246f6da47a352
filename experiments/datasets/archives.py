"""Finding and opening the publishers' archives, with errors that name the file at fault."""

import contextlib
import gzip
import socket
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

NETWORK_TIMEOUT = 3.0  # seconds to wait for a publisher's server before saying it is out of reach


class DataError(Exception):
    """A data set that is missing or damaged: the message names what, where, and the remedy."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what a damaged archive raises, in any of its layers, into a DataError."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{path} is truncated or corrupt ({error}); fetch it again") from error
    except KeyError as error:
        raise DataError(f"{path} is incomplete: {error.args[0]}; fetch it again") from error


def find(folder: Path, names: list[str]) -> dict[str, Path] | None:
    """The named files in the folder, or None when it holds none of them.

    Raises:
      DataError: some of them are there, but not all.
    """
    there = {name: folder / name for name in names if (folder / name).is_file()}
    missing = sorted(set(names) - set(there))
    if there and missing:
        raise DataError(f"{folder} lacks {', '.join(missing)} (it has {', '.join(there)})")
    return there or None


def check_reachable(url: str) -> None:
    """Raises DataError within seconds when the url's server is out of reach.

    Downloaders retry for minutes before they give up, so it is asked first.
    """
    parts = urlparse(url)
    if {parts.scheme, "all"} & set(getproxies()):
        return  # the proxy's business
    address = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    errors: list[OSError] = [TimeoutError(f"no answer within {NETWORK_TIMEOUT:g} s")]

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=NETWORK_TIMEOUT).close()
            errors.clear()
        except OSError as error:
            errors[:] = [error]

    # In a thread, since looking up the name has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(NETWORK_TIMEOUT)
    if errors:
        raise DataError(f"can't reach {parts.hostname} ({errors[0]})") from errors[0]
