"""The Wasserstein GAN with gradient penalty (Gulrajani et al., 2017) of Defense-GAN.

The networks have no transposed or strided convolutions, which XLA runs slowly on a CPU. Instead of
a 5x5 convolution of stride 2 they use space-to-depth and a 3x3 convolution; instead of a transposed
one, a 3x3 convolution and depth-to-space. Every layer of the reference can be written in this way.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import dm_pix
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cmag_jax._training import check_loss

ImageShape = tuple[int, int, int]  # H, W, C
Kind = Literal["convolutional", "dense"]


class ConvolutionalGenerator(nn.Module):
    """Latents (B, Z) to images (B, H, W, C) in [0, 1], H and W divisible by 4.

    It has the channels of the reference's MNIST generator, without the layer at 4x4 pixels.
    """

    image_shape: ImageShape
    width: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        height, width, channels = self.image_shape
        small = (height // 4, width // 4, 4 * self.width)
        x = nn.relu(nn.Dense(math.prod(small))(z)).reshape(z.shape[0], *small)
        x = nn.relu(dm_pix.depth_to_space(nn.Conv(4 * self.width, (3, 3))(x), 2))
        return nn.sigmoid(dm_pix.depth_to_space(nn.Conv(4 * channels, (3, 3))(x), 2))


class DenseGenerator(nn.Module):
    """Latents (B, Z) to images (B, H, W, C) in [0, 1], with dense layers only."""

    image_shape: ImageShape
    width: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        x = nn.leaky_relu(nn.Dense(4 * self.width)(z), 0.2)
        x = nn.leaky_relu(nn.Dense(8 * self.width)(x), 0.2)
        pixels = nn.Dense(math.prod(self.image_shape))(x)
        return nn.sigmoid(pixels).reshape(z.shape[0], *self.image_shape)


class ConvolutionalCritic(nn.Module):
    """Images (B, H, W, C) to one number each (B,), H and W divisible by 4. It has no batch
    normalisation, because the gradient penalty applies to each image separately."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.leaky_relu(nn.Conv(self.width, (3, 3))(dm_pix.space_to_depth(x, 2)), 0.2)
        x = nn.leaky_relu(nn.Conv(2 * self.width, (3, 3))(dm_pix.space_to_depth(x, 2)), 0.2)
        x = nn.leaky_relu(nn.Conv(4 * self.width, (3, 3))(x), 0.2)
        return nn.Dense(1)(_flat(x))[:, 0]


class DenseCritic(nn.Module):
    """Images (B, H, W, C) to one number each (B,), with dense layers only."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.leaky_relu(nn.Dense(8 * self.width)(_flat(x)), 0.2)
        x = nn.leaky_relu(nn.Dense(4 * self.width)(x), 0.2)
        return nn.Dense(1)(x)[:, 0]


GENERATORS = {"convolutional": ConvolutionalGenerator, "dense": DenseGenerator}
CRITICS = {"convolutional": ConvolutionalCritic, "dense": DenseCritic}


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


class Weights(NamedTuple):
    generator: Any  # Flax variables
    critic: Any


def gradient_penalty(
    key: jax.Array, critic: Callable[[jax.Array], jax.Array], real: jax.Array, fake: jax.Array
) -> jax.Array:
    """The mean of (||grad critic||_2 - 1)^2 at a random point between each pair of a real and a
    fake image, both (B, H, W, C) (Gulrajani et al., eq. 3). The norm is over the whole image; the
    reference's code takes it over the rows only."""
    share = jax.random.uniform(key, (real.shape[0], 1, 1, 1), jnp.float32)
    between = real + share * (fake - real)
    slopes = jax.grad(lambda x: jnp.sum(critic(x)))(between)
    # 1e-12: the root's slope at 0 is infinite.
    norms = jnp.sqrt(jnp.sum(slopes**2, axis=(1, 2, 3)) + 1e-12)
    return jnp.mean((norms - 1) ** 2)


