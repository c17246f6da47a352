"""Building blocks of the networks, without strides. With XLA on a CPU, the gradients of strided
convolutions and of pooling by reduce_window are many times slower."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

# For ReLU networks of eight and more layers (He et al., 2015). Without batch normalisation, their
# signal vanishes under Flax's default.
he_normal = nn.initializers.he_normal()


class ConvUnit(nn.Module):
    """(B, h, w, c) -> (B, h, w, channels): convolution, batch normalisation if `normalise`, ReLU.

    SPT, fig. 7: "for C4 (with BN), the BN operation is added between the Conv and ReLU layers".
    """

    channels: int
    kernel: int = 3
    normalise: bool = True
    padding: str = "SAME"
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            padding=self.padding,
            use_bias=not self.normalise,  # batch normalisation has one
            kernel_init=he_normal,
        )(x)
        if self.normalise:
            # Running averages adapt within tens of steps, because some trainings are short.
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return self.activation(x)


class Residual(nn.Module):
    """(B, h, w, c) -> (B, h, w, channels): ReLU(f(x) + x), f two convolutions (He et al., 2016,
    fig. 2). If the channels change, x passes a 1x1 convolution (option B)."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        change = ConvUnit(self.channels)(x, train=train)
        change = ConvUnit(self.channels, activation=_identity)(change, train=train)
        if x.shape[-1] != self.channels:
            x = ConvUnit(self.channels, kernel=1, activation=_identity)(x, train=train)
        return nn.relu(change + x)


class Inception(nn.Module):
    """(B, h, w, c) -> (B, h, w, C): 1x1, 3x3 and 5x5 convolutions and pooling, side by side
    (Szegedy et al., 2015, fig. 2b).

    `widths`: a row of their table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def unit(x, channels, kernel=1):
            return ConvUnit(channels, kernel)(x, train=train)

        one, reduce3, three, reduce5, five, pool = self.widths
        branches = (
            unit(x, one),
            unit(unit(x, reduce3), three, 3),
            unit(unit(x, reduce5), five, 5),
            unit(max_of_neighbours(x), pool),
        )
        return jnp.concatenate(branches, axis=-1)


def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max pooling by a reshape. On a CPU, the gradient of XLA's reduce_window is 5 to 10 times
    slower. It drops an odd last row or column, as 'valid' pooling does."""
    return _windows(x).max(axis=(2, 4))


def average_pool(x: jax.Array) -> jax.Array:
    """2x2 average pooling by a reshape."""
    return _windows(x).mean(axis=(2, 4))


def can_pool(x: jax.Array) -> bool:
    """Returns whether 2x2 pooling leaves a pixel: five poolings leave none of 28x28 pixels."""
    return min(x.shape[1:3]) >= 2


def max_of_neighbours(x: jax.Array) -> jax.Array:
    """3x3 max pooling of stride 1, rows first, then columns.

    x must be rectified, so that the zero padding does not change the maximum.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        pads = [(1, 1) if a == axis else (0, 0) for a in range(4)]
        padded = jnp.pad(x, pads)
        left, right = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in (0, 2))
        x = jnp.maximum(jnp.maximum(left, x), right)
    return x


def _windows(x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _identity(x: jax.Array) -> jax.Array:
    return x
