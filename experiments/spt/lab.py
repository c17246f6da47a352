"""What the tables share: the data, the trained networks, and cached attacks."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import spt_jax
from experiments import datasets, victims
from experiments.runtime import cache, progress
from experiments.runtime.batching import Arrays, map_batches
from experiments.runtime.results import Row
from experiments.spt import osd_encoder
from experiments.spt.attacks import Attacked, Spec, drive
from experiments.spt.config import Config
from experiments.spt.defences import Decoy, Defence
from experiments.victims import Victim
from experiments.victims.networks import AdversarialConfig, Architecture, default

# Raise it when a change of spt_jax or attacks_jax changes the attacked images.
VERSION = 1
CLASSIFIER: Architecture = "VGG"  # the paper's choice for C1 (section IV-B1)
# Adversarial training takes longer by a factor of its steps. So it gets fewer epochs, and at the
# slim width fewer and longer steps than Madry et al.'s seven of 2/255.
ADVERSARIAL = {
    "full": {"adversarial": AdversarialConfig(), "epochs": 10},
    "slim": {"adversarial": AdversarialConfig(step_size=5 / 255, num_steps=2), "epochs": 4},
}
PRINTED = (None, None, 10, 35.0, 5)  # the tables' own steps and step size, then t, T, S
LABELS = {"Ts": "true", "Td": "replaced"}  # table III


@dataclass(frozen=True)
class Measured:
    """A table's results."""

    rows: list[Row]
    figures: dict[str, Path] = field(default_factory=dict)  # caption -> PNG


