"""Who does not attack: how many queries of natural streams are deceived, and what accuracy that
costs. SPT, section III-B, "Does this defence process have any effects", put to the test."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

import spt_jax
from experiments import osd_encoder
from experiments.datasets import Split
from experiments.results import Row
from experiments.spt.defences import Decoy, Defence
from experiments.spt.discontinuous import chain, flags, stream
from experiments.spt.lab import CLASSIFIER, Lab, Measured, predict

FRAMES = 30  # of a video
REPEATS = 30  # of a duplicate
MAX_SHIFT, BRIGHTNESS = 1, 0.01  # from frame to frame: pixels, and the largest change


def defences(lab: Lab, network: str = "C4") -> dict[str, Defence]:
    """All that remember, as their papers set them: SPT's, then its rivals."""
    decoy = Decoy(network, "Ts")
    # Blacklight's paper has wider windows for images with a uniform background.
    window = 50 if lab.dataset in ("digits", "mnist", "fashion_mnist") else 20
    return {
        "buffer": lab.buffer(decoy),
        "buffer, on_dissimilar": lab.buffer(decoy, reset="on_dissimilar"),
        "chain 30 dB": chain(30.0),
        "chain 25 dB": chain(25.0),
        "agreement and": flags("and"),
        "Blacklight": Defence("blacklight", decoy, (("capacity", 1000), ("window", window))),
        "OSD": Defence("osd", decoy, (("threshold", osd_threshold(lab)),)),
    }


def osd_threshold(lab: Lab) -> float:
    """As its paper has it: 0.1% of natural training images are nearer to the others."""
    encode = osd_encoder.get(lab.data, seed=lab.config.seed, cache_dir=lab.config.cache_dir)
    images = lab.data.validation.images[:2000]
    parts = [np.asarray(encode(images[i : i + 500])) for i in range(0, len(images), 500)]
    return float(spt_jax.osd_threshold(jnp.asarray(np.concatenate(parts))))


def measure(lab: Lab, folder: Path) -> Measured:
    rows = []
    streams = {
        "shuffled": lab.data.test,
        "duplicates": duplicates(lab.split, REPEATS),
        "video": video(lab.split, FRAMES, seed=lab.config.seed),
    }
    bare = lab.network(CLASSIFIER)
    for name, split in streams.items():
        accuracy = (predict(bare, split.images) == split.labels).mean()
        rows.append(_row(lab, CLASSIFIER, name, "accuracy_all", accuracy, len(split)))
        for title, defence in defences(lab).items():
            labels, deceived = stream(lab.system(defence), split.images)
            loss = accuracy - (labels == split.labels).mean()
            rows.append(_row(lab, title, name, "fpr", deceived.mean(), len(split)))
            rows.append(_row(lab, title, name, "accuracy_lost", loss, len(split)))
    return Measured(rows)


def duplicates(split: Split, repeats: int) -> Split:
    """Each image so many times, one after another: a client that reloads."""
    return Split(np.repeat(split.images, repeats, axis=0), np.repeat(split.labels, repeats))


def video(split: Split, frames: int, *, seed: int) -> Split:
    """Each image as so many frames of a film: from one to the next it moves by up to a pixel in
    both directions, its edge repeated, and its brightness changes by up to a hundredth."""
    rng = np.random.default_rng(seed)
    count, height, width, _ = split.images.shape
    reach = frames * MAX_SHIFT
    padded = np.pad(split.images, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    corner: np.ndarray = np.full((count, 2), reach)
    brightness: np.ndarray = np.zeros((count, 1, 1, 1))
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


def _row(lab: Lab, system: str, name: str, metric: str, value: float, n: int) -> Row:
    return Row("extra/spt/natural", lab.dataset, system, name, None, metric, float(value), n)
