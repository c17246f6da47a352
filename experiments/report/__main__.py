"""Renders runs: `python -m experiments.report RUN...` prints them side by side.

The program that makes a run also writes its report.html, with the figures inside.
"""

import base64
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import tyro
from rich.console import Console
from rich.table import Table

from experiments.runtime import cache, cli, results

Row = dict[str, Any]


def main(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    only: tuple[str, ...] = (),
    systems: tuple[str, ...] = (),
    metrics: tuple[str, ...] = (),
    attacks: tuple[str, ...] = (),
    seeds: bool = False,
    intervals: bool = False,
    markdown: bool = False,
) -> None:
    """Renders runs side by side.

    Args:
      runs: run folders (or their results.json), at least one.
      only: names of the tables to render (cmag/3, extra/fpr, ...); all by default.
      systems: the systems to render; all by default.
      metrics: the metrics to render; all by default.
      attacks: names of the attacks to render, "none" for no attack; all by default.
      seeds: the runs differ only in their seeds: show the mean and the range in one cell.
      intervals: show 95% intervals: Wilson's for rates, DeLong's for areas under curves.
      markdown: print Markdown instead of terminal tables.
    """
    for name, chosen in (("only", only), ("systems", systems), ("metrics", metrics)):
        if len(set(chosen)) < len(chosen):
            sys.exit(f"error: expected each of {name} once, got {', '.join(chosen)}")
    rows = list(_together(runs, results.read_all(runs), told_apart=not seeds))
    if intervals:
        rows = _with_intervals(rows)
    wanted = {"table": only, "system": systems, "metric": metrics, "attack": attacks}
    for column, chosen in wanted.items():
        there = sorted({row[column] for row in rows})
        for name in chosen:
            if name not in there:
                sys.exit(f"error: no run has the {column} {name!r}; there are {', '.join(there)}")
    for column, chosen in wanted.items():
        rows = [row for row in rows if not chosen or row[column] in chosen]
    if not rows:
        sys.exit("error: no row of these runs is all that was asked for")
    if markdown:
        for table in tables(rows, only):
            print(_markdown(*table))
    else:
        console(rows, only)


def _together(
    runs: tuple[Path, ...], documents: list[dict[str, Any]], *, told_apart: bool
) -> list[Row]:
    """Returns the rows of all runs.

    If two runs have the same system on the same data set, the label of the data set includes the
    run's name, unless `told_apart` is False.
    """

    def of(row: Row) -> tuple[str, str]:
        return row["dataset"], row["system"]

    of_runs = [{of(row) for row in document["rows"]} for document in documents]
    together = []
    for run, document in zip(runs, documents, strict=True):
        name = run.parent.name if run.name == "results.json" else run.resolve().name
        for row in document["rows"]:
            shared = told_apart and sum(of(row) in found for found in of_runs) > 1
            label = f"{row['dataset']} ({name})" if shared else row["dataset"]
            together.append(row | {"dataset": label})
    return together


def tables(
    rows: list[Row], only: tuple[str, ...] = ()
) -> list[tuple[str, list[str], list[list[str]]]]:
    """Returns rows as tables (title, header, body), either those named in `only` or all.

    Each is a table of the paper, with attacks as columns and our values above the paper's.
    """
    found = []
    for name in only or sorted({row["table"] for row in rows}):
        of_table = [row for row in rows if row["table"] == name]
        if not of_table:  # requested, but without rows
            continue
        found.append((name, *LAYOUTS.get(name, _by_metric)(of_table)))
    return found


