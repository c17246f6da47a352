"""One interface to the detectors of tables 3-7: fits them, scores images, sets thresholds."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from cmag_jax import cmag, defense_gan, feature_squeezing, magnet
from cmag_jax.protocol import Detector
from experiments.datasets import Dataset
from experiments.runtime import cache, progress
from experiments.runtime.batching import map_batches
from experiments.victims import Victim

# Raise it when a change of cmag_jax changes the fitted detectors.
VERSION = 3
# Raise it when a change of cmag_jax changes the scores of a fitted detector.
SCORES_VERSION = 2

DetectorName = Literal["CMAG", "CMAG+", "MagNet", "Defense-GAN", "feature squeezing"]
NAMES: tuple[DetectorName, ...] = get_args(DetectorName)
Choice = DetectorName | Literal["all"]  # on a command line
DETECTORS: dict[DetectorName, Detector] = {  # a new detector needs one line here
    "CMAG": cmag,
    "CMAG+": cmag,
    "MagNet": magnet,
    "Defense-GAN": defense_gan,
    "feature squeezing": feature_squeezing,
}
SCORE_BATCH = 500  # images per batch; no result depends on it

Scores = dict[str, np.ndarray]  # score -> (N,)
Thresholds = dict[str, float]  # score -> its threshold


@dataclass(frozen=True)
class FittedDetector:
    """A fitted detector over its victim."""

    name: DetectorName
    config: Any
    params: Any
    victim: Victim
    losses: dict[str, np.ndarray]  # module -> mean loss by epoch
    key: str  # cache key of all that determines it

    @property
    def module(self) -> Detector:
        """The module with the detector's functions."""
        return DETECTORS[self.name]

    @property
    def score(self) -> Partial:
        """The function images (B, H, W, C) -> {score: (B,)}: pure, jitted, with bound weights."""
        return Partial(self.module.score, self.victim.features_and_logits, self.params)

    def rebuild(self, images: np.ndarray) -> np.ndarray | None:
        """Returns the detector's reconstruction (N, H, W, C), as in figure 3, or None."""
        rebuilt = self.module.rebuild(self.victim.features_and_logits, self.params, images)
        return None if rebuilt is None else np.asarray(rebuilt)

    def paper_thresholds(self, training: Scores | None, held_out: Scores) -> Thresholds:
        """Returns thresholds by the rule of the detector's paper, from the scores that it uses."""
        scores = {"training": training, "held-out": held_out}[self.module.PAPER_RULE_ON]
        if scores is None:
            raise ValueError(f"expected the scores of training images for {self.name}, got none")
        return self.module.paper_thresholds(self.params, scores)

    def surrogate(self, *, search_steps: int, restarts: int) -> "FittedDetector":
        """Returns a cheaper detector for an adaptive attack, or this one if it is cheap."""
        params = self.module.surrogate(self.params, search_steps=search_steps, restarts=restarts)
        if params.config == self.params.config:
            return self
        key = cache.key(cheap=self.key, steps=search_steps, restarts=restarts)
        return dataclasses.replace(self, params=params, key=key)


def fit(
    name: DetectorName,
    config: Any,
    data: Dataset,
    victim: Victim,
    *,
    seed: int,
    cache_dir: Path,
    given: dict[str, Any] | None = None,
) -> FittedDetector:
    """Returns the system, fitted to the training images.

    Modules in FROM_HELD_OUT use the held-out images instead, which later calibrate the system. The
    cache keeps each trained module, so an interrupted fit resumes at the next one. The modules in
    `given` are used unchanged.
    """
    module = DETECTORS[name]
    given = given or {}
    key = cache.key(
        system=name,
        config=config,
        victim=victim.key,
        seed=seed,
        given={part: cache.digest_of_tree(tree) for part, tree in given.items()},
        version=VERSION,
    )
    random = jax.random.fold_in(jax.random.key(seed), 1)  # the victim uses the key itself
    network, images = victim.features_and_logits, jnp.asarray(data.train.images)
    params = module.init(random, network, images[:1], config)
    params = dataclasses.replace(params, **given)
    losses: dict[str, np.ndarray] = {}
    for part in module.MODULES:
        if part in given:
            continue
        path = cache_dir / f"{slug(name)}-{data.name}-{key}-{part}.npz"
        leaves, structure = jax.tree.flatten(getattr(params, part))

        def compute(part=part, params=params):
            held_out = part in module.FROM_HELD_OUT
            seen = jnp.asarray(data.validation.images) if held_out else images
            with _bar(f"{name} {part}") as on_epoch:
                fitted, curves = module.fit_module(
                    part, random, network, params, seen, on_epoch=on_epoch
                )
            leaves = jax.tree.leaves(getattr(fitted, part))
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
    return FittedDetector(name, config, params, victim, losses, key)


def score_all(system: FittedDetector, images: np.ndarray, cache_dir: Path | None = None) -> Scores:
    """Returns the scores of any number of images, in batches; a cache keeps them."""
    if cache_dir is None:
        return _score_all(system, images)
    key = cache.key(system=system.key, images=cache.digest(images), version=SCORES_VERSION)
    path = cache_dir / f"scores-{slug(system.name)}-{key}.npz"
    return cache.arrays(path, lambda: _score_all(system, images))


def _score_all(system: FittedDetector, images: np.ndarray) -> Scores:
    score, slow = system.score, system.module.SLOW
    if not len(images):
        return {name: np.asarray(values) for name, values in score(images).items()}

    def of_rows(rows: np.ndarray) -> Scores:
        return {name: np.asarray(values) for name, values in score(images[rows]).items()}

    size = min(SCORE_BATCH, len(images)) if slow else SCORE_BATCH
    with progress.bar(len(images), f"{system.name} scores", "images", disable=not slow) as bar:
        return map_batches(of_rows, len(images), size, on_batch=bar.update)


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Any]:
    """Yields an `on_epoch` that updates a progress bar and sets its number of epochs."""
    with progress.bar(0, f"fit {title}", "epochs") as bar:

        def on_epoch(_name: str, _epoch: int, epochs: int, loss: float) -> None:
            bar.total = epochs
            bar.set_postfix(loss=f"{loss:.4f}")
            bar.update()

        yield on_epoch


def chosen(choices: tuple[Choice, ...]) -> tuple[DetectorName, ...]:
    """Returns the names of the chosen systems, in the tables' order."""
    return tuple(name for name in NAMES if name in choices or "all" in choices)


def slug(name: str) -> str:
    """Returns the name in the form that file names use."""
    return name.lower().replace(" ", "-")