def train(
    key: jax.Array,
    generator: nn.Module,
    critic: nn.Module,
    weights: Weights,
    images: jax.Array,
    *,
    latent_size: int,
    epochs: int,
    batch_size: int,
    critic_steps: int,
    penalty: float,
    learning_rate: float,
    final_rate: float,
    betas: tuple[float, float],
    on_epoch: Callable[[int, float], None] = lambda *_: None,
) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Algorithm 1 of Gulrajani et al.: one step of the generator after every `critic_steps` steps
    of the critic on batches of images (N, H, W, C).

    Each epoch shuffles the critic's images and drops the last incomplete batch. The count of critic
    steps continues from one epoch to the next.

    Args:
      final_rate: share of the learning rate at the end of a cosine decay.
      on_epoch: called after each epoch with the number of finished epochs and the critic's mean
        loss.

    Returns:
      The weights, and the mean losses (epochs,) of the critic and of the generator. The generator's
      is NaN in an epoch without a generator step.
    """
    count = len(images)
    batch_size = min(batch_size, count)
    steps = count // batch_size

    adam = partial(_adam, learning_rate, final_rate, betas)
    optimisers = Weights(adam(epochs * steps // critic_steps), adam(epochs * steps))

    def samples(generator_weights, key):
        z = jax.random.normal(key, (batch_size, latent_size), jnp.float32)
        return generator.apply(generator_weights, z)

    def critic_loss(critic_weights, generator_weights, real, key):
        fake_key, penalty_key = jax.random.split(key)
        fake = samples(generator_weights, fake_key)
        judge = lambda x: critic.apply(critic_weights, x)  # noqa: E731
        apart = jnp.mean(judge(fake)) - jnp.mean(judge(real))
        return apart + penalty * gradient_penalty(penalty_key, judge, real, fake)

    def generator_loss(generator_weights, critic_weights, key):
        return -jnp.mean(critic.apply(critic_weights, samples(generator_weights, key)))

    def critic_step(carry, images, indices, key):
        weights, states = carry
        loss = jax.value_and_grad(critic_loss)
        key = jax.random.fold_in(key, 0)
        value, gradient = loss(weights.critic, weights.generator, images[indices], key)
        updates, state = optimisers.critic.update(gradient, states.critic)
        weights = weights._replace(critic=optax.apply_updates(weights.critic, updates))
        return (weights, states._replace(critic=state)), value

    def generator_step(carry, key):
        weights, states = carry
        loss = jax.value_and_grad(generator_loss)
        key = jax.random.fold_in(key, 1)
        value, gradient = loss(weights.generator, weights.critic, key)
        updates, state = optimisers.generator.update(gradient, states.generator)
        weights = weights._replace(generator=optax.apply_updates(weights.generator, updates))
        return (weights, states._replace(generator=state)), value

    make = _host_epoch if jax.default_backend() == "cpu" else _compiled_epoch
    run_epoch = make(critic_step, generator_step)
    states = Weights(*(o.init(w) for o, w in zip(optimisers, weights, strict=True)))
    carry, losses = (weights, states), []
    for epoch in range(epochs):
        epoch_key = jax.random.fold_in(key, epoch)
        order = np.asarray(jax.random.permutation(epoch_key, count))
        batches = order[: steps * batch_size].reshape(steps, batch_size)
        turns = (epoch * steps + np.arange(1, steps + 1)) % critic_steps == 0
        keys = jax.random.split(epoch_key, steps)
        carry, values = run_epoch(carry, images, batches, keys, turns)
        of_critic, of_generator = (np.asarray(v) for v in values)
        mean = of_generator[turns].mean() if turns.any() else np.nan
        losses.append((check_loss(of_critic.mean(), epoch, learning_rate), mean))
        on_epoch(epoch + 1, float(losses[-1][0]))
    return carry[0], *np.array(losses, np.float32).T


def _adam(learning_rate, final_rate, betas, steps: int) -> optax.GradientTransformation:
    """Adam with a cosine decay over `steps` steps to the share `final_rate` of the learning
    rate."""
    if final_rate == 1:
        return optax.adam(learning_rate, *betas)
    falling = optax.cosine_decay_schedule(learning_rate, max(steps, 1), final_rate)
    return optax.adam(falling, *betas)


def _host_epoch(critic_step, generator_step):
    """A Python loop over jitted steps. On a CPU, convolutions are several times slower inside a
    compiled loop (jax-ml/jax issue 12868)."""
    critic_step, generator_step = jax.jit(critic_step), jax.jit(generator_step)

    def run_epoch(carry, images, batches, keys, turns):
        of_critic, of_generator = [], []
        for indices, key, turn in zip(batches, keys, turns, strict=True):
            carry, value = critic_step(carry, images, indices, key)
            of_critic.append(value)
            value = np.nan
            if turn:
                carry, value = generator_step(carry, key)
            of_generator.append(value)
        return carry, jax.device_get((of_critic, of_generator))  # stacking so many is slow

    return run_epoch


def _compiled_epoch(critic_step, generator_step):
    """One `lax.scan` per epoch, for backends where a step takes less time than its dispatch."""

    @jax.jit
    def run_epoch(carry, images, batches, keys, turns):
        def step(carry, now):
            indices, key, turn = now
            carry, of_critic = critic_step(carry, images, indices, key)
            carry, of_generator = lax.cond(
                turn, generator_step, lambda carry, _: (carry, jnp.float32(jnp.nan)), carry, key
            )
            return carry, (of_critic, of_generator)

        return lax.scan(step, carry, (batches, keys, turns))

    return run_epoch
