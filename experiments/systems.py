"""The detectors of tables 3-7 under one roof: what each is, how it is fitted, and what it says."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from cmag_jax import cmag, defense_gan, feature_squeezing, magnet
from experiments import cache, progress
from experiments.datasets import Dataset
from experiments.victims import Victim

# Raise it when a change of cmag_jax makes detectors fitted before it another thing.
VERSION = 3
# Raise it when a change of cmag_jax makes the scores of a fitted detector others.
SCORES_VERSION = 2

SystemName = Literal["CMAG", "CMAG+", "MagNet", "Defense-GAN", "feature squeezing"]
NAMES: tuple[SystemName, ...] = get_args(SystemName)
Choice = SystemName | Literal["all"]  # on a command line
MODULES: dict[SystemName, ModuleType] = {
    "CMAG": cmag,
    "CMAG+": cmag,
    "MagNet": magnet,
    "Defense-GAN": defense_gan,
    "feature squeezing": feature_squeezing,
}
SCORE_BATCH = 500  # images scored at a time: no result depends on it

Scores = dict[str, np.ndarray]  # score -> (N,)
Thresholds = dict[str, float]  # score -> its threshold


@dataclass(frozen=True)
class System:
    """A fitted detector over its victim."""

    name: SystemName
    config: Any
    params: Any
    victim: Victim
    losses: dict[str, np.ndarray]  # module -> mean loss by epoch
    key: str  # what determines it, as a cache key

    @property
    def score(self) -> Partial:
        """images (B, H, W, C) -> {score: (B,)}: pure, jitted, weights bound to it."""
        return Partial(MODULES[self.name].score, self.victim.features_and_logits, self.params)

    def rebuild(self, images: np.ndarray) -> np.ndarray | None:
        """What figure 3 shows: the detector's own reconstruction (N, H, W, C), if it has one."""
        if self.name in ("CMAG", "CMAG+"):
            seen = cmag.reconstruct(self.victim.features_and_logits, self.params, images)
            return np.asarray(seen.gr)
        if self.name == "MagNet":
            return np.asarray(magnet.reform(self.params, images))
        if self.name == "Defense-GAN":
            return np.asarray(defense_gan.reconstruct(self.params, images))
        return None

    def by_its_paper(self, training: Scores | None, held_out: Scores) -> Thresholds:
        """Thresholds by the rule of the system's own paper. CMAG's is its algorithm 2, on the
        training images; Defense-GAN, whose paper has none, gets it too, on held-out ones."""
        if self.name == "MagNet":  # a drop rate of every detector: MNIST's and CIFAR-10's
            grey = self.params.image_shape[-1] == 1
            return magnet.calibrate(held_out, drop_rate=0.001 if grey else 0.005)
        if self.name == "feature squeezing":
            return feature_squeezing.calibrate(held_out, fpr=0.05)  # section V
        clean = held_out if training is None else training
        return cmag.calibrate(clean, rule="worst-training-example")

    @property
    def slow(self) -> bool:
        """Whether a score is a search of thousands of gradient steps."""
        return self.name == "Defense-GAN"

    @property
    def looks_at_training_images(self) -> bool:
        """Whether its paper's rule does."""
        return self.name in ("CMAG", "CMAG+")


def fit(
    name: SystemName,
    config: Any,
    data: Dataset,
    victim: Victim,
    *,
    seed: int,
    cache_dir: Path,
    given: dict[str, Any] | None = None,
) -> System:
    """The system fitted to the training images (where a module wants held-out ones, to those that
    it will be calibrated on). Each module is kept in the cache once it is trained, so that an
    interrupted fit goes on with the next one; those that are `given` are taken as they are."""
    module = MODULES[name]
    given = given or {}
    key = cache.key(
        system=name,
        config=config,
        victim=victim.key,
        seed=seed,
        given={part: cache.digest_of_tree(tree) for part, tree in given.items()},
        version=VERSION,
    )
    random = jax.random.fold_in(jax.random.key(seed), 1)  # the victim's is the key itself
    network, images = victim.features_and_logits, jnp.asarray(data.train.images)
    params = module.init(random, network, images[:1], config)
    params = dataclasses.replace(params, **given)
    losses: dict[str, np.ndarray] = {}
    for part in getattr(module, "MODULES", ()):
        if part in given:
            continue
        path = cache_dir / f"{slug(name)}-{data.name}-{key}-{part}.npz"
        leaves, structure = jax.tree.flatten(getattr(params, part))

        def compute(part=part, params=params):
            held_out = part in getattr(module, "FROM_HELD_OUT", ())
            seen = jnp.asarray(data.validation.images) if held_out else images
            with _bar(f"{name} {part}") as on_epoch:
                fitted, curves = module.fit_module(
                    part, random, network, params, seen, on_epoch=on_epoch
                )
            leaves = jax.tree.leaves(getattr(fitted, part))
            curves = curves._asdict() if hasattr(curves, "_asdict") else {part: curves}
            found = {f"weight {i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
            return found | {f"loss {of}": curve for of, curve in curves.items()}

        stored = cache.arrays(path, compute)
        weights = [jnp.asarray(stored[f"weight {i}"]) for i in range(len(leaves))]
        params = dataclasses.replace(params, **{part: jax.tree.unflatten(structure, weights)})
        losses |= {
            of.removeprefix("loss "): curve
            for of, curve in stored.items()
            if of.startswith("loss ") and len(curve)
        }
    return System(name, config, params, victim, losses, key)


def score_all(system: System, images: np.ndarray, cache_dir: Path | None = None) -> Scores:
    """The scores of any number of images, a batch at a time; with a cache, only once."""
    if cache_dir is None:
        return _score_all(system, images)
    key = cache.key(system=system.key, images=cache.digest(images), version=SCORES_VERSION)
    path = cache_dir / f"scores-{slug(system.name)}-{key}.npz"
    return cache.arrays(path, lambda: _score_all(system, images))


def _score_all(system: System, images: np.ndarray) -> Scores:
    score, parts = system.score, []
    starts = range(0, max(len(images), 1), SCORE_BATCH)
    for start in progress.over(starts, f"{system.name} scores") if system.slow else starts:
        part = images[start : start + SCORE_BATCH]
        # Filled up with blanks to one shape, so that scoring compiles once.
        size = max(len(part), 1) if system.slow else SCORE_BATCH
        blanks = np.zeros((size - len(part), *images.shape[1:]), np.float32)
        scores = score(np.concatenate([part, blanks]))
        parts.append({name: np.asarray(values)[: len(part)] for name, values in scores.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Any]:
    """`on_epoch` under a progress bar, which learns from it how many epochs there are."""
    with progress.bar(0, f"fit {title}", "epochs") as bar:

        def on_epoch(_name: str, _epoch: int, epochs: int, loss: float) -> None:
            bar.total = epochs
            bar.set_postfix(loss=f"{loss:.4f}")
            bar.update()

        yield on_epoch


def chosen(choices: tuple[Choice, ...]) -> tuple[SystemName, ...]:
    """The systems' names, in the tables' order."""
    return tuple(name for name in NAMES if name in choices or "all" in choices)


def slug(name: str) -> str:
    """The name as files have it."""
    return name.lower().replace(" ", "-")
