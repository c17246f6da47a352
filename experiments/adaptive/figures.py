"""Draws the curves of a run from its rows.

`python -m experiments.adaptive.figures RUN... --output=PICTURE.png` draws the distortion curves of
several runs in one picture. Each run may have one detector or one data set.
"""

import sys
from pathlib import Path

import tyro
from matplotlib.figure import Figure

from experiments.pipeline.detectors import NAMES, slug
from experiments.report.figures import save
from experiments.runtime import cli, results
from experiments.runtime.results import Row

KNOWLEDGE = {"zero": "PGD", "limited": "best of them", "perfect": "best of them"}
COLOURS = {"zero": "tab:gray", "limited": "tab:blue", "perfect": "tab:red"}
STYLES = {"SR@5": "-", "SR@1": "--"}


def curves(folder: Path, rows: list[Row]) -> dict[str, Path]:
    """Draws all curves; returns caption -> path."""
    names = list(dict.fromkeys(row.system for row in rows))
    found = {}
    for name in names:
        path = folder / f"success-{slug(name)}.png"
        _success(path, [row for row in rows if row.system == name])
        found[f"{name}: success of PGD by its strength and by what the attacker knows"] = path
    path = folder / "steps.png"
    _steps(path, rows)
    found["Success at 5% FPR by the steps, up to twice those of the tables"] = path
    path = folder / "distortion.png"
    _distortion(path, rows)
    return found | {"Success at 5% FPR, perfect knowledge, by the change that is allowed": path}


def _success(path: Path, rows: list[Row]) -> None:
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    panel = figure.subplots()
    for knowledge, attack in KNOWLEDGE.items():
        for metric, style in STYLES.items():
            points = [
                (row.strength, row.value)
                for row in rows
                if (row.attack, row.metric) == (f"{attack}, {knowledge}", metric)
            ]
            label = f"{metric}, {knowledge} knowledge"
            panel.plot(*zip(*points, strict=True), style, color=COLOURS[knowledge], label=label,
                       marker=".")  # fmt: skip
    panel.set(xlabel="eps (l-infinity)", ylabel="success", ylim=(-0.02, 1.02))
    panel.legend(fontsize=8)
    save(figure, path)


def _steps(path: Path, rows: list[Row]) -> None:
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    panel = figure.subplots()
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        if row.table == "extra/adaptive/steps":
            attack, steps = row.attack.removesuffix(" steps").split(", ")
            lines.setdefault((row.system, attack), []).append((int(steps), row.value))
    systems = list(dict.fromkeys(system for system, _ in lines))
    for (system, attack), points in lines.items():
        style = "-" if attack.startswith("selective") else ":"
        colour = f"C{systems.index(system)}"
        panel.plot(*zip(*points, strict=True), style, color=colour, label=f"{system}, {attack}",
                   marker=".")  # fmt: skip
    panel.set(xscale="log", xlabel="steps", ylabel="SR@5", ylim=(-0.02, 1.02))
    panel.legend(fontsize=7)
    save(figure, path)


def _distortion(path: Path, rows: list[Row]) -> None:
    """Draws two panels per data set. A detector has the same colour in all panels."""
    of_table = [row for row in rows if row.table == "extra/adaptive/distortion"]
    datasets = list(dict.fromkeys(row.dataset for row in of_table))
    figure = Figure(figsize=(9, 3 * len(datasets) + 0.6), layout="constrained")
    panels = figure.subplots(len(datasets), 2, sharex="col", sharey=True, squeeze=False)
    titles = {"linf": "l-infinity", "l2": "l2 (the nearest)"}
    for panel, title in zip(panels[-1], titles.values(), strict=True):
        panel.set(xlabel=title)
    for line, dataset in zip(panels, datasets, strict=True):
        for panel, norm in zip(line, titles, strict=True):
            for index, system in enumerate(NAMES):
                points = [
                    (row.strength, row.value)
                    for row in of_table
                    if (row.dataset, row.system, row.attack) == (dataset, system, norm)
                ]
                if points:
                    panel.plot(*zip(*points, strict=True), f"C{index}", label=system, marker=".")
            panel.set(ylim=(-0.02, 1.02))
        line[0].set(ylabel=f"SR@5, {dataset}")
        line[0].legend(fontsize=8)
    for panel in panels[-1]:
        panel.set(xlim=(0, None))  # last, because it stops the axes from scaling to the curves
    save(figure, path)


def main(runs: tyro.conf.Positional[tuple[Path, ...]], output: Path) -> None:
    """Draws how far an image has to be changed to evade each detector.

    Args:
      runs: run folders of `experiments.adaptive`, at least one.
      output: the picture, a PNG.
    """
    if output.suffix.lower() != ".png":
        sys.exit(f"error: expected --output to be a .png, got {output}")
    found = [Row(**row) for document in results.read_all(runs) for row in document["rows"]]
    if not any(row.table == "extra/adaptive/distortion" for row in found):
        sys.exit("error: expected runs of experiments.adaptive, got none with distortion curves")
    _distortion(output, found)


if __name__ == "__main__":
    with cli.program():
        tyro.cli(main, prog="python -m experiments.adaptive.figures", description=__doc__)
