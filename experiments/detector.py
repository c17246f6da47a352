"""A fitted CMAG on disk: everything that scoring an image needs, victim included."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from cmag_jax import CMAGConfig, CMAGParams, cmag
from experiments import cache, checkpoints, results, victims

Thresholds = dict[str, dict[str, float]]  # rule ("fpr=0.05", "paper") -> score -> threshold


class Detector(NamedTuple):
    victim: Partial  # images (B, H, W, C) -> (feature maps, logits)
    params: CMAGParams
    thresholds: Thresholds


def save(
    folder: Path,
    victim: victims.Victim,
    victim_config: victims.VictimConfig,
    classes: int,
    params: CMAGParams,
    thresholds: Thresholds,
) -> None:
    """Writes the detector into `folder`, whole or not at all."""
    kinds = {  # what rebuilds the networks
        "classes": classes,
        "image_shape": params.image_shape,
        "victim": victim_config,
        "cmag": params.config,
    }
    weights = {"victim": victim.params, "fmr": params.fmr, "lr": params.lr, "gr": params.gr}

    def write(temporary: Path) -> None:
        checkpoints.save(temporary / "weights", weights)
        results.write_json(temporary / "networks.json", kinds)
        results.write_json(temporary / "thresholds.json", thresholds)

    cache.write_atomically(folder, write)


def load(run: Path | str) -> Detector:
    """The detector that `python -m experiments.cmag` left in a run folder.

        victim, params, thresholds = detector.load("runs/cmag-digits-quick-seed0")
        score = jax.jit(partial(cmag.score, victim, params))
        flags = cmag.detect(score(images), thresholds["fpr=0.05"])

    Raises:
      FileNotFoundError: the folder holds no detector.
    """
    folder = Path(run) / "detector"
    if not folder.is_dir():
        raise FileNotFoundError(f"{run} holds no detector/; python -m experiments.cmag writes one")
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
    trees = {"fmr": params_shape.fmr, "lr": params_shape.lr, "gr": params_shape.gr}
    weights = checkpoints.load(folder / "weights", {"victim": victim_shape, **trees})
    victim = victims.bind(network, weights.pop("victim"), key="")
    params = dataclasses.replace(params_shape, **weights)
    thresholds = json.loads((folder / "thresholds.json").read_text())
    return Detector(victim.features_and_logits, params, thresholds)
