"""Measures detectors' scoring time beside the classifier's, and their training time beside torch's.

The detectors and the classifier are untrained, because speed does not depend on the weights.
"""

import dataclasses
import importlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax import defense_gan
from experiments import victims
from experiments.benchmark import peers, timing
from experiments.cmag import config as cmag_config
from experiments.datasets import Dataset
from experiments.pipeline import detectors
from experiments.pipeline.detectors import DetectorName
from experiments.runtime import progress
from experiments.runtime.results import Row
from experiments.victims import Victim

TABLE = "extra/benchmark/detectors"
SLOW_BATCH, SLOW_REPEATS = 32, 5  # limits for Defense-GAN, which runs a search for each image
CASCADE = {"fmr": "fmr_epochs", "lr": "lr_epochs", "gr": "gr_epochs"}
# Detector -> trained module -> the option with its number of epochs.
FITTED: dict[DetectorName, dict[str, str]] = {
    "CMAG": CASCADE,
    "CMAG+": CASCADE,
    "MagNet": {"I": "epochs"},
}
FIT_STEPS = 10  # batches in an epoch


def measure(config: Any, data: Dataset) -> Iterator[list[Row]]:
    """Yields the rows of each race: every detector's `score`, then the training by
    `cmag_jax._training`. Defense-GAN's search takes longest and comes last.

    Args:
      config: a `benchmark.Config`.
      data: the data set. Its test images are scored; its training images are used for training.
    """
    settings = cmag_config.preset(config.preset, config.dataset)
    network = victims.make_cnn(data.classes, settings.victim)
    weights = jax.jit(network.init)(jax.random.key(0), data.test.images[:1])
    victim = victims.bind(network, weights, "untrained")
    races: list[Callable[[], list[Row]]] = [
        partial(_scores, config, settings, data, victim, batch) for batch in config.batches
    ]
    if has_torch():
        twin = peers.torch_twin(network, victim.params)
        races += [
            partial(_fit, config, settings, data, victim, twin, name, part)
            for name, parts in FITTED.items()
            for part in parts
        ]
    races += [
        partial(_search, config, settings, data, victim, batch)
        for batch in config.batches
        if batch <= SLOW_BATCH
    ]
    for race in progress.over(races, "benchmark detectors"):
        yield race()


def has_torch() -> bool:
    """Returns whether torch is installed, to compare `fit` with; if not, prints a message."""
    found = importlib.util.find_spec("torch") is not None
    if not found:
        print("torch is not installed: leaving out the rows of `fit`")
    return found


def _scores(config: Any, settings: Any, data: Dataset, victim: Victim, batch: int) -> list[Row]:
    """Times each detector's `score`, except Defense-GAN's, and the victim's forward pass. Each is
    jitted."""
    images = _images(data.test.images, batch)
    names: list[DetectorName] = [
        name for name in detectors.NAMES if not detectors.DETECTORS[name].SLOW
    ]
    competitors: dict[str, Callable[[], Any]] = {"forward": partial(jax.jit(victim.logits), images)}
    for name in names:
        params = _untrained(name, settings.of_system(name), victim, images)
        score = partial(detectors.DETECTORS[name].score, victim.features_and_logits, params)
        competitors[name] = partial(jax.jit(score), images)
    first, seconds = timing.interleaved(competitors, config.detector_repeats)
    return [
        row
        for name in names
        for row in _rows(config, name, "batch", batch, _beside(name, first, seconds), batch)
    ]