def _by_metric(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Returns (header, body): one line per metric of a system, attacks as columns."""
    columns = list(dict.fromkeys(_column(row) for row in rows))
    body = []
    for line in dict.fromkeys((r["dataset"], r["system"], r["metric"]) for r in rows):
        of_line = [r for r in rows if (r["dataset"], r["system"], r["metric"]) == line]
        cells = {column: [r for r in of_line if _column(r) == column] for column in columns}
        body.append([*line, *(_cell(found) for found in cells.values()), _sizes(of_line)])
        if any(row["paper"] is not None for row in of_line):
            printed = [_number(found[0]["paper"]) if found else "" for found in cells.values()]
            body.append(["", "paper", line[2], *printed, ""])
    return ["dataset", "system", "metric", *columns, "n"], body


def _by_attack(rows: list[Row], beside: str, across: str) -> tuple[list[str], list[list[str]]]:
    """Returns (header, body): one line per attack and `beside`, values of `across` as columns."""
    columns = list(dict.fromkeys(row[across] for row in rows))
    body = []
    for line in dict.fromkeys((r["dataset"], _column(r), r[beside]) for r in rows):
        of_line = [r for r in rows if (r["dataset"], _column(r), r[beside]) == line]
        values = [_cell([r for r in of_line if r[across] == column]) for column in columns]
        body.append([*line, *values, _sizes(of_line)])
    return ["dataset", "attack", beside, *columns, "n"], body


# For few metrics of several systems, and for few systems under many attacks.
_metrics_across = partial(_by_attack, beside="system", across="metric")
_systems_across = partial(_by_attack, beside="metric", across="system")


def _listed(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Returns (header, body): one line per row."""
    body = [
        [
            *(r["dataset"], r["system"], r["metric"], _column(r)),
            *(_number(r["value"]), _number(r["paper"]), str(r["n"])),
        ]
        for r in rows
    ]
    return ["dataset", "system", "metric", "case", "value", "paper", "n"], body


LAYOUTS: dict[str, Any] = {
    "extra/figures7-8": _metrics_across,
    "extra/parity": _metrics_across,
    "extra/spt/adaptive": _metrics_across,
    "extra/spt/queries-only": _metrics_across,
    "extra/spt/natural": _metrics_across,
    "extra/other-attacks": _systems_across,
    "extra/auroc": _systems_across,
    "extra/let-through": _systems_across,
    "extra/adaptive": _systems_across,
    "extra/adaptive/steps": _systems_across,
    "extra/adaptive/distortion": _systems_across,
    # The rows have little in common: one line per row.
    "extra/benchmark/spt": _listed,
    "extra/spt/storage": _listed,
}


def _cell(rows: list[Row]) -> str:
    """Returns a value, with its interval if it has one, or several seeds' mean and range."""
    if not rows:
        return ""
    values = [row["value"] for row in rows]
    if len(values) > 1:
        return f"{sum(values) / len(values):.3f} ({min(values):.3f}-{max(values):.3f})"
    interval = rows[0].get("interval")
    return _number(values[0]) + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")


RATES = (
    "tpr@",
    "fpr@",
    "detection_rate@",
    "accuracy",
    "attack_success_rate",
    "share_",
    "SR@",
    "flagged:",
)


def wilson(row: Row) -> tuple[float, float] | None:
    """Returns the 95% interval (Wilson, 1927) of a rate; None if it is no share of `n` images."""
    if not row["metric"].startswith(RATES) or row["metric"].endswith("_constants"):
        return None
    p, n, z = row["value"], row["n"], 1.96
    middle, scale = (p + z * z / (2 * n)), 1 + z * z / n
    margin = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max((middle - margin) / scale, 0.0), min((middle + margin) / scale, 1.0)


def _with_intervals(rows: list[Row]) -> list[Row]:
    """Returns the rows with the intervals that other rows give, or else with Wilson's."""

    def of(row: Row) -> tuple[str, ...]:
        return tuple(row[name] for name in ("table", "dataset", "system", "attack", "strength"))

    beside = {(of(row), row["metric"]): row["value"] for row in rows}

    def interval(row: Row) -> tuple[float, float] | None:
        low, high = (beside.get((of(row), f"{row['metric']}:95%-{e}")) for e in ("low", "high"))
        return wilson(row) if low is None or high is None else (low, high)

    return [row | {"interval": interval(row)} for row in rows]


def _sizes(rows: list[Row]) -> str:
    sizes = sorted({row["n"] for row in rows})
    return f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}"


def write_html(run: Path, title: str, figures: dict[str, Path], note: str) -> None:
    """Writes run/report.html, self-contained: tables, figures, configuration, provenance.

    Args:
      run: a run folder with a results.json.
      title: the title of the report.
      figures: caption -> PNG.
      note: what a reader must know about the rates.
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
    """Prints the tables to the terminal, or to a file, wide enough for all columns."""
    # Print names unchanged: [markup] and :emoji: have no meaning in them.
    width = None if sys.stdout.isatty() else 160
    out = Console(width=width, markup=False, emoji=False)
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
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


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
    with cli.program():
        tyro.cli(main, prog="python -m experiments.report", description=__doc__)
