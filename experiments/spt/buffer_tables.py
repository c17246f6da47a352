"""Tables IV to VII: how well the buffer deceives attacks, by decoy, attack and settings.

CS is the packaged classifier that the attacker queries: the label in its answer to the attack's
last query. OS is the original classifier, which sees only the attack's final image. DR is eq. 3.
"T-" is the mean over several untrained decoys; `extra/spt/untrained` has each of them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from experiments.runtime.results import Row
from experiments.spt import paper_values, tracing
from experiments.spt.attacks import Attacked, Spec
from experiments.spt.defences import NONE, Decoy, Defence, Training
from experiments.spt.lab import CLASSIFIER, Lab, Measured, deceive_rate, mean, metric
from experiments.victims import Victim, predict

# Tables IV and V don't give the number of steps. With table II's 10 steps the buffer (t + S = 15)
# would never answer. We use 40 steps with table II's total size, and 40 small ones: at the paper's
# strength too little accuracy is left in a weak network to see differences.
STEPS = 40
UNTARGETED = (10 * 0.0013 / STEPS, 1e-4)
TARGETED = (10 * 0.003 / STEPS, 3e-4)
# Table VII's last blocks, with step sizes that fool the bare classifier about as often as the
# paper's.
SMALLER_STEPS = ((100, 10, 5e-5), (100, 30, 5e-5))


def measure_iv(lab: Lab, folder: Path) -> Measured:
    """Measures how attacks on the packaged VGG transfer to the bare networks."""
    judges = {name: lab.network(name) for name in paper_values.UNTARGETED_TRANSFER}
    rows = []
    for target, sizes, printed in (
        (None, UNTARGETED, paper_values.UNTARGETED_TRANSFER),
        (lab.config.target, TARGETED, paper_values.TARGETED_TRANSFER),
    ):
        for size in lab.sizes(*sizes):
            spec = lab.spec("BIM", STEPS, size, target=target)
            for column, (title, defences) in enumerate(_columns(lab)):
                made = [lab.attacked(spec, defence) for defence in defences]
                for name, judge in judges.items():
                    rates = [
                        lab.rate(predict(judge, attacked.images), lab.truth(attacked), spec)
                        for attacked in made
                    ]
                    paper = printed[name][column] if size == sizes[0] else None
                    rows.append(
                        lab.row("spt/IV", title, spec, f"{metric(spec)}:{name}", mean(rates),
                                len(made[0].images), paper)
                    )  # fmt: skip
    return Measured(rows)


def _columns(lab: Lab) -> list[tuple[str, list[Defence]]]:
    """Returns the systems of table IV in the paper's order, with several for untrained decoys."""
    columns: list[tuple[str, list[Defence]]] = [(CLASSIFIER, [NONE])]
    for network in paper_values.DECOYS:
        for training in paper_values.TRAININGS:
            decoys = _decoys(lab, network, training)
            columns.append((_title(decoys[0]), [lab.buffer(decoy) for decoy in decoys]))
    return columns


def measure_v(lab: Lab, folder: Path) -> Measured:
    """Measures untargeted BIM as the attacker sees it (CS) and as it is (OS)."""
    rows = []
    for size in lab.sizes(*UNTARGETED):
        spec = lab.spec("BIM", STEPS, size)
        first = size == UNTARGETED[0]
        adv = paper_values.UNTARGETED_ADV if first else None
        printed = paper_values.UNTARGETED_BUFFER if first else {}
        rows += systems(lab, "spt/V", spec, adv, printed, paper_values.DECOYS)
        rows += _random_labels(lab, spec)
    return Measured(rows)


def _random_labels(lab: Lab, spec: Spec) -> list[Row]:
    """Measures the paper's first scenario: random labels without a gradient."""
    defence = lab.buffer(Decoy("C4", "Td"), response="random")
    attacked = lab.attacked(spec, defence)
    cs, os = rates(lab, spec, attacked)
    title, n = f"{CLASSIFIER} + random labels", len(attacked.images)
    return _deception(partial(lab.row, "spt/V", title, spec), spec, cs, os, n)


def measure_vi(lab: Lab, folder: Path) -> Measured:
    """Measures targeted JSMA and MI-FGSM.

    The paper gives no settings for JSMA. theta is 0.1 by default: steps of theta = 1 change too
    much for a buffer to detect them.
    """
    target = lab.config.target
    jsma = Spec("JSMA", lab.config.steps or 100, lab.config.jsma_theta, target=target)
    rows = systems(
        lab, "spt/VI", jsma, paper_values.JSMA_ADV, paper_values.JSMA_BUFFER,
        paper_values.DECOYS, images=lab.config.jsma_images,
    )  # fmt: skip
    mifgsm = lab.spec("MI-FGSM", 100, 3e-4, target=target)
    rows += systems(
        lab, "spt/VI", mifgsm, paper_values.MIFGSM_ADV, paper_values.MIFGSM_BUFFER,
        paper_values.DECOYS,
    )  # fmt: skip
    return Measured(rows)


