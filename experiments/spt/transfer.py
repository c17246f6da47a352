"""Table II: how easily each network is attacked, and how its attacks transfer to the others."""

from pathlib import Path

import numpy as np

from experiments import victims
from experiments.runtime.results import Row
from experiments.spt import figures, paper_values
from experiments.spt.defences import NONE
from experiments.spt.lab import Lab, Measured, metric
from experiments.victims import predict

STEPS, UNTARGETED, TARGETED = 10, 0.0013, 0.003  # the caption's


def measure(lab: Lab, folder: Path) -> Measured:
    networks = {name: lab.network(name) for name in paper_values.NETWORKS}
    rows = []
    for name, victim in networks.items():
        accuracy = victims.accuracy(victim, lab.data.test)
        rows.append(
            lab.plain_row("spt/II", name, "none", "accuracy:test", accuracy, len(lab.data.test),
                          paper_values.ORIGINAL_ACCURACY[name])
        )  # fmt: skip
    pictures = {}
    for target, step_size, printed in (
        (None, UNTARGETED, paper_values.UNTARGETED_ACCURACY),
        (lab.config.target, TARGETED, paper_values.TARGETED_SUCCESS),
    ):
        spec = lab.spec("BIM", STEPS, step_size, target=target)
        matrix = np.zeros((len(networks), len(networks)))
        for column, (source, attacked_network) in enumerate(networks.items()):
            attacked = lab.attacked(spec, NONE, classifier=attacked_network)
            truth = lab.truth(attacked)
            for line, (judge, victim) in enumerate(networks.items()):
                value = lab.rate(predict(victim, attacked.images), truth, spec)
                matrix[line, column] = value
                goal = "BIM" if target is None else "BIM targeted"
                rows.append(
                    Row("spt/II", lab.dataset, judge, f"{goal} on {source}", spec.step_size,
                        metric(spec), value, len(truth), lab.paper(printed[judge][column]))
                )  # fmt: skip
        kind = "untargeted" if target is None else "targeted"
        path = folder / "figures" / f"transfer-{kind}.png"
        what = "accuracy" if target is None else "share classified as the target"
        figures.heat_map(path, matrix, list(networks), what)
        pictures[f"Table II, {kind} BIM: {what}, of what each attack makes, by network"] = path
    return Measured(rows, pictures)
