"""Every attacker's success, as the rows of three tables and as pictures of what evaded."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments import attacking, cmag_config, datasets, systems
from experiments.adaptive import attacks, detectors
from experiments.adaptive.attacks import IN_A_BALL, AttackName, Made
from experiments.adaptive.config import Config
from experiments.adaptive.detectors import Detector
from experiments.attacking import AttackSpec
from experiments.datasets import Dataset, Split
from experiments.results import Row
from experiments.systems import SystemName
from experiments.victims import Victim, predict

FPRS = {"SR@5": 0.05, "SR@1": 0.01}
STEPS_SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of the steps, in the curve over them
BUDGETS = (0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)  # l2 norms
OWN_SEED = 1000  # added to the seed: an attacker's own detector
Knowledge = Literal["limited", "perfect"]


@dataclass(frozen=True)
class Siege:
    """A system under attack: the images, and who has what of it."""

    config: Config
    name: SystemName
    victim: Victim
    targets: Split
    detector: Detector  # which decides
    known: dict[Knowledge, Detector]  # which an attacker differentiates

    def row(self, table: str, attack: str, strength, metric: str, values: np.ndarray) -> Row:
        value = round(float(np.mean(values)), 6)
        return Row(
            table, self.config.dataset, self.name, attack, strength, metric, value, len(values)
        )

    def evaded(self, images: np.ndarray, fpr: float) -> np.ndarray:
        return self.detector.evaded(images, self.targets.labels, fpr, self.config.cache_dir)

    def run(self, name: AttackName, knowledge: Knowledge, **options) -> Made:
        """An attack by one who knows. In a ball he gives up the images with which PGD can't even
        fool the victim alone: to evade the detector too is harder."""
        rows = None if name == "CW-l2" else np.flatnonzero(self.bare(options["eps"]).success)
        detector = self.known[knowledge]
        return attacks.run(
            self.config, name, self.victim, detector, self.targets, rows=rows, **options
        )

    def bare(self, eps: float) -> Made:
        """PGD by one who knows the victim only."""
        return attacks.run(self.config, "PGD", self.victim, None, self.targets, eps=eps)


def lay(
    config: Config, base: cmag_config.Config, name: SystemName, data: Dataset, victim: Victim
) -> Siege:
    """The siege of a system: it is fitted, and so is the attacker's own."""

    def fitted(seed: int) -> systems.System:
        return systems.fit(
            name, base.of_system(name), data, victim, seed=seed, cache_dir=config.cache_dir
        )

    system = fitted(config.seed)
    # A slow one is calibrated on few images, as in the tables; its cheap copies on all.
    few = datasets.sample(data.validation, base.most(system), np.random.default_rng(config.seed))
    detector = detectors.true(system, few, config.cache_dir)
    own = detectors.copy(fitted(config.seed + OWN_SEED), data.validation, config)
    count = config.slow_images if system.slow else config.images
    targets = attacking.choose(victim, data.test, count, seed=config.seed)
    perfect = detectors.differentiable(detector, data.validation, config)
    known: dict[Knowledge, Detector] = {"limited": own, "perfect": perfect}
    return Siege(config, name, victim, targets, detector, known)


def rows(siege: Siege, base: cmag_config.Config) -> Iterator[Row]:
    """All that is measured of a system, one figure after another."""
    yield from zero(siege, base)
    yield from informed(siege, "limited")
    yield from informed(siege, "perfect")
    yield from over_steps(siege)
    yield from over_distortion(siege)


def zero(siege: Siege, base: cmag_config.Config) -> Iterator[Row]:
    """Attackers who know the victim only."""
    config, targets = siege.config, siege.targets
    made: dict[tuple[str, float], np.ndarray] = {}
    for eps in config.eps:
        made["PGD", eps] = siege.bare(eps).images
    options = tuple(dataclasses.asdict(base.cw).items())
    for confidence in config.confidence:
        attacked = attacking.attack(
            AttackSpec("CW-l2", confidence, options), siege.victim, targets,
            chunk=config.batch, seed=config.seed, cache_dir=config.cache_dir,
        )  # fmt: skip
        made["CW-l2", confidence] = attacked.images
    for (name, strength), images in made.items():
        fooled = predict(siege.victim, images) != targets.labels
        at = ("extra/adaptive", f"{name}, zero", strength)
        for metric, fpr in FPRS.items():
            yield siege.row(*at, metric, siege.evaded(images, fpr))
        yield siege.row(*at, "attack_success_rate", fooled)  # had there been no detector


