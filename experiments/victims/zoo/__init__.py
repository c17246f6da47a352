"""Networks that are trained once and kept. `zoo/NAME.npz` has the weights as float16.
`zoo/NAME.json` has the training command, the accuracy, and the digest of the weights."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.datasets import DataError
from experiments.runtime import cache, results
from experiments.victims.adversarial import AdversarialConfig
from experiments.victims.networks import NetworkConfig
from experiments.victims.recipe import Recipe
from experiments.victims.training import Victim, bind

FOLDER = Path(__file__).parents[3] / "zoo"
CLASSES = {"cifar10": 10}

# Dense layers without batch normalisation need a lower rate, or training diverges.
_DENSE: dict[str, Any] = {"learning_rate": 0.1, "epochs": 40}
# Adversarial training needs less regularisation: no cut-out squares, no smoothed labels.
_AGAINST_ATTACKS = AdversarialConfig(eps=8 / 255, step_size=2 / 255, num_steps=10)

# Name -> (data set, training recipe).
RECIPES: dict[str, tuple[str, Recipe]] = {
    "cifar10-resnet": ("cifar10", Recipe("ResNet", epochs=100)),
    "cifar10-resnet-robust": (
        "cifar10",
        Recipe(
            "ResNet",
            "wide",
            epochs=40,
            batch_size=256,
            learning_rate=0.2,
            label_smoothing=0.0,
            cutout=0,
            average=0.995,
            adversarial=_AGAINST_ATTACKS,
        ),
    ),
    "cifar10-vgg": ("cifar10", Recipe("VGG", **_DENSE)),
    "cifar10-googlenet": ("cifar10", Recipe("GoogLeNet", epochs=40)),
    "cifar10-c4": ("cifar10", Recipe("C4", **_DENSE)),
    "cifar10-c4-replaced": ("cifar10", Recipe("C4", labels="replaced", **_DENSE)),
    "cifar10-c4-no-bn": ("cifar10", Recipe("C4_WO_BN", **_DENSE | {"learning_rate": 0.05})),
    "cifar10-lenet": ("cifar10", Recipe("LeNet", **_DENSE | {"cutout": 0})),
    "cifar10-lenet-replaced": (
        "cifar10",
        Recipe("LeNet", labels="replaced", **_DENSE | {"cutout": 0}),
    ),
}


def as_stored(variables: Any) -> Any:
    """Returns the variables as `load` gives them: rounded to float16, as float32."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float16).astype(np.float32), variables)


def save(name: str, variables: Any, facts: dict[str, Any], folder: Path = FOLDER) -> Path:
    """Writes NAME.npz, and NAME.json with `facts` and the digest; returns the first path."""
    flat = traverse_util.flatten_dict(variables, sep="/")
    arrays: dict[str, Any] = {path: np.asarray(leaf, np.float16) for path, leaf in flat.items()}
    path = folder / f"{name}.npz"
    cache.write_atomically(path, lambda temporary: np.savez_compressed(temporary, **arrays))
    results.write_json(path.with_suffix(".json"), facts | {"digest": _digest(arrays)})
    return path


def load(name: str, folder: Path = FOLDER) -> Victim:
    """Returns a network of the zoo.

    Raises:
      DataError: no network has this name, a file is damaged, or the two files do not match.
    """
    path = folder / f"{name}.npz"
    if name not in RECIPES or not path.exists():
        there = sorted(found.stem for found in folder.glob("*.npz")) or ["none"]
        raise DataError(f"expected a network of the zoo among {', '.join(there)}; got {name!r}")
    dataset, recipe = RECIPES[name]
    document = path.with_suffix(".json")
    try:
        digest = json.loads(document.read_text())["digest"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{document} is missing or damaged ({error})") from error
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
    except Exception as error:  # zipfile, zlib and NumPy raise many types for damage
        raise DataError(f"{path} is damaged ({error})") from error
    if _digest(arrays) != digest:
        raise DataError(f"{path} is damaged: its weights are not those its JSON speaks of")
    variables = traverse_util.unflatten_dict(
        {path: jnp.asarray(leaf, jnp.float32) for path, leaf in arrays.items()}, sep="/"
    )
    network = NetworkConfig(recipe.architecture, recipe.width).make(CLASSES[dataset])
    return bind(network, variables, _digest(arrays)[:12])


def _digest(arrays: dict[str, np.ndarray]) -> str:
    return cache.digest(*(arrays[path] for path in sorted(arrays)))