def _search(config: Any, settings: Any, data: Dataset, victim: Victim, batch: int) -> list[Row]:
    """Times Defense-GAN's `score`, the forward pass, and the search with one restart at a time."""
    name: DetectorName = "Defense-GAN"
    images, gan = _images(data.test.images, batch), settings.of_system(name)
    gan = dataclasses.replace(gan, search_steps=min(gan.search_steps, config.most_steps))
    params = _untrained(name, gan, victim, images)
    # Not jitted as a whole: it jits the parts that suit the backend.
    score = partial(defense_gan.score, victim.features_and_logits)
    competitors: dict[str, Callable[[], Any]] = {
        "forward": partial(jax.jit(victim.logits), images),
        name: partial(score, params, images),
        "loop": partial(_loop_over_restarts, score, params, images),
    }
    repeats = min(config.detector_repeats, SLOW_REPEATS)
    first, seconds = timing.interleaved(competitors, repeats, limit=config.peer_limit)
    figures = _beside(name, first, seconds)
    figures["milliseconds:loop_over_restarts"] = 1000 * seconds["loop"]
    figures["times_faster_than_a_loop_over_restarts"] = seconds["loop"] / seconds[name]
    return _rows(config, name, "batch", batch, figures, batch)


def _loop_over_restarts(score: Callable, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Returns Defense-GAN's score, computed with one restart after the other."""
    one = dataclasses.replace(params.config, restarts=1)
    distances = [
        score(dataclasses.replace(params, starts=start[None], config=one), images)["l2"]
        for start in params.starts
    ]
    return {"l2": jnp.min(jnp.stack(distances), axis=0)}


def _fit(
    config: Any,
    settings: Any,
    data: Dataset,
    victim: Victim,
    twin: Any,
    name: DetectorName,
    part: str,
) -> list[Row]:
    """Times one module's training: our epochs and torch's alternate."""
    cmag_training = importlib.import_module("experiments.benchmark.peers.cmag_training")
    detector = settings.of_system(name)
    repeats = min(config.fit_repeats, config.detector_repeats)
    total = 1 + repeats  # the first one compiles
    detector = dataclasses.replace(detector, **{FITTED[name][part]: total})
    count = FIT_STEPS * detector.batch_size
    images = _images(data.train.images, count)
    params = _untrained(name, detector, victim, images)
    task = cmag_training.task(part, params, np.array(images), twin.layers)
    theirs = cmag_training.epochs(task, detector, total)
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}

    began = [time.perf_counter()]

    def take_turns(*_: Any) -> None:
        """Runs torch's epoch after each of ours, once our mean loss is ready."""
        seconds["ours"].append(time.perf_counter() - began[0])
        seconds["torch"].append(timing.seconds(theirs))
        time.sleep(timing.SETTLE_SECONDS)
        began[0] = time.perf_counter()

    # Each call compiles its step again. So it is called once, and torch runs between its epochs.
    detectors.DETECTORS[name].fit_module(
        part, jax.random.key(0), victim.features_and_logits, params, images,
        on_epoch=take_turns,
    )  # fmt: skip
    ours, of_torch = (statistics.median(values[1:]) for values in seconds.values())
    figures = {
        "milliseconds:fit": 1000 * ours,
        "milliseconds:fit:torch": 1000 * of_torch,
        "fit_to_torch": ours / of_torch,
    }
    return _rows(config, name, f"fit {part.upper()}", detector.batch_size, figures, count)


def _images(images: np.ndarray, count: int) -> jax.Array:
    """Returns `count` images, repeating them if there are fewer."""
    return jnp.asarray(np.resize(images, (count, *images.shape[1:])))


def _untrained(name: DetectorName, detector: Any, victim: Victim, images: jax.Array) -> Any:
    init = detectors.DETECTORS[name].init
    return init(jax.random.key(0), victim.features_and_logits, images[:1], detector)


def _beside(name: str, first: dict[str, float], seconds: dict[str, float]) -> dict[str, float]:
    """Returns a detector's figures, with those of the forward pass in the same race."""
    return {
        "milliseconds:forward": 1000 * seconds["forward"],
        "milliseconds:score": 1000 * seconds[name],
        "compile_seconds:score": first[name],
        "score_to_forward": seconds[name] / seconds["forward"],
    }


def _rows(
    config: Any, name: str, attack: str, strength: int, figures: dict[str, float], n: int
) -> list[Row]:
    return [
        Row(TABLE, config.dataset, name, attack, strength, metric, round(value, 5), n)
        for metric, value in figures.items()
    ]
