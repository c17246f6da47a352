"""The fast training of the zoo's networks: SGD with momentum, augmented images, averaged weights,
and bfloat16 on an accelerator.

`training.py` trains a small network in minutes. This training gets the most out of a network in
tens of epochs (Page, "How to train your ResNet", 2018).
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import Partial

from experiments.datasets import Dataset
from experiments.runtime import cache, checkpoints, progress
from experiments.victims.adversarial import AdversarialConfig, perturb
from experiments.victims.networks import Architecture, Labels, NetworkConfig, Width
from experiments.victims.training import random_flip, random_shift

# Raise it when a change of this file changes the trained networks.
VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """All that determines a network of the zoo, besides the data set and the seed."""

    architecture: Architecture
    width: Width = "middle"
    labels: Labels = "true"  # "replaced": as for Td in SPT, section III-D
    epochs: int = 60
    batch_size: int = 512
    learning_rate: float = 0.4  # the peak, after `warmup` of the steps; it ends at zero
    warmup: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of kernels
    label_smoothing: float = 0.1
    max_shift: int = 4  # largest random shift of training images, in pixels
    flip: bool = True  # random horizontal flips
    cutout: int = 8  # side of the grey square in each image (DeVries, 2017)
    average: float = 0.99  # decay per step of the moving average of the weights
    adversarial: AdversarialConfig | None = None

    def network(self, classes: int) -> Any:
        return NetworkConfig(self.architecture, self.width).make(classes)


class _Training(NamedTuple):
    variables: Any  # of Flax: the weights and batch statistics
    average: Any  # of the variables over the last steps
    optimiser: Any
    progress: jax.Array  # from 0 to 1


def train(
    dataset: Dataset, recipe: Recipe, *, seed: int, cache_dir: Path, seconds: float | None = None
) -> tuple[Any, int]:
    """Returns (the Flax variables, averaged over the last steps; the number of epochs trained).

    An interrupted training resumes from its last saved state.

    Args:
      seconds: train for about this long instead of for `recipe.epochs`; the learning rate still
        ends at zero. Not repeatable. For a machine that is available for minutes.
    """
    began = time.monotonic()
    key = cache.key(recipe=recipe, data=dataset.digest, seed=seed, seconds=seconds, version=VERSION)
    folder = cache_dir / f"zoo-{recipe.architecture}-{key}"
    network = recipe.network(dataset.classes)
    init_key, train_key = jax.random.split(jax.random.key(seed))
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    if recipe.labels == "replaced":
        labels = dataset.classes - 1 - labels
    batch_size = min(recipe.batch_size, len(images))
    steps = len(images) // batch_size
    optimiser = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(recipe.weight_decay, mask=_kernels),
        optax.trace(recipe.momentum, nesterov=True),
    )
    precision = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16

    def logits_of(variables, images):
        """Low precision is at least twice as fast on hardware that supports it."""
        low = jax.tree.map(lambda leaf: leaf.astype(precision), variables["params"])
        _, logits = network.apply({**variables, "params": low}, images.astype(precision))
        return logits.astype(jnp.float32)

    def loss(weights, variables, images, labels):
        low = jax.tree.map(lambda leaf: leaf.astype(precision), weights)
        (_, logits), statistics = network.apply(
            {**variables, "params": low},
            images.astype(precision),
            train=True,
            mutable=["batch_stats"],
        )
        wanted = optax.smooth_labels(
            jax.nn.one_hot(labels, dataset.classes), recipe.label_smoothing
        )
        return optax.softmax_cross_entropy(logits.astype(jnp.float32), wanted).mean(), statistics

    @jax.jit
    def start():
        variables = network.init(init_key, images[:1])
        return _Training(variables, variables, optimiser.init(variables["params"]), jnp.float32(0))

    @jax.jit
    def step(state: _Training, images, labels, indices, key, advance):
        shift_key, flip_key, cut_key, attack_key = jax.random.split(key, 4)
        batch, goals = random_shift(shift_key, images[indices], recipe.max_shift), labels[indices]
        if recipe.flip:
            batch = random_flip(flip_key, batch)
        if recipe.cutout:
            batch = _cutout(cut_key, batch, recipe.cutout)
        if recipe.adversarial is not None:
            logits = Partial(logits_of, state.variables)
            batch = perturb(attack_key, logits, batch, goals, recipe.adversarial)
        weights = state.variables["params"]
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(
            weights, state.variables, batch, goals
        )
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, weights)
        rate = _learning_rate(recipe, state.progress)
        weights = jax.tree.map(lambda leaf, update: leaf - rate * update, weights, updates)
        variables = {"params": weights, **statistics}
        average = optax.incremental_update(variables, state.average, 1 - recipe.average)
        return _Training(variables, average, optimiser_state, state.progress + advance), value

    kept = checkpoints.Steps(folder)
    found = kept.latest(jax.eval_shape(start))
    done, state = found if found is not None else (0, start())
    title = f"{recipe.architecture} {dataset.name}"
    epochs = recipe.epochs
    with progress.bar(epochs * steps, title, "steps", initial=done * steps) as bar:
        while done < epochs:
            advance = (1 - float(state.progress)) / ((epochs - done) * steps)
            order = np.random.default_rng((seed, done)).permutation(len(images))
            keys = jax.random.split(jax.random.fold_in(train_key, done), steps)
            epoch_began = time.monotonic()
            for i in range(steps):
                rows = order[i * batch_size : (i + 1) * batch_size]
                state, value = step(state, images, labels, rows, keys[i], advance)
                bar.update()
            bar.set_postfix(loss=f"{float(value):.3f}")
            done += 1
            if seconds is not None and done > 1:  # the first epoch compiles
                now = time.monotonic()
                more = (began + seconds - now) / (now - epoch_began)
                epochs = done + max(round(more), 0)
                bar.total = epochs * steps
            if done % _SAVE_EVERY == 0 or done == epochs:
                kept.save(done, state)
    return state.average, done


_SAVE_EVERY = 5  # epochs


def _learning_rate(recipe: Recipe, progress: jax.Array) -> jax.Array:
    """Rises to its peak over the first `recipe.warmup` of the training, then falls to zero."""
    rising = 0.1 + 0.9 * progress / recipe.warmup
    falling = (1 - progress) / (1 - recipe.warmup)
    return recipe.learning_rate * jnp.clip(jnp.minimum(rising, falling), 0, 1)


def _kernels(weights: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, weights)


def _cutout(key: jax.Array, images: jax.Array, side: int) -> jax.Array:
    """Returns each image with a grey square, which may cross the border."""
    _, height, width, _ = images.shape
    centres = jax.random.randint(key, (len(images), 2), 0, jnp.array([height, width]))

    def covered(size, centre):
        offset = lax.iota(jnp.int32, size) - (centre - side // 2)
        return (offset >= 0) & (offset < side)

    def blank(image, centre):
        square = covered(height, centre[0])[:, None] & covered(width, centre[1])
        return jnp.where(square[..., None], 0.5, image)

    return jax.vmap(blank)(images, centres)
