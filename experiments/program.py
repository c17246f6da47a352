"""How a program is told what to do, and how it ends when it can't go on."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from experiments.datasets import DataError

Config = TypeVar("Config")


def parse(
    kind: type[Config],
    preset: Callable[..., Config],
    choices: Mapping[str, tuple[str, Sequence[Any]]],
    arguments: list[str] | None,
    *,
    prog: str,
    description: str | None,
) -> Config:
    """The command line's configuration: the preset's, with what is given changed.

    Args:
      preset: makes the default configuration from the choices, in their order.
      choices: an option that decides on the preset -> (what it is by default, what it may be).
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, (default, _) in choices.items():
        early.add_argument(f"--{name}", default=default)
    chosen = vars(early.parse_known_args(arguments)[0])
    known = all(chosen[name] in values for name, (_, values) in choices.items())
    # Of what is not known tyro explains that it is not.
    start = preset(*(chosen[name] for name in choices)) if known else kind()
    return tyro.cli(kind, args=arguments, default=start, prog=prog, description=description)


@contextlib.contextmanager
def errors_in_words() -> Iterator[None]:
    """Ends the process with one line, not with a traceback, where the user has to act."""
    try:
        yield
    except DataError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on from what is in the cache")
