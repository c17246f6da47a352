"""CMAG's figures 7 and 8: `python -m experiments.ssim_autoencoder --dataset=mnist`.

Is an autoencoder trained with SSIM robust to FGSM (section 5 (4))? Two autoencoders differ only in
the training loss: 1 - SSIM or the mean squared error. FGSM raises an image's reconstruction loss.
The metrics compare the reconstruction of the attacked image with the clean image. Random signs of
the same size are the control. PGD separates robustness from a gradient that only misleads FGSM.

The paper does not say what the attack's loss compares the reconstruction of u with: the clean
image, or u itself. If the target is u, it moves, and part of the gradient comes from the target.
This part looks like the image for any network. The program therefore measures both.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax
from jax.tree_util import Partial

from cmag_jax import global_ssim
from cmag_jax._training import train
from experiments import datasets
from experiments.report import __main__ as report
from experiments.report import figures
from experiments.runtime import cache, checkpoints, checks, cli, progress, results
from experiments.runtime.results import Row

# Raise it when a change of this file changes the trained autoencoders.
VERSION = 1
TABLE = "extra/figures7-8"
FIGURES = {"SSIM": 7, "l2": 8}  # training loss -> the paper's figure
GALLERY_ROWS = 6
PGD_STEPS = 40
FOREGROUND = 0.1  # pixels above this value belong to the stroke

Images = jax.Array  # (B, H, W, C) in [0, 1], or their gradients
Slopes = dict[str, Images]  # loss -> its gradient
Made = dict[tuple[str, float | None], Images]  # (attack, eps) -> attacked images
Figure = tuple[str, float | None, str, float, int]  # attack, eps, metric, value, images

NOTE = (
    "mean_ssim and mean_l2 compare the clean image with the autoencoder's reconstruction of the"
    " attacked one. Attacks raise the loss of the reconstruction against the clean image, or,"
    ' "moving", against the attacked image itself. gradient_on_foreground: the share of |gradient|'
    f" on pixels above {FOREGROUND}, over those pixels' share of the image; 1 where the gradient"
    " does not care. gradient_edge_correlation: Pearson's correlation between |gradient| and the"
    " length of the image's own finite differences. Both are means over images."
)


@dataclass(frozen=True)
class Config:
    dataset: Literal["digits", "mnist", "fashion_mnist", "gtsrb"] = "digits"
    seed: int = 0
    epochs: int = 10
    batch_size: int = 50
    learning_rate: float = 1e-3  # Adam's learning rate
    images: int = 500  # test images to attack
    eps: tuple[float, ...] = (0.1, 0.2, 0.3)  # the largest change of a pixel
    output_dir: Path | None = None  # run folder; None: runs/ssim-autoencoder-DATASET-seedSEED
    cache_dir: Path = Path("runs/cache")  # cache of trained autoencoders
    data_dir: Path | None = None
    manual_dir: Path | None = None

    def __post_init__(self) -> None:
        checks.seeds(self.seed)
        checks.counts(self, "epochs", "batch_size", "images")
        checks.above_zero(self, "learning_rate", most=1)
        checks.some(self, "eps")
        if not all(0 < value <= 1 for value in self.eps):
            raise ValueError(f"expected eps in (0, 1], got {self.eps}")


class Autoencoder(nn.Module):
    """Maps images (B, H, W, C) to images in [0, 1]. The paper says only "simple autoencoder"."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        pixels = math.prod(images.shape[1:])
        x = nn.relu(nn.Dense(512)(images.reshape(-1, pixels)))
        x = nn.relu(nn.Dense(64)(x))
        x = nn.relu(nn.Dense(512)(x))
        return nn.sigmoid(nn.Dense(pixels)(x)).reshape(images.shape)


NETWORK = Autoencoder()

LOSSES = {  # (reconstructions, targets), both (B, H, W, C) -> losses (B,)
    "SSIM": lambda rebuilt, x: 1 - global_ssim(rebuilt, x),
    "l1": lambda rebuilt, x: jnp.mean(jnp.abs(rebuilt - x), axis=(1, 2, 3)),
    "l2": lambda rebuilt, x: jnp.mean((rebuilt - x) ** 2, axis=(1, 2, 3)),
}


