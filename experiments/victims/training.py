"""Trains victims with optax, saves them with Orbax, and resumes interrupted trainings."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import Partial

from experiments.datasets import DataError, Dataset, Split
from experiments.runtime import cache, checkpoints, progress
from experiments.runtime.batching import map_images
from experiments.victims.adversarial import perturb
from experiments.victims.cnn import CNN, VictimConfig
from experiments.victims.networks import Classifier, NetworkConfig

# Raise it when a change of this package changes the trained networks.
VERSION = 1
EVALUATION_BATCH = 500


class Victim(NamedTuple):
    """A trained classifier, as pure functions with the weights bound to them (pytrees)."""

    features_and_logits: Partial  # images -> (feature maps, logits), for cmag_jax
    logits: Partial  # images -> logits, for attacks_jax.stateless
    key: str  # cache key of all that determines it
    params: Any  # Flax variables: the weights and any batch statistics
    embed: Partial | None = None  # images -> embedding, before the logits; SPT's networks only


def get(
    dataset: Dataset, config: VictimConfig | NetworkConfig, *, seed: int, cache_dir: Path
) -> Victim:
    """Returns the trained victim, from the cache or from a new or resumed training.

    A resumed training gives the same weights as an uninterrupted one, because the randomness of an
    epoch depends only on the seed and the epoch's number.
    """
    key = cache.key(victim=config, data=dataset.digest, seed=seed, version=VERSION)
    network = config.make(dataset.classes)
    params = _train(network, dataset, config, seed, cache_dir / f"victim-{dataset.name}-{key}")
    return bind(network, params, key)


def bind(network: CNN | Classifier, params: Any, key: str) -> Victim:
    whole = Partial(_apply(network), params)
    embed = Partial(_embed(network), params) if isinstance(network, Classifier) else None
    return Victim(whole, Partial(_logits, whole), key, params, embed)


def accuracy(victim: Victim, split: Split) -> float:
    """Returns the share of the split's images that the victim classifies correctly."""
    return float(np.mean(predict(victim, split.images) == split.labels))


def predict(victim: Victim, images: np.ndarray) -> np.ndarray:
    """Returns the predicted classes (N,)."""
    return np.argmax(batched(victim.logits, images), axis=-1)


def batched(function: Partial, images: np.ndarray) -> np.ndarray:
    """Returns a function of images (B, ...) for all images (N, ...), in batches."""
    return map_images(lambda batch: np.asarray(_call(function, batch)), images, EVALUATION_BATCH)


_call = jax.jit(lambda function, images: function(images))
_init = jax.jit(lambda network, key, images: network.init(key, images), static_argnums=0)


def _logits(features_and_logits, images):
    return features_and_logits(images)[1]


# Equal networks get the same function, so that jit compiles it once: bound methods of equal objects
# are not equal.
@functools.cache
def _apply(network):
    return network.apply


@functools.cache
def _embed(network):
    return functools.partial(network.apply, method="embed")


class _Training(NamedTuple):
    params: Any  # Flax variables
    optimiser: Any


def _train(
    network: CNN | Classifier,
    dataset: Dataset,
    config: VictimConfig | NetworkConfig,
    seed: int,
    folder: Path,
) -> Any:
    init_key, train_key = jax.random.split(jax.random.key(seed))
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    if config.labels == "replaced":
        labels = dataset.classes - 1 - labels  # SPT, section III-D
    if config.epochs == 0:
        return _init(network, init_key, images[:1])

    batch_size = min(config.batch_size, len(images))
    steps = len(images) // batch_size
    optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps * config.epochs))

    def start() -> _Training:
        variables = network.init(init_key, images[:1])
        return _Training(variables, optimiser.init(_weights(variables)))

    def step(state: _Training, images, labels, indices, key):
        shift_key, dropout_key = jax.random.split(key)
        flip_key, attack_key = jax.random.split(jax.random.fold_in(key, 1))
        batch = random_shift(shift_key, images[indices], config.max_shift)
        if config.flip:
            batch = random_flip(flip_key, batch)
        if config.adversarial is not None:
            logits = Partial(_logits, Partial(network.apply, state.params))
            attacked = perturb(attack_key, logits, batch, labels[indices], config.adversarial)
            batch = jnp.concatenate([batch, attacked]) if config.alpha else attacked

        def loss(weights):
            (_, logits), statistics = network.apply(
                {**state.params, **weights},
                batch,
                train=True,
                rngs={"dropout": dropout_key},
                mutable=["batch_stats"],
            )
            if config.alpha:  # eq. 11
                legitimate, attacked = jnp.split(logits, 2)
                parts = (
                    _mean_loss(legitimate, labels[indices]),
                    _mean_loss(attacked, labels[indices]),
                )
                return config.alpha * parts[0] + (1 - config.alpha) * parts[1], statistics
            return _mean_loss(logits, labels[indices]), statistics

        weights = _weights(state.params)
        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(weights)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser)
        weights = optax.apply_updates(weights, updates)
        return _Training({**weights, **statistics}, optimiser_state), value

    step = jax.jit(step)
    kept = checkpoints.Steps(folder)
    found = kept.latest(jax.eval_shape(start))
    done, state = found if found is not None else (0, jax.jit(start)())
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
            _check_loss(float(value), epoch, config.learning_rate)
            bar.set_postfix(loss=f"{float(value):.3f}")
            kept.save(epoch + 1, state)
    return state.params


def _check_loss(value: float, epoch: int, learning_rate: float) -> None:
    """Raises DataError if a training diverges, because later results would be meaningless."""
    if not np.isfinite(value):
        raise DataError(
            f"the victim's training diverged: its loss is {value} after epoch {epoch + 1};"
            f" expected a learning_rate below {learning_rate:g}"
        )


def _mean_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _weights(variables: Any) -> Any:
    """Returns what the optimiser updates: everything except batch statistics."""
    return {"params": variables["params"]}


def random_shift(key: jax.Array, images: jax.Array, most: int) -> jax.Array:
    """Returns each image shifted by up to `most` pixels in both directions, its edge repeated."""
    if most == 0:
        return images
    padded = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * most + 1)

    def crop(image, corner):
        return lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Returns each image mirrored, left to right, with probability 1/2."""
    mirrored = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)
