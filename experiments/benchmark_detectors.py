"""How long a detector takes beside the classifier that it guards."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cmag_jax import cmag
from experiments import cmag_config, timing
from experiments.datasets import Dataset
from experiments.results import Row
from experiments.victims import Victim


def measure(config: Any, data: Dataset, victim: Victim) -> list[Row]:
    """`cmag.score` beside the victim's own forward pass, each jitted, at several batch sizes.

    Args:
      config: a `benchmark.Config`.
      data: the data set, whose test images are scored.
      victim: the classifier that is guarded.
    """
    detector_config = cmag_config.preset("quick", config.dataset).cmag
    # Speed does not depend on the weights: those that training starts from will do.
    params = cmag.init(
        jax.random.key(0), victim.features_and_logits, data.test.images[:1], detector_config
    )
    score = jax.jit(partial(cmag.score, victim.features_and_logits, params))
    forward = jax.jit(victim.logits)
    rows = []
    for batch in config.batches:
        images = jnp.asarray(np.resize(data.test.images, (batch, *data.image_shape)))
        competitors = {"score": partial(score, images), "forward": partial(forward, images)}
        compile_seconds, seconds = timing.interleaved(competitors, config.detector_repeats)
        figures = {
            "milliseconds:forward": 1000 * seconds["forward"],
            "milliseconds:score": 1000 * seconds["score"],
            "compile_seconds:score": compile_seconds["score"],
            "score_to_forward": seconds["score"] / seconds["forward"],
        }
        rows += [
            Row("extra/benchmark/detectors", config.dataset, "CMAG", "batch", batch, metric,
                round(value, 5), batch)
            for metric, value in figures.items()
        ]  # fmt: skip
    return rows