def main(config: Config) -> Path:
    """Runs everything and returns the run folder."""
    clock = results.Stopwatch()
    folder = config.output_dir or Path(f"runs/ssim-autoencoder-{config.dataset}-seed{config.seed}")
    cli.prepare_folders(folder, config.cache_dir)
    with clock.stage("data"):
        data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    chosen = datasets.sample(data.test, config.images, np.random.default_rng(config.seed))
    images, pictures = jnp.asarray(chosen.images), {}
    rows: list[Row] = []
    for trained_with, number in FIGURES.items():
        with clock.stage("fit"):
            rebuild = get(data, trained_with, config)
        with clock.stage("attack"):
            slopes = gradients(rebuild, images)
            made = attacks(jax.random.key(config.seed), rebuild, images, slopes, config.eps)
            measured = [*quality(rebuild, images, made), *alignments(images, slopes)]
        rows += (Row(TABLE, data.name, f"{trained_with}-trained", *figure) for figure in measured)
        path = folder / "figures" / f"figure-{number}.png"
        title = f"Figure {number}: gradients of the autoencoder trained with {trained_with}"
        draw(path, title, images, slopes)
        pictures[f"{title}, by the attacker's loss; grey is zero"] = path

    clock.seconds["total"] = results.since_start()
    results.write_json(folder / "config.json", config)
    results.write(folder / "results.json", config=config, rows=rows, seconds=clock.seconds)
    report.write_html(folder, f"Figures 7 and 8 on {config.dataset}", pictures, NOTE)
    report.console(results.read(folder)["rows"])
    print(f"wrote {folder / 'report.html'} and {folder / 'results.json'}")
    return folder


def get(data: datasets.Dataset, trained_with: str, config: Config) -> Partial:
    """Returns the autoencoder trained with this loss, images -> images; reads it from the cache."""
    options = {name: getattr(config, name) for name in ("epochs", "batch_size", "learning_rate")}
    determines = {"loss": trained_with, "data": data.digest, "seed": config.seed} | options
    key = cache.key(**determines, version=VERSION)
    path = config.cache_dir / f"autoencoder-{trained_with}-{data.name}-{key}"
    # Both autoencoders use the same keys, so that they differ only in the loss.
    init_key, train_key = jax.random.split(jax.random.key(config.seed))
    images = jnp.asarray(data.train.images)

    def loss(params, _context, batch, _key):
        return jnp.mean(LOSSES[trained_with](NETWORK.apply(params, batch), batch))

    def trained():
        params = jax.jit(NETWORK.init)(init_key, images[:1])
        with progress.bar(config.epochs, f"fit with {trained_with}", "epochs") as bar:
            options["on_epoch"] = lambda *_: bar.update()
            return train(train_key, loss, params, None, images, **options)[0]

    like = jax.eval_shape(NETWORK.init, init_key, images[:1])
    return Partial(NETWORK.apply, checkpoints.once(path, like, trained))


@partial(jax.jit, static_argnames="loss")
def gradient(rebuild: Partial, images: Images, clean: Images | None, *, loss: str) -> Images:
    """Returns the gradient of each image's loss against `clean`, or, for None, against itself."""

    def total(u):
        return jnp.sum(LOSSES[loss](rebuild(u), u if clean is None else clean))

    return jax.grad(total)(images)


def gradients(rebuild: Partial, clean: Images) -> Slopes:
    """Returns loss -> its gradient at the clean images, for both targets."""
    fixed = {loss: gradient(rebuild, clean, clean, loss=loss) for loss in LOSSES}
    return fixed | {f"{loss}-moving": gradient(rebuild, clean, None, loss=loss) for loss in LOSSES}


