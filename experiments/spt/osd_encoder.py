"""Trains OSD's encoder (`spt_jax`): it maps an image and its transformed versions close together,
and different images far apart."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.ndimage import map_coordinates
from jax.tree_util import Partial

from experiments.datasets import Dataset
from experiments.runtime import cache, checkpoints, progress
from experiments.victims.blocks import max_pool

# Raise it when a change of this file changes the trained encoders.
VERSION = 1


@dataclass(frozen=True)
class EncoderConfig:
    """All settings that determine a trained encoder, except the data set and the seed."""

    dimensions: int = 256  # D; Chen, Carlini and Wagner (2020), section 4.2
    margin: float = math.sqrt(10)  # between different images; section 4.2
    channels: tuple[int, ...] = (32, 64)  # one block of convolution, ReLU, 2x2 pooling for each
    epochs: int = 2
    batch_size: int = 128
    learning_rate: float = 1e-3  # Adam's initial rate; it falls to zero along a cosine

    def __post_init__(self) -> None:
        for name in ("dimensions", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.batch_size < 2:  # the other image comes from the batch
            raise ValueError(f"expected batch_size of at least 2, got {self.batch_size}")
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"expected channels of at least one block, got {self.channels}")
        if not (self.margin > 0 and self.learning_rate > 0):
            raise ValueError(
                "expected margin and learning_rate above 0,"
                f" got {self.margin} and {self.learning_rate}"
            )


class Encoder(nn.Module):
    """images (B, H, W, C) in [0, 1] -> encodings (B, D).

    Each block halves the resolution. The input is split into patches of 2x2 pixels, which trains
    three times faster than convolutions of every pixel. An odd last row or column is left out.
    """

    channels: tuple[int, ...]
    dimensions: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        batch, height, width, channels = images.shape
        rows, columns = height // 2, width // 2
        x = images[:, : rows * 2, : columns * 2] - 0.5
        x = x.reshape(batch, rows, 2, columns, 2, channels).swapaxes(2, 3)
        x = x.reshape(batch, rows, columns, 4 * channels)
        for features in self.channels:
            x = max_pool(nn.relu(nn.Conv(features, (3, 3))(x)))
        return nn.Dense(self.dimensions)(x.reshape(x.shape[0], math.prod(x.shape[1:])))


@functools.cache  # jit recognises a method only if its object is the same
def _network(channels: tuple[int, ...], dimensions: int) -> Encoder:
    return Encoder(channels, dimensions)


def get(
    dataset: Dataset, config: EncoderConfig | None = None, *, seed: int, cache_dir: Path
) -> Partial:
    """Trains the encoder on the data set's training images, or reads it from the cache.

    Returns:
      images (B, H, W, C) float32 in [0, 1] -> encodings (B, D) float32, with the weights bound.
    """
    config = config or EncoderConfig()
    key = cache.key(encoder=config, data=dataset.digest, seed=seed, version=VERSION)
    path = cache_dir / f"osd-encoder-{dataset.name}-{key}"
    network = _network(config.channels, config.dimensions)
    images = dataset.train.images

    def trained():
        return train_encoder(jax.random.key(seed), images, config, title=dataset.name).args[0]

    like = jax.eval_shape(network.init, jax.random.key(0), images[:1])
    return Partial(network.apply, checkpoints.once(path, like, trained))


def train_encoder(
    key: jax.Array, images: np.ndarray, config: EncoderConfig, *, title: str = ""
) -> Partial:
    """Trains the encoder with a contrastive loss (section 4.2).

    For each image x, a transformed version x' and another image y, training minimises
    ||f(x) - f(x')||^2 + max(0, margin^2 - ||f(x) - f(y)||^2).

    Args:
      key: typed key; it determines the encoder.
      images: (N, H, W, C) float32 in [0, 1], at least two.

    Returns:
      images (B, H, W, C) -> encodings (B, D).

    Raises:
      ValueError: fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"expected at least two images, got {len(images)}")
    network = _network(config.channels, config.dimensions)
    batch_size = min(config.batch_size, len(images))
    steps = len(images) // batch_size
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps * config.epochs))
    init_key, train_key = jax.random.split(key)
    params = jax.jit(network.init)(init_key, images[:1])
    optimiser_state = jax.jit(optimiser.init)(params)

    @jax.jit
    def step(params, optimiser_state, batch, key):
        pairs = jnp.concatenate([batch, transform(key, batch)])

        def loss(p):
            return contrastive_loss(Partial(network.apply, p), pairs, config.margin)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, optimiser_state = optimiser.update(gradient, optimiser_state)
        return optax.apply_updates(params, updates), optimiser_state, value

    with progress.bar(config.epochs * steps, f"encoder {title}".strip(), "steps") as bar:
        for epoch in range(config.epochs):
            order_key, step_key = jax.random.split(jax.random.fold_in(train_key, epoch))
            order = np.asarray(jax.random.permutation(order_key, len(images)))
            for i in range(steps):
                batch = images[order[i * batch_size : (i + 1) * batch_size]]
                key = jax.random.fold_in(step_key, i)
                params, optimiser_state, value = step(params, optimiser_state, batch, key)
                bar.update()
            bar.set_postfix(loss=f"{float(value):.3f}")
    return Partial(network.apply, params)


def contrastive_loss(
    encode: Callable[[jax.Array], Any], pairs: jax.Array, margin: float
) -> jax.Array:
    """Returns (): the mean loss of B images. `pairs` (2B, H, W, C) are the images, then a
    transformed version of each. Each image's other image is its neighbour in the batch."""
    originals, versions = jnp.split(encode(pairs), 2)
    near = jnp.sum((originals - versions) ** 2, axis=-1)
    far = jnp.sum((originals - jnp.roll(originals, 1, axis=0)) ** 2, axis=-1)
    return jnp.mean(near + jnp.maximum(margin**2 - far, 0))


def transform(key: jax.Array, images: jax.Array) -> jax.Array:
    """Moves and recolours each image (B, H, W, C) slightly, at random; the result is in [0, 1].

    It applies all of the paper's transformations (section 4.2): shifts of up to a tenth of the
    image, rotations of up to 10 degrees, contrast of 0.8 to 1.2, brightness of +-0.1, every value
    scaled by 0.9 to 1.1, Gaussian noise of up to 0.05.
    """
    return jax.vmap(_transform)(jax.random.split(key, len(images)), images)


def _transform(key: jax.Array, image: jax.Array) -> jax.Array:
    keys = jax.random.split(key, 7)

    def uniform(i, low, high, shape=()):
        return jax.random.uniform(keys[i], shape, minval=low, maxval=high)

    size = jnp.array(image.shape[:2])[:, None, None]
    middle = (size - 1) / 2
    angle = jnp.deg2rad(uniform(0, -10, 10))
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    shift = size * uniform(1, -0.1, 0.1, (2, 1, 1))
    grid = jnp.stack(jnp.mgrid[: image.shape[0], : image.shape[1]]) - middle
    where = jnp.einsum("ij,jhw->ihw", turn, grid) + middle + shift
    moved = jax.vmap(
        lambda plane: map_coordinates(plane, list(where), order=1, mode="nearest"), -1, -1
    )(image)

    mean = moved.mean()
    x = mean + (moved - mean) * uniform(2, 0.8, 1.2) + uniform(3, -0.1, 0.1)
    x = x * uniform(4, 0.9, 1.1, image.shape)
    noise = uniform(5, 0, 0.05) * jax.random.normal(keys[6], image.shape)
    return jnp.clip(x + noise, 0, 1)
