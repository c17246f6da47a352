"""The success of every adaptive attack: rows of three tables, and pictures of evading images."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.adaptive import attacked_detector, attacks
from experiments.adaptive.attacked_detector import Detector
from experiments.adaptive.attacks import IN_A_BALL, AttackName, Made
from experiments.adaptive.config import Config
from experiments.cmag import config as cmag_config
from experiments.datasets import Dataset, Split
from experiments.pipeline import attack_runs, detectors
from experiments.pipeline.attack_runs import AttackSpec
from experiments.pipeline.detectors import DetectorName
from experiments.runtime.results import Row
from experiments.victims import Victim, predict

FPRS = {"SR@5": 0.05, "SR@1": 0.01}
STEPS_SHARES = (1 / 8, 1 / 4, 1 / 2, 1, 2)  # of `steps`, in the curve over the number of steps
BUDGETS = (0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)  # l2 norms
OWN_SEED = 1000  # added to the seed for the attacker's surrogate
Knowledge = Literal["limited", "perfect"]
# Level of knowledge -> the levels that it includes.
AS_MUCH: dict[Knowledge, tuple[Knowledge, ...]] = {
    "limited": ("limited",),
    "perfect": ("limited", "perfect"),
}


@dataclass(frozen=True)
class Siege:
    """A system under attack: the images, the deployed detector and the attacker's detectors."""

    config: Config
    name: DetectorName
    victim: Victim
    targets: Split
    detector: Detector  # the deployed one
    known: dict[Knowledge, Detector]  # what an attack differentiates

    def row(self, table: str, attack: str, strength, metric: str, values: np.ndarray) -> Row:
        value = round(float(np.mean(values)), 6)
        return Row(
            table, self.config.dataset, self.name, attack, strength, metric, value, len(values)
        )

    def evaded(self, images: np.ndarray, fpr: float) -> np.ndarray:
        return self.detector.evaded(images, self.targets.labels, fpr, self.config.cache_dir)

    def run(self, name: AttackName, knowledge: Knowledge, **options) -> Made:
        """Runs an attack with limited or perfect knowledge.

        In a ball, it skips the images with which PGD can't fool even the victim alone, because
        evading the detector too is harder.
        """
        rows = None if name == "CW-l2" else np.flatnonzero(self.bare(options["eps"]).success)
        detector = self.known[knowledge]
        return attacks.run(
            self.config, name, self.victim, detector, self.targets, rows=rows, **options
        )

    def bare(self, eps: float) -> Made:
        """Runs zero-knowledge PGD."""
        return attacks.run(self.config, "PGD", self.victim, None, self.targets, eps=eps)


def lay(
    config: Config, base: cmag_config.Config, name: DetectorName, data: Dataset, victim: Victim
) -> Siege:
    """Fits a system and the attacker's surrogate, and returns the setup of the attacks."""

    def fitted(seed: int) -> detectors.FittedDetector:
        return detectors.fit(
            name, base.of_system(name), data, victim, seed=seed, cache_dir=config.cache_dir
        )

    system = fitted(config.seed)
    # A slow detector is calibrated on the few images of tables 3-7; cheap surrogates on all.
    held_out = data.samples(base.most(system), seed=config.seed).validation
    detector = attacked_detector.true(system, held_out, config.cache_dir)
    own_seed = (config.seed + OWN_SEED) % 2**32
    own = attacked_detector.copy(fitted(own_seed), data.validation, config)
    count = config.slow_images if system.module.SLOW else config.images
    targets = attack_runs.choose(victim, data.test, count, seed=config.seed)
    perfect = attacked_detector.differentiable(detector, data.validation, config)
    known: dict[Knowledge, Detector] = {"limited": own, "perfect": perfect}
    return Siege(config, name, victim, targets, detector, known)


def rows(siege: Siege, base: cmag_config.Config) -> Iterator[Row]:
    """Yields all rows of a system."""
    yield from zero(siege, base)
    yield from informed(siege, "limited")
    yield from informed(siege, "perfect")
    yield from over_steps(siege)
    yield from over_distortion(siege)


def zero(siege: Siege, base: cmag_config.Config) -> Iterator[Row]:
    """Yields the success of zero-knowledge attacks."""
    config, targets = siege.config, siege.targets
    made: dict[tuple[str, float], np.ndarray] = {}
    for eps in config.eps:
        made["PGD", eps] = siege.bare(eps).images
    options = tuple(dataclasses.asdict(base.cw).items())
    for confidence in config.confidence:
        attacked = attack_runs.attack(
            AttackSpec("CW-l2", confidence, options), siege.victim, targets,
            chunk=config.batch, seed=config.seed, cache_dir=config.cache_dir,
        )  # fmt: skip
        made["CW-l2", confidence] = attacked.images
    for (name, strength), images in made.items():
        fooled = predict(siege.victim, images) != targets.labels
        at = ("extra/adaptive", f"{name}, zero", strength)
        for metric, fpr in FPRS.items():
            yield siege.row(*at, metric, siege.evaded(images, fpr))
        yield siege.row(*at, "attack_success_rate", fooled)  # without a detector