@partial(jax.jit, static_argnames="loss")
def pgd(key: jax.Array, rebuild: Partial, clean: Images, eps: float, *, loss: str) -> Images:
    """PGD from a random point of the ball, in steps of 2.5 eps / PGD_STEPS (Madry et al., 2018)."""
    low, high = jnp.maximum(clean - eps, 0), jnp.minimum(clean + eps, 1)

    def step(_, images):
        sign = jnp.sign(gradient(rebuild, images, clean, loss=loss))
        return jnp.clip(images + 2.5 * eps / PGD_STEPS * sign, low, high)

    start = jax.random.uniform(key, clean.shape, minval=low, maxval=high)
    return lax.fori_loop(0, PGD_STEPS, step, start)


def attacks(key: jax.Array, rebuild: Partial, clean: Images, slopes: Slopes, strengths) -> Made:
    """Returns each attack's images, and the clean ones. FGSM uses the gradients in `slopes`."""
    signs_key, start_key = jax.random.split(key)
    signs = jax.random.rademacher(signs_key, clean.shape, clean.dtype)
    made: Made = {("none", None): clean}
    for eps in progress.over(strengths, "attack"):
        made["random signs", eps] = jnp.clip(clean + eps * signs, 0, 1)
        for loss, slope in slopes.items():
            made[f"FGSM-{loss}", eps] = jnp.clip(clean + eps * jnp.sign(slope), 0, 1)
        for loss in FIGURES:
            made[f"PGD-{loss}", eps] = pgd(start_key, rebuild, clean, eps, loss=loss)
    return made


def quality(rebuild: Partial, clean: Images, made: Made) -> Iterator[Figure]:
    """Yields how similar the reconstructions of attacked images are to the clean images."""
    for (attack, eps), images in made.items():
        rebuilt = rebuild(images)
        norms = jnp.sqrt(jnp.sum((rebuilt - clean) ** 2, axis=(1, 2, 3)))
        for metric, values in (("mean_ssim", global_ssim(rebuilt, clean)), ("mean_l2", norms)):
            yield attack, eps, metric, round(float(values.mean()), 6), len(clean)


def alignments(clean: Images, slopes: Slopes) -> Iterator[Figure]:
    """Yields how well gradients follow the image content, by the two measures of `NOTE`."""
    images = np.asarray(clean)
    for loss, slope in slopes.items():
        sizes = np.abs(slope)
        for measure in (on_foreground, edge_correlation):
            values = np.array([measure(*pair) for pair in zip(sizes, images, strict=True)])
            known, metric = values[np.isfinite(values)], f"gradient_{measure.__name__}"
            if len(known):
                yield f"FGSM-{loss}", None, metric, round(float(known.mean()), 6), len(known)


def on_foreground(size: np.ndarray, image: np.ndarray) -> float:
    """Returns the foreground's share of |gradient| (H, W, C) over its share of the pixels.

    NaN without a gradient or a foreground.
    """
    foreground = image > FOREGROUND
    if not (size.any() and foreground.any()):
        return math.nan
    return size[foreground].sum() / size.sum() / foreground.mean()


def edge_correlation(size: np.ndarray, image: np.ndarray) -> float:
    """Returns Pearson's correlation of |gradient| (H, W, C) with the image's local contrast.

    The contrast is the length of the finite differences. NaN if either is constant.
    """
    contrast = np.hypot(*np.gradient(image, axis=(0, 1)))
    if np.ptp(size) == 0 or np.ptp(contrast) == 0:
        return math.nan
    return np.corrcoef(size.ravel(), contrast.ravel())[0, 1]


def draw(path: Path, title: str, images: Images, slopes: Slopes) -> None:
    """Draws images and their gradients, each scaled to its largest value; grey is zero."""
    columns = {"legitimate": np.asarray(images[:GALLERY_ROWS])}
    for loss, slope in slopes.items():
        shown = np.asarray(slope[:GALLERY_ROWS])
        largest = np.abs(shown).max(axis=(1, 2, 3), keepdims=True)
        columns[loss] = 0.5 + 0.5 * shown / np.maximum(largest, np.finfo(np.float32).tiny)
    figures.gallery(path, title, columns)


if __name__ == "__main__":
    with cli.program():
        main(tyro.cli(Config, prog="python -m experiments.ssim_autoencoder", description=__doc__))
