"""SPT's table IX: the comparator and AMI against six attacks on a face classifier.

The paper compares faces with the `face_recognition` project, a network that is independent of the
classifier. Here "comparator" uses the embedding of Classifier3, the fallback: another architecture,
trained from another seed, but on the same faces. "comparator (own embedding)" uses the attacked
classifier's own embedding. An attack moves that embedding together with the label. The attacks that
it misses show the cost of having no second network.

The thresholds are calibrated on the validation images, which neither network was trained on. A
share `fpr` of the correctly classified ones is less similar to its standard image than the
threshold. Training images are unsuitable: the networks have fitted them, so they are too similar to
their standard images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import jax
import numpy as np
from jax.tree_util import Partial

import attacks_jax
import spt_jax
from experiments import datasets, victims
from experiments.datasets import Split
from experiments.pipeline import attack_runs
from experiments.pipeline.attack_runs import Attacked, AttackSpec
from experiments.runtime import cache, checks
from experiments.runtime.batching import map_images
from experiments.runtime.results import Row
from experiments.spt import ami, face_figures
from experiments.spt.ami import AMIConfig
from experiments.victims import Architecture, NetworkConfig, Victim

AttackName = Literal["Patch", "CW-l0", "CW-linf", "CW-l2", "FGSM", "BIM"]
TABLE, EXTRA = "spt/IX", "extra/spt/faces"
# Table IX, as printed.
PAPER = {
    "AMI": {
        "Patch": 0.97, "CW-l0": 0.91, "CW-linf": 0.99, "CW-l2": 0.97, "FGSM": 0.91, "BIM": 0.90,
    },
    "comparator": {
        "Patch": 1.0, "CW-l0": 0.99, "CW-linf": 1.0, "CW-l2": 1.0, "FGSM": 1.0, "BIM": 1.0,
    },
}  # fmt: skip
COMPARATORS = ("comparator", "comparator (own embedding)")
# The norm of each attack's mean distance, which names the metric.
NORMS = {
    "Patch": "l0", "CW-l0": "l0", "CW-linf": "linf", "CW-l2": "l2", "FGSM": "linf", "BIM": "linf",
}  # fmt: skip
# Raise it when a change of attacks_jax changes the fitted patches.
PATCH_VERSION = 1


@dataclass(frozen=True)
class FacesConfig:
    """All settings that determine table IX, except the seed.

    The paper gives no attack strengths. These attacks succeed on most images and are hardly
    visible, except the patch.
    """

    dataset: Literal["orl_faces", "vggface2"] = "orl_faces"
    face_size: tuple[int, int] = (56, 46)  # height and width that faces are scaled to
    classifier: Literal["VGG", "LeNet", "C4", "C4_WO_BN"] = "VGG"  # AMI needs no branches
    fallback: Architecture = "ResNet"  # Classifier3
    width: Literal["slim", "full"] = "slim"
    epochs: int = 40
    batch_size: int = 32
    attacks: tuple[AttackName, ...] = get_args(AttackName)
    images_per_class: int = 1  # test images attacked; section IV-C
    fpr: float = 0.05  # the comparators' false-positive rate on their calibration images
    fgsm_eps: float = 0.05
    bim_eps: float = 0.02
    bim_steps: int = 20
    cw_confidence: float = 0.0
    cw_steps: int = 200  # steps per round of CW-l2; CW-l0 and CW-linf take half as many
    cw_rounds: int = 300  # maximum rounds of CW-l0 and CW-linf
    patch_size: int = 16  # diameter in pixels
    patch_steps: int = 300
    attack_batch: int = 20  # images attacked at a time; does not change results
    ami: AMIConfig = field(default_factory=AMIConfig)

    def __post_init__(self) -> None:
        if min(self.face_size) < 1:
            raise ValueError(f"expected face_size of at least 1 1, got {self.face_size}")
        checks.counts(self, "images_per_class", "attack_batch", "epochs", "batch_size")
        checks.counts(self, "cw_steps", "cw_rounds", "patch_size", "patch_steps", "bim_steps")
        checks.some(self, "attacks")
        checks.above_zero(self, "fgsm_eps", "bim_eps", most=1)
        if self.patch_size > min(self.face_size):
            raise ValueError(
                f"expected patch_size of at most {min(self.face_size)}, a side of face_size,"
                f" got {self.patch_size}"
            )
        if not 0 <= self.fpr < 1:
            raise ValueError(f"expected fpr in [0, 1), got {self.fpr}")
        for spec in specs(self):
            spec.make()  # reject invalid attack options before anything is trained

    @classmethod
    def quick(cls) -> "FacesConfig":
        """Returns settings for the ORL faces: minutes on a CPU."""
        return cls()

    @classmethod
    def paper(cls) -> "FacesConfig":
        """Returns settings for VGG-Face2 and networks of the papers' widths: needs a GPU."""
        return cls(
            dataset="vggface2", face_size=(224, 224), width="full", batch_size=128,
            cw_steps=1000, cw_rounds=1000, patch_size=64, patch_steps=1000, ami=AMIConfig(pairs=30),
        )  # fmt: skip

    def network(self, architecture: Architecture) -> NetworkConfig:
        return NetworkConfig(
            architecture, self.width, epochs=self.epochs, batch_size=self.batch_size,
            max_shift=3, flip=True,
        )  # fmt: skip


