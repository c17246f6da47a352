"""Saves and loads fitted cascades with all that scoring needs, the victim included.

`load` does not trust a detector's folder. It checks each file against `digest.json`, and the
contents against the limits of a detector, before it allocates memory.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from cmag_jax import CMAGConfig, CMAGParams, cmag
from experiments import victims
from experiments.datasets import DataError, Dataset
from experiments.pipeline.detectors import DetectorName, FittedDetector
from experiments.runtime import cache, checkpoints, results

Thresholds = dict[str, dict[str, float]]  # rule ("fpr=0.05", "paper") -> score -> threshold
Config = TypeVar("Config")
SAVED: tuple[DetectorName, ...] = (
    "CMAG",
    "CMAG+",
)  # the systems that a run saves, each in a folder of its name
DIGEST, NETWORKS, THRESHOLDS, WEIGHTS = "digest.json", "networks.json", "thresholds.json", "weights"
# Limits against crafted folders, far above any detector.
MOST_JSON_BYTES = 2**20
MOST_CLASSES = 100_000
MOST_VALUES = 2**24  # of an image
MOST_WEIGHT_BYTES = 2**31
LARGEST = float(np.finfo(np.float32).max)  # the largest threshold


class Detector(NamedTuple):
    victim: Partial  # images (B, H, W, C) -> (feature maps, logits)
    params: CMAGParams
    thresholds: Thresholds


def save(
    run: Path,
    system: FittedDetector,
    victim_config: victims.VictimConfig,
    data: Dataset,
    thresholds: Thresholds,
) -> None:
    """Writes the detector into the run folder, completely or not at all."""
    params = system.params
    kinds = {  # all that rebuilds the networks
        "classes": data.classes,
        "image_shape": params.image_shape,
        "victim": victim_config,
        "cmag": params.config,
    }
    weights = {"victim": system.victim.params, **_trees(params)}

    def write(temporary: Path) -> None:
        checkpoints.save(temporary / WEIGHTS, weights)
        results.write_json(temporary / NETWORKS, kinds)
        results.write_json(temporary / THRESHOLDS, thresholds)
        digests = {name: _digest(temporary / name) for name in (NETWORKS, THRESHOLDS)}
        # Digest the values too: another detector's weights are intact files of the same shapes.
        digests[WEIGHTS] = cache.digest_of_tree(weights)
        results.write_json(temporary / DIGEST, digests)

    cache.write_atomically(run / "detectors" / system.name, write)


def load(run: Path | str, system: str = "CMAG+") -> Detector:
    """Loads a detector that `python -m experiments.cmag` saved in a run folder.

        victim, params, thresholds = detector_io.load("runs/cmag-digits-quick-seed0")
        score = jax.jit(partial(cmag.score, victim, params))
        flags = cmag.detect(score(images), thresholds["fpr=0.05"])

    Raises:
      ValueError: `system` is not one of SAVED.
      FileNotFoundError: the folder holds no such detector.
      DataError: the detector is damaged, or another version of the program wrote it.
    """
    if system not in SAVED:
        raise ValueError(f"expected a system among {', '.join(SAVED)}, got {system!r}")
    folder = Path(run) / "detectors" / system
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{run} holds no detectors/{system}; python -m experiments.cmag writes it"
        )
    with _reading(folder / DIGEST):
        digests = _read_json(folder / DIGEST)
        if set(digests) != {NETWORKS, THRESHOLDS, WEIGHTS}:
            raise ValueError(f"expected digests of {NETWORKS}, {THRESHOLDS} and {WEIGHTS}")
    for name in (NETWORKS, THRESHOLDS):
        with _reading(folder / name):
            if _digest(folder / name) != digests[name]:
                raise ValueError(f"it is not the one that {DIGEST} speaks of")

    with _reading(folder / NETWORKS):
        kinds = _read_json(folder / NETWORKS)
        config, bind, victim_shape, params_shape = _untrained(kinds)
        like = {"victim": victim_shape, **_trees(params_shape)}
        _check_size(like)
    with _reading(folder / THRESHOLDS):
        thresholds = _thresholds(_read_json(folder / THRESHOLDS), config)
    weights = checkpoints.load(folder / WEIGHTS, like)
    with _reading(folder / WEIGHTS):
        if cache.digest_of_tree(weights) != digests[WEIGHTS]:
            raise ValueError(f"they are not those that {DIGEST} speaks of")
    victim = bind(weights.pop("victim"))
    params = dataclasses.replace(params_shape, **weights)
    return Detector(victim.features_and_logits, params, thresholds)


def _untrained(kinds: Any) -> tuple[CMAGConfig, Any, Any, CMAGParams]:
    """Returns what networks.json describes: the cascade's configuration, a function from weights to
    a victim, and the shapes of the victim's weights and of the cascade."""
    _check_keys(kinds, {"classes", "image_shape", "victim", "cmag"})
    classes, shape = kinds["classes"], kinds["image_shape"]
    if not _is_whole(classes) or not 2 <= classes <= MOST_CLASSES:
        raise ValueError(f"expected from 2 to {MOST_CLASSES} classes, got {classes!r}")
    if not isinstance(shape, list) or len(shape) != 3 or not all(map(_is_whole, shape)):
        raise ValueError(f"expected image_shape of height, width and channels, got {shape!r}")
    if min(shape) < 1 or math.prod(shape) > MOST_VALUES:
        raise ValueError(f"expected image_shape of 1 to {MOST_VALUES} values, got {shape}")
    victim_config = _config(victims.VictimConfig, kinds["victim"])
    config = _config(CMAGConfig, kinds["cmag"])
    network = victims.make_cnn(classes, victim_config)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    def start(key, image):
        weights = network.init(key, image)
        return weights, cmag.init(key, Partial(network.apply, weights), image, config)

    victim_shape, params_shape = jax.eval_shape(start, jax.random.key(0), image)
    return (
        config,
        lambda weights: victims.bind(network, weights, key=""),
        victim_shape,
        params_shape,
    )


