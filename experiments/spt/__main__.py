"""Reproduces SPT's tables: `python -m experiments.spt --table=VII --dataset=cifar10`.

Trains (or reuses) the networks that a table needs, attacks the packaged classifiers, and writes a
run folder: results.json, report.html, figures/. Without --table it runs a demonstration on
handwritten digits, which needs no download. Results are cached: an interrupted run resumes.
"""

from collections.abc import Callable
from pathlib import Path

from experiments import datasets
from experiments.report import __main__ as report
from experiments.runtime import cli, results
from experiments.spt import (
    adaptive,
    bookkeeping,
    buffer_tables,
    comparison,
    demo,
    discontinuous,
    faces,
    names,
    natural,
    transfer,
)
from experiments.spt.config import ALL, Config, parse
from experiments.spt.lab import Lab, Measured

TABLES: dict[str, Callable[[Lab, Path], Measured]] = {
    "demo": demo.measure,
    "II": transfer.measure,
    "IV": buffer_tables.measure_iv,
    "V": buffer_tables.measure_v,
    "VI": buffer_tables.measure_vi,
    "VII": buffer_tables.measure_vii,
    "VIII": comparison.measure,
    "X": discontinuous.measure_x,
    "XI": discontinuous.measure_xi,
    "queries": bookkeeping.measure,
    "adaptive": adaptive.measure,
    "natural": natural.measure,
    "names": names.measure,
}


NOTE = (
    "Rates named _all are over all images attacked, misclassified ones included: CS is what the"
    " packaged copy told the attacker last, OS what the bare original says of the last image."
)


def main(config: Config) -> Path:
    """Runs the chosen tables and returns the run folder."""
    clock = results.Stopwatch()
    folder, lab = config.folder, None
    cli.prepare_folders(folder, config.cache_dir)
    rows: list[results.Row] = []
    pictures: dict[str, Path] = {}
    for table in ALL if config.table == "all" else (config.table,):
        with clock.stage(table):
            if table == "IX":
                if config.table == "all" and not _has_faces(config):
                    continue
                made, drawn = faces.measure(
                    config.faces, folder, seed=config.seed, cache_dir=config.cache_dir,
                    data_dir=config.data_dir, manual_dir=config.manual_dir,
                )  # fmt: skip
                measured = Measured(made, drawn)
            else:
                lab = lab or Lab(config)
                measured = TABLES[table](lab, folder)
        rows += [row for row in measured.rows if row not in rows]  # two tables may share some
        pictures |= measured.figures
    clock.seconds["total"] = results.since_start()
    results.write_json(folder / "config.json", config)
    results.write(folder / "results.json", config=config, rows=rows, seconds=clock.seconds)
    title = f"SPT, table {config.table} ({config.preset} preset)"
    report.write_html(folder, title, pictures, NOTE)
    report.console(results.read(folder)["rows"])
    print(f"seconds: {', '.join(f'{k} {v:.1f}' for k, v in clock.seconds.items())}")
    print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")
    return folder


def _has_faces(config: Config) -> bool:
    """Returns whether the face data set is available; if not, prints what is missing."""
    try:
        datasets.prepare(
            config.faces.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir,
            face_size=config.faces.face_size,
        )  # fmt: skip
    except datasets.DataError as error:
        print(f"table IX is left out: {error}")
        return False
    return True


if __name__ == "__main__":
    with cli.program():
        main(parse(description=__doc__))