@dataclass(frozen=True)
class FaceAttack(AttackSpec):
    """An attack of table IX. Its strength is eps, a confidence or the size of a patch."""

    def make(self) -> attacks_jax.Attack:
        makers: dict[str, tuple[Callable[..., attacks_jax.Attack], str]] = {
            "Patch": (attacks_jax.patch, "size"),
            "CW-l0": (attacks_jax.carlini_wagner_l0, "confidence"),
            "CW-linf": (attacks_jax.carlini_wagner_linf, "confidence"),
            "CW-l2": (attacks_jax.carlini_wagner_l2, "confidence"),
            "FGSM": (attacks_jax.fgsm, "eps"),
            "BIM": (attacks_jax.bim, "eps"),
        }
        maker, strength = makers[self.name]
        return maker(**{strength: self.strength}, **dict(self.options))


def specs(config: FacesConfig) -> list[FaceAttack]:
    """Returns the attacks of table IX, in its order. All are untargeted."""
    half = max(1, config.cw_steps // 2)
    rounds: dict[str, float | int] = {"num_steps": half, "max_rounds": config.cw_rounds}
    options: dict[str, tuple[float, dict[str, float | int]]] = {
        "Patch": (config.patch_size, {"num_steps": config.patch_steps}),
        "CW-l0": (config.cw_confidence, rounds | {"step_size": 0.05, "initial_const": 0.1}),
        "CW-linf": (config.cw_confidence, rounds | {"step_size": 0.02, "initial_const": 0.01}),
        "CW-l2": (
            config.cw_confidence,
            {"num_steps": config.cw_steps, "step_size": 0.05, "initial_const": 1.0}
            | {"binary_search_steps": 5},
        ),
        "FGSM": (config.fgsm_eps, {}),
        "BIM": (
            config.bim_eps,
            {"step_size": config.bim_eps / 8, "num_steps": config.bim_steps},
        ),
    }
    return [
        FaceAttack(name, strength, tuple(given.items()))
        for name, (strength, given) in options.items()
        if name in config.attacks
    ]


def measure(
    config: FacesConfig,
    folder: Path,
    *,
    seed: int,
    cache_dir: Path,
    data_dir: Path | None = None,
    manual_dir: Path | None = None,
) -> tuple[list[Row], dict[str, Path]]:
    """Returns the rows of table IX and its figures (caption -> PNG in folder/figures).

    Trained networks and attacked images are cached.
    """
    data = datasets.load(
        config.dataset, data_dir=data_dir, manual_dir=manual_dir, face_size=config.face_size
    )
    victim, fallback = (
        victims.get(
            data, config.network(architecture), seed=(seed + i) % 2**32, cache_dir=cache_dir
        )
        for i, architecture in enumerate((config.classifier, config.fallback))
    )
    standards = choose_standards(victim, data.train)
    calibration, test = (right(victim, split) for split in (data.validation, data.test))
    systems, limits = {}, {}
    for name, embedder in zip(COMPARATORS, (fallback, victim), strict=True):
        systems[name], limits[name] = calibrated(
            victim, fallback, embedder, standards, calibration, config
        )
    steered = ami.fit(victim.logits, standards, config.ami)
    chosen = per_class(test, config.images_per_class, np.random.default_rng(seed))
    attacked = {
        spec: attack(spec, config, victim, data.train, chosen, seed=seed, cache_dir=cache_dir)
        for spec in specs(config)
    }

    def row(system, metric, value, n, spec=None, table=EXTRA, paper=None):
        name, strength = (spec.name, float(spec.strength)) if spec else ("none", None)
        return Row(table, data.name, system, name, strength, metric, float(value), n, paper)

    rows = [
        row(name, "accuracy", victims.accuracy(network, data.test), len(data.test))
        for name, network in (("Classifier1", victim), ("Classifier3", fallback))
    ]
    for name, flags in judge(systems, steered, test.images, config).items():
        rows.append(row(name, "fpr", flags.mean(), len(test), table=TABLE))
    for name, limit in limits.items():
        rows.append(row(name, "threshold", limit, len(calibration)))
    witnesses = sum(int(layer.sum()) for layer in steered.witnesses)
    rows.append(row("AMI", "witnesses", witnesses, config.ami.pairs))
    for spec, made in attacked.items():
        won, tried = made.success, len(made.success)
        rows.append(row("Classifier1", "attack_success_rate", won.mean(), tried, spec))
        if won.any():
            n, norm = int(won.sum()), f"mean_{NORMS[spec.name]}"
            rows.append(row("Classifier1", norm, made.distance[won].mean(), n, spec))
            spared = victims.predict(fallback, made.adversarial) == made.labels[won]
            rows.append(row("Classifier3", "accuracy", spared.mean(), n, spec))
            for name, flags in judge(systems, steered, made.images, config).items():
                paper = PAPER.get(name, {}).get(spec.name)
                rows.append(row(name, "detection_rate", flags[won].mean(), n, spec, TABLE, paper))
    pictures = face_figures.galleries(folder / "figures", attacked, victim, standards)
    path = folder / "figures" / "faces-similarities.png"
    groups = {"clean": test.images}
    groups |= {spec.name: made.adversarial for spec, made in attacked.items() if made.success.any()}
    found = {
        name: {group: similarities(system, x, config.attack_batch) for group, x in groups.items()}
        for name, system in systems.items()
    }
    face_figures.histograms(path, found, limits)
    return rows, pictures | {"How alike images and the standards of their labels are": path}


def right(victim: Victim, split: Split) -> Split:
    """Returns the images that the victim classifies correctly.

    Raises:
      ValueError: there are none.
    """
    rows = victims.predict(victim, split.images) == split.labels
    if not rows.any():
        raise ValueError(
            f"expected faces that the classifier recognises, got none of {len(split)}:"
            " train it for more epochs"
        )
    return Split(split.images[rows], split.labels[rows])


def per_class(split: Split, count: int, rng: np.random.Generator) -> Split:
    """Returns `count` random images of each class, or all of a class that has fewer."""
    order = rng.permutation(len(split))
    rows = [order[split.labels[order] == label][:count] for label in np.unique(split.labels)]
    chosen = np.concatenate(rows)
    return Split(split.images[chosen], split.labels[chosen])


def choose_standards(victim: Victim, train: Split) -> np.ndarray:
    """Returns (K, H, W, C): the standard image of each class.

    It is the correctly classified training image with the highest confidence (section III-D;
    "manual selection and cutting" are left out). If none of the class is classified correctly, it
    is the image with the highest confidence in the class.
    """
    shares = victims.batched(Partial(_confidences, victim.logits), train.images)
    confidence = shares[np.arange(len(train)), train.labels]
    rank = confidence + (np.argmax(shares, axis=-1) == train.labels)  # correct images rank first
    of_class = [np.flatnonzero(train.labels == k) for k in range(int(train.labels.max()) + 1)]
    return np.stack([train.images[rows[np.argmax(rank[rows])]] for rows in of_class])


def calibrated(
    victim: Victim,
    fallback: Victim,
    embedder: Victim,
    standards: np.ndarray,
    calibration: Split,
    config: FacesConfig,
) -> tuple[spt_jax.System, float]:
    """Returns a comparator and its threshold, which flags a share `config.fpr` of the calibration
    images, or slightly less where their number requires it."""
    assert embedder.embed is not None  # every network of NetworkConfig has one
    similarity = spt_jax.cosine(embedder.embed)

    def make(threshold: float) -> spt_jax.System:
        return spt_jax.comparator(victim.logits, fallback.logits, standards, similarity, threshold)

    alike = np.sort(similarities(make(0.0), calibration.images, config.attack_batch))
    threshold = float(alike[int(config.fpr * len(alike))])
    return make(threshold), threshold


def similarities(system: spt_jax.System, images: np.ndarray, batch: int) -> np.ndarray:
    """Returns (N,): the similarity of each image to the standard image of its label."""
    return map_images(lambda x: np.asarray(_observe(system, x)), images, batch)


def judge(
    systems: dict[str, spt_jax.System], steered: ami.AMI, images: np.ndarray, config: FacesConfig
) -> dict[str, np.ndarray]:
    """Returns system -> (N,) bool: the images that it flags as adversarial."""

    def flagged(system):
        def ask(x):
            states = system.init_clients(len(x), x.shape[1:])
            return system.query_clients(states, x)[1].deceived

        return ask

    asked = {name: flagged(system) for name, system in systems.items()}
    asked["AMI"] = lambda x: ami.detect(steered, x, config.ami)

    def judged(ask) -> np.ndarray:
        return map_images(lambda x: np.asarray(ask(x)), images, config.attack_batch)

    return {name: judged(ask) for name, ask in asked.items()}


def attack(
    spec: FaceAttack,
    config: FacesConfig,
    victim: Victim,
    train: Split,
    split: Split,
    *,
    seed: int,
    cache_dir: Path,
) -> Attacked:
    """Attacks the split's images. The patch is fitted on training images."""
    if spec.name != "Patch":
        return attack_runs.attack(
            spec, victim, split, chunk=config.attack_batch, seed=seed, cache_dir=cache_dir
        )
    oracle = attacks_jax.stateless(victim.logits)
    fit_key, run_key = jax.random.split(jax.random.key(seed))

    def compute() -> dict[str, np.ndarray]:
        patch = attacks_jax.fit(spec.make(), oracle, fit_key, train.images, train.labels)
        result = attacks_jax.run(patch, oracle, run_key, split.images, split.labels)
        return {name: np.asarray(getattr(result, name)) for name in attack_runs.KEPT}

    arrays = (train.images, train.labels, split.images, split.labels)
    key = cache.key(
        attack=spec, victim=victim.key, images=cache.digest(*arrays), seed=seed,
        version=PATCH_VERSION,
    )  # fmt: skip
    kept = cache.arrays(cache_dir / f"attack-{spec.name}-{spec.strength:g}-{key}.npz", compute)
    return Attacked(clean=split.images, labels=split.labels, **kept)


@jax.jit
def _observe(system, images):
    return system.look(images).evidence[0]


def _confidences(logits, images):
    return jax.nn.softmax(logits(images))