def informed(siege: Siege, knowledge: Knowledge) -> Iterator[Row]:
    """Yields the success of attacks with the detector or a surrogate.

    "best of them" counts the images that any attack evades with. More knowledge includes less, and
    a larger ball includes a smaller one.
    """
    table = "extra/adaptive"
    best = {metric: np.zeros(len(siege.targets), bool) for metric in FPRS}
    for eps in siege.config.eps:
        for metric, fpr in FPRS.items():
            best[metric] |= siege.evaded(siege.bare(eps).images, fpr)
        for name in IN_A_BALL:
            for known in AS_MUCH[knowledge]:
                evaded = _evaded(siege, name, known, eps=eps)
                for metric in FPRS:
                    best[metric] |= evaded[metric]
                    if known == knowledge:
                        yield siege.row(table, f"{name}, {known}", eps, metric, evaded[metric])
        for metric in FPRS:
            yield siege.row(table, f"best of them, {knowledge}", eps, metric, best[metric])
    evaded = _evaded(siege, "CW-l2", knowledge)
    for metric in FPRS:
        yield siege.row(table, f"CW-l2, {knowledge}", None, metric, evaded[metric])
    distances = siege.run("CW-l2", knowledge).distance[evaded["SR@5"]]
    if len(distances):
        median = np.full(len(distances), np.median(distances))
        yield siege.row(table, f"CW-l2, {knowledge}", None, "median_l2", median)


def _evaded(siege: Siege, name: AttackName, knowledge: Knowledge, **options) -> dict:
    """Returns metric -> (N,) bool.

    An image that passes a detector at 5% also passes it at 1%. Images made against the stricter
    detector therefore count for both.
    """
    found, images = {}, []
    for metric, fpr in FPRS.items():
        images.append(siege.run(name, knowledge, fpr=fpr, **options).images)
        found[metric] = np.any([siege.evaded(each, fpr) for each in images], axis=0)
    return found


def over_steps(siege: Siege) -> Iterator[Row]:
    """Yields SR@5 with perfect knowledge, by the number of steps."""
    eps, fpr = siege.config.middle_eps, FPRS["SR@5"]
    balls: dict[AttackName, dict] = {"selective PGD": {"eps": eps}, "CW-l2": {}}
    counts = sorted({max(round(share * siege.config.steps), 1) for share in STEPS_SHARES})
    for name, ball in balls.items():
        for count in counts:
            evaded = siege.evaded(siege.run(name, "perfect", steps=count, **ball).images, fpr)
            title = f"{name}, {count} steps"
            yield siege.row("extra/adaptive/steps", title, ball.get("eps"), "SR@5", evaded)


def over_distortion(siege: Siege) -> Iterator[Row]:
    """Yields SR@5 with perfect knowledge, by the allowed distortion of an image.

    In l-infinity: by APGD and selective PGD. An image that evades within a ball evades within all
    larger ones. In l2: by the nearest evading image of CW and of these attacks.
    """
    table, fpr = "extra/adaptive/distortion", FPRS["SR@5"]
    nearest = np.full(len(siege.targets), np.inf)  # l2 distance of the nearest evading image

    def look(images: np.ndarray) -> None:
        lengths = np.linalg.norm((images - siege.targets.images).reshape(len(images), -1), axis=1)
        np.minimum(nearest, lengths, out=nearest, where=siege.evaded(images, fpr))

    for eps in siege.config.wide_eps:
        for name in ("APGD", "selective PGD"):
            look(siege.run(name, "perfect", eps=eps).images)
        evaded = np.isfinite(nearest)
        yield siege.row(table, "linf", eps, "SR@5", evaded)
        if evaded.all():
            break
    look(siege.run("CW-l2", "perfect").images)
    for budget in BUDGETS:
        within = nearest <= budget
        yield siege.row(table, "l2", budget, "SR@5", within)
        if within.sum() == np.isfinite(nearest).sum():
            break


def pictures(siege: Siege, count: int) -> dict[str, np.ndarray]:
    """Returns clean images and the images that evade at 5% FPR; grey where none does."""
    columns = {"clean": siege.targets.images}
    runs = {f"PGD {eps:g}": ("selective PGD", eps) for eps in siege.config.eps}
    names: dict[str, tuple[AttackName, float]] = {**runs, "CW-l2": ("CW-l2", 0.0)}  # type: ignore
    for title, (name, eps) in names.items():
        images = siege.run(name, "perfect", eps=eps).images
        evaded = siege.evaded(images, FPRS["SR@5"])
        columns[title] = np.where(evaded[:, None, None, None], images, np.float32(0.5))
    return {title: images[:count] for title, images in columns.items()}
