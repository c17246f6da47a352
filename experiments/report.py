"""Renders runs: `python -m experiments.report RUN...` prints them side by side.

A run's own report.html, with its figures inside, is written by the program that made the run.
"""

import base64
import sys
from pathlib import Path
from typing import Any

import jinja2
import tyro
from rich.console import Console
from rich.table import Table

from experiments import cache, results

Row = dict[str, Any]


def main(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    only: tuple[str, ...] = (),
    markdown: bool = False,
) -> None:
    """Renders runs side by side.

    Args:
      runs: run folders (or their results.json), at least one.
      only: the tables to render, by name (cmag/3, extra/fpr, ...); all by default.
      markdown: print Markdown instead of tables for a terminal.
    """
    if not runs:
        sys.exit("error: name at least one run folder")
    try:
        documents = [results.read(run) for run in runs]
    except FileNotFoundError as error:
        sys.exit(f"error: {error.filename} does not exist; name a folder with a results.json")
    rows = _together(runs, documents)
    if markdown:
        for table in tables(rows, only):
            print(_markdown(*table))
    else:
        console(rows, only)


def _together(runs: tuple[Path, ...], documents: list[dict[str, Any]]) -> list[Row]:
    """The rows of all runs. Where two runs are of one data set, it is told with the run."""
    of_run = [{row["dataset"] for row in document["rows"]} for document in documents]
    together = []
    for run, document in zip(runs, documents, strict=True):
        name = run.parent.name if run.name == "results.json" else run.resolve().name
        for row in document["rows"]:
            shared = sum(row["dataset"] in datasets for datasets in of_run) > 1
            label = f"{row['dataset']} ({name})" if shared else row["dataset"]
            together.append(row | {"dataset": label})
    return together


def tables(
    rows: list[Row], only: tuple[str, ...] = ()
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Rows as tables (title, header, body), those named in `only` or all: a table of the paper
    each, attacks as columns, ours above the paper's."""
    found = []
    for name in only or sorted({row["table"] for row in rows}):
        of_table = [row for row in rows if row["table"] == name]
        layout = _by_system if name in BY_SYSTEM else _listed if name in LISTED else _by_metric
        found.append((name, *layout(of_table)))
    return found


# Tables that compare several systems by several metrics: a line each system, metrics as columns.
BY_SYSTEM = ("extra/parity", "extra/spt/adaptive", "extra/spt/queries-only", "extra/spt/natural")
# Tables whose rows have little in common: a line each.
LISTED = ("extra/benchmark/spt", "extra/spt/storage")


def _by_metric(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, body): a line each metric of a system, attacks as columns."""
    columns = list(dict.fromkeys(_column(row) for row in rows))
    body = []
    for line in dict.fromkeys((r["dataset"], r["system"], r["metric"]) for r in rows):
        cells = {_column(r): r for r in rows if (r["dataset"], r["system"], r["metric"]) == line}
        ours = [_number(cells.get(column, {}).get("value")) for column in columns]
        body.append([*line, *ours, _sizes(cells)])
        if any(row["paper"] is not None for row in cells.values()):
            printed = [_number(cells.get(column, {}).get("paper")) for column in columns]
            body.append(["", "paper", line[2], *printed, ""])
    return ["dataset", "system", "metric", *columns, "n"], body


def _by_system(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, body): a line each system under an attack, metrics as columns."""
    columns = list(dict.fromkeys(row["metric"] for row in rows))
    body = []
    for line in dict.fromkeys((r["dataset"], _column(r), r["system"]) for r in rows):
        cells = {r["metric"]: r for r in rows if (r["dataset"], _column(r), r["system"]) == line}
        values = [_number(cells.get(column, {}).get("value")) for column in columns]
        body.append([*line, *values, _sizes(cells)])
    return ["dataset", "attack", "system", *columns, "n"], body


def _listed(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """(header, body): a line each row."""
    body = [
        [
            *(r["dataset"], r["system"], r["metric"], _column(r)),
            *(_number(r["value"]), _number(r["paper"]), str(r["n"])),
        ]
        for r in rows
    ]
    return ["dataset", "system", "metric", "case", "value", "paper", "n"], body


def _sizes(cells: dict[str, Row]) -> str:
    sizes = sorted({row["n"] for row in cells.values()})
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}"


def write_html(run: Path, title: str, figures: dict[str, Path], note: str) -> None:
    """Writes run/report.html, self-contained: tables, figures, configuration, provenance.

    Args:
      run: a run folder with a results.json.
      title: the report's.
      figures: caption -> PNG.
      note: what has to be known to read the rates.
    """
    document = results.read(run)
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    images = {
        caption: base64.b64encode(path.read_bytes()).decode() for caption, path in figures.items()
    }
    html = template.render(
        title=title,
        note=note,
        tables=tables(document["rows"]),
        figures=images,
        config=document["config"],
        provenance=document["provenance"],
    )
    cache.write_atomically(run / "report.html", lambda temporary: temporary.write_text(html))


def console(rows: list[Row], only: tuple[str, ...] = ()) -> None:
    """Prints the tables to the terminal, or, wide enough for all columns, to a file."""
    out = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables(rows, only):
        out.print(_rich(*table))


def _column(row: Row) -> str:
    if row["attack"] == "none":
        return "clean"
    return row["attack"] if row["strength"] is None else f"{row['attack']} {row['strength']:g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _rich(title: str, header: list[str], body: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < 3 else "right")
    for line in body:
        table.add_row(*line, style="dim" if line[1] == "paper" else None)
    return table


def _markdown(title: str, header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em }
table { border-collapse: collapse; margin: .5em 0 1.5em; font-variant-numeric: tabular-nums }
td, th { padding: .15em .7em; text-align: right; border-bottom: 1px solid #ddd }
td:nth-child(-n+3), th:nth-child(-n+3) { text-align: left }
tr.paper { color: #777; font-style: italic }
figure { margin: 1em 0 2em } img { max-width: 100% } pre { background: #f6f6f6; padding: 1em }
</style></head><body>
<h1>{{ title }}</h1>
<p>Made by <code>{{ provenance.command }}</code> at {{ provenance.git or "an unknown commit" }}
on {{ provenance.device }}. {{ note }}</p>
{% for caption, data in figures.items() %}
<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ data }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% for name, header, body in tables %}
<h2>{{ name }}</h2>
<table><tr>{% for cell in header %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for line in body %}
<tr{% if line[1] == "paper" %} class="paper"{% endif %}>
{%- for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endfor %}
<h2>Configuration and provenance</h2>
<pre>{{ config | tojson(indent=1) }}</pre>
<pre>{{ provenance | tojson(indent=1) }}</pre>
</body></html>
"""


if __name__ == "__main__":
    tyro.cli(main, prog="python -m experiments.report", description=__doc__)