def measure_vii(lab: Lab, folder: Path) -> Measured:
    """Measures MI-FGSM by its number of steps, its step size, and the buffer's length."""
    rows: list[Row] = []
    pictures: dict[str, Path] = {}
    blocks: dict[tuple[int, int, float], Any] = dict(paper_values.HYPERPARAMETERS)
    blocks |= {block: (None, {}) for block in SMALLER_STEPS}
    for (steps, length, size), (adv, printed) in blocks.items():
        spec = lab.spec("MI-FGSM", steps, size, target=lab.config.target)
        rows += systems(
            lab, "spt/VII", spec, adv, {"C4": printed}, ("C4",), length=length,
            suffix=f" t={length}",
        )  # fmt: skip
        defence = lab.buffer(Decoy("C4", "Td"), length=length)
        pictures |= tracing.draw(
            lab, spec, defence, folder, f"t{length}-{steps}x{size:g}", f"t = {length}, C2 = C4 Td"
        )
    # The paper's DR above 1 requires a classifier that is far harder to fool than the decoy.
    spec = lab.spec("MI-FGSM", 100, 3e-4, target=lab.config.target)
    hard = lab.network(CLASSIFIER, adversarial=True)
    rows += systems(
        lab, "extra/spt/robust", spec, None, {}, ("C4",), classifier=hard, name="PGD-trained VGG"
    )
    return Measured(rows, pictures)


def systems(
    lab: Lab,
    table: str,
    spec: Spec,
    adv: float | None,
    printed: dict[str, dict[str, paper_values.Printed]],
    networks: tuple[str, ...],
    *,
    trainings: tuple[Training, ...] = paper_values.TRAININGS,
    classifier: Victim | None = None,
    name: str = CLASSIFIER,
    suffix: str = "",
    images: int | None = None,
    **options: Any,
) -> list[Row]:
    """Returns the bare classifier's row, then CS, OS and DR of each decoy.

    Args:
      table: the rows' table.
      spec: the attack.
      adv: the paper's value for the bare classifier.
      printed: the paper's values, decoy network -> training -> (CS, OS, DR).
      networks: the decoys' networks.
      trainings: the decoys' trainings.
      classifier: the classifier to package; the paper's choice by default.
      name: the classifier's name.
      suffix: distinguishes columns that differ only by the defence's settings.
      images: number of images to attack; the run's own by default.
      options: buffer options that replace the run's own.
    """

    def row(table, system, what, value, n, paper=None):
        made = lab.row(table, system, spec, what, value, n, paper)
        return Row(**made.__dict__ | {"attack": made.attack.replace(",", f"{suffix},", 1)})

    def attack(defence):
        return lab.attacked(spec, defence, classifier=classifier, images=images)

    bare = attack(NONE)
    _, os = rates(lab, spec, bare, classifier)
    n = len(bare.images)
    rows = [row(table, name, f"{metric(spec)}:OS", os, n, adv)]
    for network in networks:
        for training in trainings:
            decoys = _decoys(lab, network, training)
            made = [attack(lab.buffer(decoy, **options)) for decoy in decoys]
            pairs = [rates(lab, spec, attacked, classifier) for attacked in made]
            title = _title(decoys[0], name)
            paper = printed.get(network, {}).get(training, (None, None, None))
            cs, os = (mean(values) for values in zip(*pairs, strict=True))
            rows += _deception(partial(row, table, title), spec, cs, os, n, paper)
            if len(pairs) > 1:
                for decoy, (cs, os) in zip(decoys, pairs, strict=True):
                    one = f"{title}, seed {decoy.seed}"
                    rows += [
                        row("extra/spt/untrained", one, f"{metric(spec)}:CS", cs, n),
                        row("extra/spt/untrained", one, f"{metric(spec)}:OS", os, n),
                    ]
    return rows


def _deception(
    row: Callable[..., Row],
    spec: Spec,
    cs: float,
    os: float,
    n: int,
    paper: tuple[float | None, float | None, float | None] = (None, None, None),
) -> list[Row]:
    """Returns rows of CS, OS and, if it exists, DR. `row` takes (metric, value, n, paper)."""
    rows = [
        row(f"{metric(spec)}:CS", cs, n, paper[0]),
        row(f"{metric(spec)}:OS", os, n, paper[1]),
    ]
    dr = deceive_rate(cs, os)
    return rows if dr is None else [*rows, row("deceive_rate", dr, n, paper[2])]


def rates(
    lab: Lab, spec: Spec, attacked: Attacked, classifier: Victim | None = None
) -> tuple[float, float]:
    """Returns (CS, OS)."""
    truth = lab.truth(attacked)
    original = predict(classifier or lab.network(CLASSIFIER), attacked.images)
    return lab.rate(attacked.told, truth, spec), lab.rate(original, truth, spec)


def _decoys(lab: Lab, network: str, training: Training) -> list[Decoy]:
    return lab.untrained(network) if training == "T-" else [Decoy(network, training)]


def _title(decoy: Decoy, classifier: str = CLASSIFIER) -> str:
    return f"{classifier} + {decoy.title}"
