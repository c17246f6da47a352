"""Adaptive attacks on detectors: `python -m experiments.adaptive --dataset=mnist --system=all`.

Takes the victim and the detectors of `python -m experiments.cmag` with the same data set and
preset (or trains them), attacks them with zero, limited and perfect knowledge, and writes a run
folder: results.json, report.html, figures/. The cache keeps each finished attack, so an
interrupted run resumes.
"""

from pathlib import Path

from experiments import datasets, victims
from experiments.adaptive import figures as curves
from experiments.adaptive import tables
from experiments.adaptive.config import Config, parse
from experiments.cmag import config as cmag_config
from experiments.pipeline.detectors import slug
from experiments.report import __main__ as report
from experiments.report import figures
from experiments.runtime import cli, progress, results
from experiments.runtime.results import Row

GALLERY_ROWS = 6
NOTE = (
    "SR@5 and SR@1: the share of the images attacked, all classified rightly before, that end"
    " misclassified and not flagged by the detector at 5% and 1% FPR."
)


def main(config: Config, base: cmag_config.Config | None = None) -> Path:
    """Runs everything and returns the run folder.

    `base` configures the victim and the detectors; by default it is the preset's.
    """
    clock = results.Stopwatch()
    folder = config.folder
    cli.prepare_folders(folder, config.cache_dir)
    base = base or cmag_config.preset(config.preset, config.dataset)
    with clock.stage("data"):
        data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    with clock.stage("victim"):
        victim = victims.get(data, base.victim, seed=config.seed, cache_dir=config.cache_dir)
    rows: list[Row] = []
    pictures: dict[str, Path] = {}
    for name in config.chosen:
        with clock.stage(f"{name} fit"):
            siege = tables.lay(config, base, name, data, victim)
        with clock.stage(f"{name} attacks"), progress.bar(0, f"{name} attacks", "rows") as bar:
            for row in tables.rows(siege, base):
                rows.append(row)
                bar.set_postfix(last=row.attack)
                bar.update()
        path = folder / "figures" / f"examples-{slug(name)}.png"
        columns = tables.pictures(siege, GALLERY_ROWS)
        figures.gallery(path, f"{name} at 5% FPR, evaded (grey: not evaded)", columns)
        pictures[f"{name}: clean images, and those that evade it, by perfect knowledge"] = path
    pictures = curves.curves(folder / "figures", rows) | pictures
    clock.seconds["total"] = results.since_start()
    results.write_json(folder / "config.json", config)
    results.write(folder / "results.json", config=config, rows=rows, seconds=clock.seconds)
    title = f"Adaptive attacks on {config.dataset} ({config.preset} preset)"
    report.write_html(folder, title, pictures, NOTE)
    report.console(results.read(folder)["rows"])
    print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")
    return folder


if __name__ == "__main__":
    with cli.program():
        main(parse(description=__doc__))
