"""How a program ends when it can't go on."""

import contextlib
import sys
from collections.abc import Iterator

from experiments.datasets import DataError


@contextlib.contextmanager
def errors_in_words() -> Iterator[None]:
    """Ends the process with one line, not with a traceback, where the user has to act."""
    try:
        yield
    except DataError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from what is in the cache")