def _config(kind: type[Config], given: Any) -> Config:
    """Returns the dataclass with these fields. Each must have the type of its default."""
    defaults = {field.name: getattr(kind(), field.name) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    _check_keys(given, set(defaults))
    fields = {}
    for name, default in defaults.items():
        value: Any = given[name]
        if isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and _is_whole(value):
            value = float(value)
        if type(value) is not type(default):
            raise ValueError(f"expected {name} as {default!r} is, got {value!r}")
        if isinstance(value, tuple) and {type(v) for v in value} - {type(d) for d in default}:
            raise ValueError(f"expected {name} as {default!r} is, got {value!r}")
        fields[name] = value
    return kind(**fields)


def _thresholds(given: Any, config: CMAGConfig) -> Thresholds:
    """Returns the thresholds, once each is a finite number for a score of the cascade."""
    scores = {"rarity"} if config.decision == "rarity" else set(config.scores)
    if not isinstance(given, dict) or not given:
        raise ValueError(f"expected rules with their thresholds, got {str(given)[:80]}")
    for rule, limits in given.items():
        _check_keys(limits, scores)
        for name, limit in limits.items():
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if not number or not abs(limit) <= LARGEST:
                raise ValueError(
                    f"expected a finite threshold of {name!r} by {rule!r}, got {limit!r}"
                )
    return given


def _check_keys(given: Any, wanted: set[str]) -> None:
    if not isinstance(given, dict) or set(given) != wanted:
        found = sorted(given) if isinstance(given, dict) else given
        raise ValueError(f"expected {', '.join(sorted(wanted))}, got {str(found)[:200]}")


def _check_size(shapes: Any) -> None:
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    if size > MOST_WEIGHT_BYTES:
        raise ValueError(
            f"expected networks of at most {MOST_WEIGHT_BYTES:,} bytes of weights, got {size:,}"
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _read_json(path: Path) -> Any:
    """Returns the file's content; raises ValueError if it is too large for a detector."""
    size = path.stat().st_size
    if size > MOST_JSON_BYTES:
        raise ValueError(f"expected at most {MOST_JSON_BYTES:,} bytes, got {size:,}")
    return json.loads(path.read_text())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns the errors of a missing, damaged or crafted file into a DataError."""
    anew = "python -m experiments.cmag, run again with the same options, writes it anew"
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing, or older than the digests of detectors; {anew}"
        ) from error
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error
    except Exception as error:  # Flax and JAX raise many types for impossible networks
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path} is damaged ({what}); {anew}") from error


def _trees(params: CMAGParams) -> Mapping[str, Any]:
    trees = {name: getattr(params, name) for name in cmag.MODULES}
    return {name: tree for name, tree in trees.items() if tree is not None}
