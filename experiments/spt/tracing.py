"""Records one attack query by query, and draws it."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

import spt_jax
from experiments.spt import figures
from experiments.spt.attacks import Spec, drive
from experiments.spt.defences import Defence
from experiments.spt.lab import CLASSIFIER, Lab, metric
from experiments.victims import predict

IMAGES = 50  # images in a figure; all their queries are held in memory


def draw(
    lab: Lab, spec: Spec, defence: Defence, folder: Path, name: str, title: str
) -> dict[str, Path]:
    """Draws curves of CS and OS, who answered each query, and the PSNR with the threshold.

    Returns:
      caption -> PNG.
    """
    split, original = lab.split, lab.network(CLASSIFIER)
    images, labels = split.images[:IMAGES], split.labels[:IMAGES]
    path: list[np.ndarray] = []
    seen = drive(spec, lab.system(defence), images, labels, on_query=path.append)
    os_labels = np.stack([predict(original, sent) for sent in path])
    # Images that finish early, and their answers, no longer change.
    told, deceived = seen["told_all"][: len(path)], seen["deceived"][: len(path)]
    wanted = labels if spec.target is None else spec.target
    length = dict(defence.options).get("length", lab.config.length)
    what = f"{title}, {spec.title} {spec.step_size:g}"
    curves, strip, psnr = (
        folder / "figures" / f"{name}-{kind}.png" for kind in ("curves", "strip", "psnr")
    )
    pictures = {f"{what}: CS and OS by query": curves, f"{what}: who answered": strip}
    cs, os = (told == wanted).mean(axis=1), (os_labels == wanted).mean(axis=1)
    figures.curves(curves, cs, os, deceived.mean(axis=1), metric(spec).replace("_", " "))
    figures.strip(strip, deceived)
    if len(path) > length:
        apart = [
            np.asarray(spt_jax.psnr(jnp.asarray(a), jnp.asarray(b)))
            for a, b in zip(path[length:], path[:-length], strict=True)
        ]
        threshold = dict(defence.options).get("threshold_db", lab.config.threshold_db)
        figures.likeness(psnr, np.stack(apart), threshold, length)
        pictures[f"{what}: likeness of queries {length} apart"] = psnr
    return pictures