def informed(siege: Siege, knowledge: Knowledge) -> Iterator[Row]:
    """Attackers who have the detector, or one like it."""
    table = "extra/adaptive"
    for eps in siege.config.eps:
        everyone = []
        for name in IN_A_BALL:
            evaded = _evaded(siege, name, knowledge, eps=eps)
            everyone.append(evaded)
            for metric in FPRS:
                yield siege.row(table, f"{name}, {knowledge}", eps, metric, evaded[metric])
        for metric in FPRS:
            best = np.any([evaded[metric] for evaded in everyone], axis=0)
            yield siege.row(table, f"best of them, {knowledge}", eps, metric, best)
    evaded = _evaded(siege, "CW-l2", knowledge)
    for metric in FPRS:
        yield siege.row(table, f"CW-l2, {knowledge}", None, metric, evaded[metric])
    distances = siege.run("CW-l2", knowledge).distance[evaded["SR@5"]]
    if len(distances):
        median = np.full(len(distances), np.median(distances))
        yield siege.row(table, f"CW-l2, {knowledge}", None, "median_l2", median)


def _evaded(siege: Siege, name: AttackName, knowledge: Knowledge, **options) -> dict:
    """metric -> (N,) bool. What a detector at 5% lets pass, one at 1% lets pass too: the images
    made against the stricter count against both."""
    found, images = {}, []
    for metric, fpr in FPRS.items():
        images.append(siege.run(name, knowledge, fpr=fpr, **options).images)
        found[metric] = np.any([siege.evaded(each, fpr) for each in images], axis=0)
    return found


def over_steps(siege: Siege) -> Iterator[Row]:
    """SR@5 of attacks with perfect knowledge, by their steps: of one run, of twice the steps."""
    eps, steps = siege.config.middle_eps, siege.config.steps
    counts = sorted({max(round(share * steps), 1) for share in STEPS_SHARES})
    for name in ("selective PGD", "orthogonal PGD"):
        made = siege.run(name, "perfect", eps=eps, steps=counts[-1])
        evaded = siege.evaded(made.images, FPRS["SR@5"])
        for count in counts:
            title = f"{name}, {count} steps"
            # In the end all that evade count, whatever the attacker's own copy thinks of them.
            values = evaded if count == counts[-1] else evaded & made.within(count)
            yield siege.row("extra/adaptive/steps", title, eps, "SR@5", values)


def over_distortion(siege: Siege) -> Iterator[Row]:
    """SR@5 with perfect knowledge, by how far an image may be changed: orthogonal PGD's (an image
    that evades within a ball evades within all larger ones), and CW's."""
    table, fpr = "extra/adaptive/distortion", FPRS["SR@5"]
    evaded = np.zeros(len(siege.targets), bool)
    for eps in siege.config.wide_eps:
        for name in ("selective PGD", "orthogonal PGD"):
            evaded |= siege.evaded(siege.run(name, "perfect", eps=eps).images, fpr)
        yield siege.row(table, "linf", eps, "SR@5", evaded)
        if evaded.all():
            break
    made = siege.run("CW-l2", "perfect")
    evaded = siege.evaded(made.images, fpr)
    for budget in BUDGETS:
        within = evaded & (made.distance <= budget)
        yield siege.row(table, "l2", budget, "SR@5", within)
        if within.sum() == evaded.sum():
            break


def pictures(siege: Siege, count: int) -> dict[str, np.ndarray]:
    """Clean images and what evades a detector at 5% in their place, grey where nothing does."""
    columns = {"clean": siege.targets.images}
    runs = {f"PGD {eps:g}": ("orthogonal PGD", eps) for eps in siege.config.eps}
    names: dict[str, tuple[AttackName, float]] = {**runs, "CW-l2": ("CW-l2", 0.0)}  # type: ignore
    for title, (name, eps) in names.items():
        images = siege.run(name, "perfect", eps=eps).images
        evaded = siege.evaded(images, FPRS["SR@5"])
        columns[title] = np.where(evaded[:, None, None, None], images, np.float32(0.5))
    return {title: images[:count] for title, images in columns.items()}
