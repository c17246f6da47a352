"""Pictures of a run: curves, made of its rows."""

from pathlib import Path

from matplotlib.figure import Figure

from experiments.figures import save
from experiments.results import Row
from experiments.systems import slug

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
        style = "-" if attack.startswith("orthogonal") else ":"
        colour = f"C{systems.index(system)}"
        panel.plot(*zip(*points, strict=True), style, color=colour, label=f"{system}, {attack}",
                   marker=".")  # fmt: skip
    panel.set(xscale="log", xlabel="steps", ylabel="SR@5", ylim=(-0.02, 1.02))
    panel.legend(fontsize=7)
    save(figure, path)


def _distortion(path: Path, rows: list[Row]) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    of_table = [row for row in rows if row.table == "extra/adaptive/distortion"]
    titles = {"linf": "l-infinity (PGD)", "l2": "l2 (CW)"}
    for panel, (norm, title) in zip(panels, titles.items(), strict=True):
        for system in dict.fromkeys(row.system for row in of_table):
            points = [
                (row.strength, row.value)
                for row in of_table
                if (row.system, row.attack) == (system, norm)
            ]
            panel.plot(*zip(*points, strict=True), label=system, marker=".")
        panel.set(xlabel=title, ylim=(-0.02, 1.02))
    panels[0].set(ylabel="SR@5")
    panels[0].legend(fontsize=8)
    save(figure, path)
