"""Trains a victim with optax, keeps it with Orbax, goes on where it was interrupted."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax import lax
from jax.tree_util import Partial

from experiments import cache, checkpoints, progress
from experiments.datasets import Dataset, Split
from experiments.victims.cnn import CNN, VictimConfig, make_cnn

# Raise it when a change of this package makes networks trained before it another thing.
VERSION = 1
EVALUATION_BATCH = 500


class Victim(NamedTuple):
    """A trained classifier, as pure functions with the weights bound to them (pytrees)."""

    features_and_logits: Partial  # images -> (feature maps, logits): what cmag_jax asks for
    logits: Partial  # images -> logits: what attacks_jax.stateless asks for
    key: str  # what determines it, as a cache key
    params: Any  # Flax variables


def get(dataset: Dataset, config: VictimConfig, *, seed: int, cache_dir: Path) -> Victim:
    """The trained victim: from the cache, from an interrupted training's last epoch, or anew.

    An interrupted training that is resumed ends with the same weights as one that was not: the
    randomness of an epoch is a function of the seed and the epoch's number.
    """
    key = cache.key(victim=config, data=dataset.digest, seed=seed, version=VERSION)
    network = make_cnn(dataset.classes, config)
    params = _train(network, dataset, config, seed, cache_dir / f"victim-{dataset.name}-{key}")
    return bind(network, params, key)


def bind(network: CNN, params: Any, key: str) -> Victim:
    whole = Partial(network.apply, params)
    return Victim(whole, Partial(_logits, whole), key, params)


def accuracy(victim: Victim, split: Split) -> float:
    """The share of the split's images that the victim classifies rightly."""
    return float(np.mean(predict(victim, split.images) == split.labels))


def predict(victim: Victim, images: np.ndarray) -> np.ndarray:
    """The predicted classes (N,)."""
    batches = range(0, len(images), EVALUATION_BATCH)
    logits = [_call(victim.logits, images[i : i + EVALUATION_BATCH]) for i in batches]
    return np.concatenate([np.argmax(z, axis=-1) for z in logits])


_call = jax.jit(lambda function, images: function(images))


def _logits(features_and_logits, images):
    return features_and_logits(images)[1]


class _Training(NamedTuple):
    params: Any
    optimiser: Any


def _train(network: CNN, dataset: Dataset, config: VictimConfig, seed: int, folder: Path) -> Any:
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    batch_size = min(config.batch_size, len(images))
    steps = len(images) // batch_size
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps * config.epochs))
    init_key, train_key = jax.random.split(jax.random.key(seed))

    def start() -> _Training:
        params = network.init(init_key, images[:1])
        return _Training(params, optimiser.init(params))

    def step(state: _Training, images, labels, indices, key):
        shift_key, dropout_key = jax.random.split(key)
        batch = _shift(shift_key, images[indices], config.max_shift)

        def loss(params):
            _, logits = network.apply(params, batch, train=True, rngs={"dropout": dropout_key})
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[indices])
            return losses.mean()

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser)
        return _Training(optax.apply_updates(state.params, updates), optimiser_state), value

    step = jax.jit(step)
    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        done = manager.latest_step() or 0
        if done:
            like = checkpoints.here(jax.eval_shape(start))
            state = manager.restore(done, args=ocp.args.StandardRestore(like))
        else:
            state = jax.jit(start)()
        if done == config.epochs:
            return state.params
        with progress.bar(
            config.epochs * steps, f"victim {dataset.name}", "steps", initial=done * steps
        ) as bar:
            for epoch in range(done, config.epochs):
                order_key, *step_keys = jax.random.split(
                    jax.random.fold_in(train_key, epoch), steps + 1
                )
                order = np.asarray(jax.random.permutation(order_key, len(images)))
                for i, key in enumerate(step_keys):
                    indices = order[i * batch_size : (i + 1) * batch_size]
                    state, value = step(state, images, labels, indices, key)
                    bar.update()
                bar.set_postfix(loss=f"{float(value):.3f}")
                manager.save(epoch + 1, args=ocp.args.StandardSave(state))
    return state.params


def _shift(key: jax.Array, images: jax.Array, most: int) -> jax.Array:
    """Each image moved by up to `most` pixels in both directions, its edge repeated."""
    if most == 0:
        return images
    padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * most + 1)

    def crop(image, corner):
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)
