"""Updates the tables of documents: `python -m experiments.refresh README.md docs/cmag.md`.

A table stands below the command that printed it, `python -m experiments.report ...` in its own
code block. The program runs each command again and replaces the table with the new output.
"""

import contextlib
import io
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import tyro

from experiments.datasets import DataError
from experiments.report import __main__ as report
from experiments.runtime import cache, cli, progress

# The command's block, then its tables, if any. A table may have its name above it.
TABLES = re.compile(
    r"(```sh\n(python -m experiments\.report .*?)```\n\n?)"
    r"((?:(?:\*\*[^*\n]+\*\*\n\n)?(?:\|[^\n]*(?:\n|\Z))+\n*)*)",
    re.DOTALL,
)


def main(documents: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Refreshes documents.

    Args:
      documents: Markdown files, at least one.
    """
    if not documents:
        sys.exit("error: name at least one document")
    for document in documents:
        try:
            text = document.read_text()
        except UnicodeDecodeError:
            sys.exit(f"error: expected {document} to be a text in UTF-8")
        with progress.bar(len(TABLES.findall(text)), document.name, "tables") as bar:
            fresh = TABLES.sub(partial(_anew, bar), text)
        if fresh != text:
            cache.write_atomically(document, partial(Path.write_text, data=fresh))


def _anew(bar, found: re.Match) -> str:
    bar.update()
    block, after = found[1].rstrip("\n"), found.string[found.end() :]
    return f"{block}\n\n{printed(found[2])}\n" + ("\n" if after.strip() else "")


def printed(command: str) -> str:
    """Returns what a shell command prints. Its lines may end in a backslash."""
    words = shlex.split(command.replace("\\\n", " "))[3:]  # after python -m experiments.report
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            tyro.cli(report.main, args=words, prog="python -m experiments.report")
    except DataError as error:
        sys.exit(f"error: {error}\nby: {command.strip()}")
    except SystemExit as error:
        sys.exit(f"{error}\nby: {command.strip()}")
    return out.getvalue().strip()


if __name__ == "__main__":
    with cli.program():
        tyro.cli(main, prog="python -m experiments.refresh", description=__doc__)
