"""Benign query streams: how many queries the decoy answers, and how much accuracy that costs.

This tests SPT, section III-B, "Does this defence process have any effects".
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.datasets import Split
from experiments.runtime import cache, progress
from experiments.spt.defences import Decoy, Defence
from experiments.spt.discontinuous import chain, flags, stream
from experiments.spt.lab import CLASSIFIER, Lab, Measured
from experiments.victims import predict

TABLE = "extra/spt/natural"
FRAMES = 30  # of a video
REPEATS = 30  # of a duplicated image
MAX_SHIFT, BRIGHTNESS = 1, 0.01  # largest changes between frames: pixels, brightness
# Trained on replaced labels: its answers are wrong, so a good decoy cannot hide the cost.
DECOY = Decoy("C4", "Td")


def defences(lab: Lab) -> dict[str, Defence]:
    """Returns all stateful defences with their papers' settings: SPT's, then the baselines.

    Agreement flags need a second network with the true labels. The others use one with replaced
    labels.
    """
    # Blacklight's paper has wider windows for images with a uniform background.
    window = 50 if lab.dataset in ("digits", "mnist", "fashion_mnist") else 20
    return {
        "buffer": lab.buffer(DECOY),
        "buffer, on_dissimilar": lab.buffer(DECOY, reset="on_dissimilar"),
        "chain 30 dB": chain(30.0, decoy=DECOY),
        "chain 25 dB": chain(25.0, decoy=DECOY),
        "agreement and": flags("and"),
        "Blacklight": Defence("blacklight", DECOY, (("window", window),)),
        "OSD": Defence("osd", DECOY, (("threshold", lab.osd_threshold),)),
    }


def measure(lab: Lab, folder: Path) -> Measured:
    rows = []
    count = lab.config.natural_images
    few = Split(lab.split.images[:count], lab.split.labels[:count])
    streams: dict[str, Callable[[], Split]] = {
        "shuffled": lambda: lab.data.test,
        "duplicates": lambda: duplicates(few, REPEATS),
        "video": lambda: video(few, FRAMES, seed=lab.config.seed),
    }
    for name, make in streams.items():
        split = make()
        bare = predict(lab.network(CLASSIFIER), split.images) == split.labels
        rows.append(lab.plain_row(TABLE, CLASSIFIER, name, "accuracy_all", bare.mean(), len(split)))
        for title, defence in progress.over(defences(lab).items(), f"stream: {name}"):
            labels, deceived = _answers(lab, defence, split)
            lost = bare.mean() - (labels == split.labels).mean()
            rows.append(lab.plain_row(TABLE, title, name, "fpr", deceived.mean(), len(split)))
            rows.append(lab.plain_row(TABLE, title, name, "accuracy_lost", lost, len(split)))
    return Measured(rows)


def _answers(lab: Lab, defence: Defence, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Returns (labels, deceived) of a stream, each (N,). They are cached."""
    digest = cache.digest(split.images, split.labels)
    key = lab.key(defence, lab.network(CLASSIFIER), stream=digest)

    def compute() -> dict[str, np.ndarray]:
        labels, deceived = stream(lab.system(defence), split.images)
        return {"labels": labels, "deceived": deceived}

    found = cache.arrays(lab.config.cache_dir / f"spt-{lab.dataset}-stream-{key}.npz", compute)
    return found["labels"], found["deceived"]


def duplicates(split: Split, repeats: int) -> Split:
    """Repeats each image `repeats` times in a row, like a client that reloads."""
    return Split(np.repeat(split.images, repeats, axis=0), np.repeat(split.labels, repeats))


def video(split: Split, frames: int, *, seed: int) -> Split:
    """Turns each image into a video of `frames` frames.

    From frame to frame the image moves by up to a pixel in both directions, with its edge repeated,
    and its brightness changes by up to 0.01.
    """
    rng = np.random.default_rng(seed)
    count, height, width, _ = split.images.shape
    reach = frames * MAX_SHIFT
    padded = np.pad(split.images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    corner: Any = np.full((count, 2), reach)
    brightness: Any = np.zeros((count, 1, 1, 1))
    film = []
    for _ in range(frames):
        cut = [
            image[y : y + height, x : x + width]
            for image, (y, x) in zip(padded, corner, strict=True)
        ]
        film.append(np.clip(np.stack(cut) + brightness, 0, 1).astype(np.float32))
        corner = corner + rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, corner.shape)
        brightness = brightness + rng.uniform(-BRIGHTNESS, BRIGHTNESS, brightness.shape)
    images = np.stack(film, axis=1).reshape(-1, *split.images.shape[1:])
    return Split(images, np.repeat(split.labels, frames))
