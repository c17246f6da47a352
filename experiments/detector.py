"""Fitted cascades on disk: everything that scoring an image needs, victim included."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cmag_jax import CMAGConfig, CMAGParams, cmag
from experiments import cache, checkpoints, results, victims
from experiments.datasets import Dataset
from experiments.systems import System, SystemName

Thresholds = dict[str, dict[str, float]]  # rule ("fpr=0.05", "paper") -> score -> threshold
SAVED: tuple[SystemName, ...] = (
    "CMAG",
    "CMAG+",
)  # the systems that a run leaves, each in a folder of its name


class Detector(NamedTuple):
    victim: Partial  # images (B, H, W, C) -> (feature maps, logits)
    params: CMAGParams
    thresholds: Thresholds


def save(
    run: Path,
    system: System,
    victim_config: victims.VictimConfig,
    data: Dataset,
    thresholds: Thresholds,
) -> None:
    """Writes the detector into the run folder, whole or not at all."""
    params = system.params
    kinds = {  # what rebuilds the networks
        "classes": data.classes,
        "image_shape": params.image_shape,
        "victim": victim_config,
        "cmag": params.config,
    }
    weights = {"victim": system.victim.params, **_trees(params)}

    def write(temporary: Path) -> None:
        checkpoints.save(temporary / "weights", weights)
        results.write_json(temporary / "networks.json", kinds)
        results.write_json(temporary / "thresholds.json", thresholds)

    cache.write_atomically(run / "detectors" / system.name, write)


def load(run: Path | str, system: str = "CMAG+") -> Detector:
    """A detector that `python -m experiments.cmag` left in a run folder.

        victim, params, thresholds = detector.load("runs/cmag-digits-quick-seed0")
        score = jax.jit(partial(cmag.score, victim, params))
        flags = cmag.detect(score(images), thresholds["fpr=0.05"])

    Raises:
      FileNotFoundError: the folder holds no such detector.
    """
    folder = Path(run) / "detectors" / system
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{run} holds no detectors/{system}; python -m experiments.cmag writes it"
        )
    kinds = json.loads((folder / "networks.json").read_text())
    shape = tuple(kinds["image_shape"])
    victim_config = victims.VictimConfig(
        **kinds["victim"] | {"channels": tuple(kinds["victim"]["channels"])}
    )
    network = victims.make_cnn(kinds["classes"], victim_config)
    image = jnp.zeros((1, *shape))

    def start(key):
        weights = network.init(key, image)
        untrained = cmag.init(
            key, Partial(network.apply, weights), image, CMAGConfig(**kinds["cmag"])
        )
        return weights, untrained

    victim_shape, params_shape = jax.eval_shape(start, jax.random.key(0))
    like = {"victim": victim_shape, **_trees(params_shape)}
    weights = checkpoints.load(folder / "weights", like)
    victim = victims.bind(network, weights.pop("victim"), key="")
    params = dataclasses.replace(params_shape, **weights)
    thresholds = json.loads((folder / "thresholds.json").read_text())
    return Detector(victim.features_and_logits, params, thresholds)


def _trees(params: CMAGParams) -> dict:
    trees = {name: getattr(params, name) for name in cmag.MODULES}
    return {name: tree for name, tree in trees.items() if tree is not None}
