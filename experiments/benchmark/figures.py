"""Draws a benchmark's ratios."""

from pathlib import Path

from matplotlib.figure import Figure

from experiments.report.figures import save
from experiments.runtime.results import Row


def speed(path: Path, rows: list[Row]) -> None:
    """Draws the speed-up over each reference implementation, and the ratio to the floor."""
    attacks = list(dict.fromkeys(row.attack for row in rows))
    of_peer = "times_faster_than:"
    metrics = [m for m in dict.fromkeys(row.metric for row in rows) if m.startswith(of_peer)]
    panels = {"times faster than each peer": metrics, "time over the floor": ["ratio_to_floor"]}
    shown = {title: names for title, names in panels.items() if names}
    figure = Figure(figsize=(1.1 * len(attacks) + 2, 2.8 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
    for panel, (title, names) in zip(axes, shown.items(), strict=True):
        width = 0.8 / len(names)
        for i, metric in enumerate(names):
            ratios = {row.attack: row.value for row in rows if row.metric == metric}
            at = [attacks.index(attack) + (i - (len(names) - 1) / 2) * width for attack in ratios]
            heights = [ratio - 1 for ratio in ratios.values()]  # bars start at 1
            name = metric.removeprefix(of_peer)
            bars = panel.bar(at, heights, width, bottom=1, label=name)
            panel.bar_label(bars, [f"{ratio:.1f}" for ratio in ratios.values()], fontsize=7)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set(yscale="log", ylabel=title)
        panel.margins(y=0.15)
        if len(names) > 1:
            panel.legend(fontsize=8)
    axes[-1].set_xticks(range(len(attacks)), attacks, rotation=20, ha="right", fontsize=8)
    save(figure, path)