class Lab:
    """A data set with its networks. Slow results are computed on first use and kept."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data = datasets.load(
            config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir
        )
        # Misclassified images are attacked too: the paper's rates are over all images.
        random = np.random.default_rng(config.seed)
        self.split = datasets.sample(self.data.test, config.images, random)

    @property
    def dataset(self) -> str:
        return self.data.name

    def paper(self, value: float | None) -> float | None:
        """Returns the paper's value if the run has CIFAR-10 and the paper's settings, else None."""
        config = self.config
        given = (
            config.steps,
            config.step_size,
            config.length,
            config.threshold_db,
            config.patience,
        )
        return value if self.dataset == "cifar10" and given == PRINTED else None

    def sizes(self, *tables: float) -> tuple[float, ...]:
        """Returns the command line's step size, or else the table's step sizes."""
        return (self.config.step_size,) if self.config.step_size else tables

    def network(self, name: str, *, labels: str = "true", adversarial: bool = False) -> Victim:
        """Returns a trained network of table II."""
        settings: dict[str, Any] = ADVERSARIAL[self.config.width] if adversarial else {}
        return self._trained(name, self.config.seed, labels=labels, **settings)

    def decoy(self, decoy: Decoy) -> Victim:
        """Returns the second classifier, trained as in table III."""
        if decoy.training == "T-":
            seed = (1000 + 100 * self.config.seed + decoy.seed) % 2**32
            return self._trained(decoy.network, seed, epochs=0)
        return self.network(decoy.network, labels=LABELS[decoy.training])

    @functools.cache  # noqa: B019 (a lab lives as long as its program)
    def _trained(self, name: Any, seed: int, **changes: Any) -> Victim:
        config = replace(default(name, self.dataset, self.config.width), **changes)
        return victims.get(self.data, config, seed=seed, cache_dir=self.config.cache_dir)

    def untrained(self, network: str) -> list[Decoy]:
        """Returns the untrained decoys whose mean is T-."""
        return [Decoy(network, "T-", seed) for seed in range(self.config.untrained_seeds)]

    def buffer(self, decoy: Decoy, **options: Any) -> Defence:
        """Returns SPT's buffer with the command line's settings, replaced by `options`."""
        given = {
            "length": self.config.length,
            "threshold_db": self.config.threshold_db,
            "patience": self.config.patience,
        }
        return Defence("buffer", decoy, tuple(sorted((given | options).items())))

    @functools.cached_property
    def encoder(self) -> Any:
        """OSD's trained encoder."""
        config = self.config
        return osd_encoder.get(self.data, seed=config.seed, cache_dir=config.cache_dir)

    @functools.cached_property
    def osd_threshold(self) -> float:
        """OSD's threshold: 0.1% of held-out images are nearer to the others. OSD's paper uses
        training images, but the encoder has fitted those."""
        encodings = victims.batched(self.encoder, self.data.validation.images[:2000])
        return float(spt_jax.osd_threshold(jnp.asarray(encodings)))

    def key(self, defence: Defence, classifier: Victim, **determines: Any) -> str:
        """Returns a cache key of all that an attack on a system depends on."""
        if defence.kind == "osd":
            determines["encoder"] = osd_encoder.VERSION
        return cache.key(
            defence=defence,
            victim=classifier.key,
            decoy=self.decoy(defence.decoy).key if defence.decoy else "",
            seed=self.config.seed,
            version=VERSION,
            **determines,
        )

    def system(self, defence: Defence, classifier: Victim | None = None) -> spt_jax.System:
        encode = self.encoder if defence.kind == "osd" else None
        decoy = self.decoy(defence.decoy) if defence.decoy else None
        return defence.make(classifier or self.network(CLASSIFIER), decoy, encode)

    def spec(self, name: Any, steps: int, step_size: float, **options: Any) -> Spec:
        """Returns an attack with the table's settings, or the command line's if given."""
        config = self.config
        return Spec(name, config.steps or steps, config.step_size or step_size, **options)

    def attacked(
        self,
        spec: Spec,
        defence: Defence,
        *,
        classifier: Victim | None = None,
        images: int | None = None,
    ) -> Attacked:
        """Attacks the images chunk by chunk, or reads the results from the cache.

        The number of images is rounded down to whole groups of images that take turns.
        """
        victim = classifier or self.network(CLASSIFIER)
        count = min(images or len(self.split), len(self.split)) // spec.turns * spec.turns
        if count == 0:
            raise datasets.DataError(
                f"expected at least {spec.turns} images, that take turns, got {len(self.split)}"
            )
        chunk = max(min(self.config.chunk, count) // spec.turns, 1) * spec.turns
        digest = cache.digest(self.split.images[:count], self.split.labels[:count])
        key = self.key(defence, victim, spec=spec, images=digest, chunk=chunk)
        # One key per image, so that an evasion's random draws do not depend on the chunk.
        keys = jax.random.split(jax.random.key(self.config.seed), count)
        folder = self.config.cache_dir / f"spt-{self.dataset}-{spec.name}-{key}"
        title = f"{spec.title} {spec.step_size:g} on {defence.kind}"
        system = self.system(defence, victim)

        def attack(rows: np.ndarray) -> Arrays:
            images, labels = self.split.images[rows], self.split.labels[rows]
            return drive(spec, system, images, labels, keys=keys[rows])

        with progress.bar(count, title, "images") as bar:
            found = map_batches(
                attack, count, chunk, axes=dict.fromkeys(BY_QUERY, 1),
                file=lambda begin: folder / f"{begin:06d}.npz", on_batch=bar.update,
            )  # fmt: skip
        return Attacked(**found)

    def truth(self, attacked: Attacked) -> np.ndarray:
        """Returns the true labels of the attacked images."""
        return self.split.labels[: len(attacked.images)]

    def row(
        self, table: str, system: str, spec: Spec, metric: str, value: float, n: int,
        paper: float | None = None,
    ) -> Row:  # fmt: skip
        return Row(
            table, self.dataset, system, spec.title, spec.step_size, metric, float(value), n,
            self.paper(paper),
        )  # fmt: skip

    def plain_row(
        self, table: str, system: str, attack: str, metric: str, value: float, n: int,
        paper: float | None = None,
    ) -> Row:  # fmt: skip
        """Returns a row without an attack strength: clean images ("none"), a stream, an evasion."""
        return Row(
            table, self.dataset, system, attack, None, metric, float(value), n, self.paper(paper)
        )

    def rate(self, labels: np.ndarray, truth: np.ndarray, spec: Spec) -> float:
        """Returns the tables' rate, over all images: the accuracy under an untargeted attack, or
        the share classified as the target under a targeted one."""
        wanted = truth if spec.target is None else spec.target
        return float(np.mean(labels == wanted))


BY_QUERY = ("told_all", "deceived")  # arrays whose second axis is the images


def metric(spec: Spec) -> str:
    """Returns the metric name of `Lab.rate`."""
    return "accuracy_all" if spec.target is None else "attack_success_rate_all"


def deceive_rate(cs: float, os: float) -> float | None:
    """Returns |1 - Acc(CS) / Acc(OS)| (SPT, eq. 3), or None if Acc(OS) is 0."""
    return abs(1 - cs / os) if os else None


def mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
