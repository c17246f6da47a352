"""Trains CMAG's modules and MagNet's autoencoder I in torch, to time `cmag_jax._training` against.

Networks, initial weights, loss, batches and Adam are the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmag_jax.cmag import CMAGConfig
from cmag_jax.ssim import C1, C2
from experiments.benchmark.peers.torch_port import _fill, device, to_torch

CHUNK = 1000  # images per batch of the fixed networks; does not change results


class Task(NamedTuple):
    """A network with its training data and loss."""

    network: nn.Module
    data: tuple[Tensor, ...]  # each (N, ...); a batch has the same rows of each
    draw: Callable[[tuple[Tensor, ...]], Any]  # a batch -> the random draws of its loss
    loss: Callable[[tuple[Tensor, ...], Any], Tensor]  # (batch, random draws) -> ()


def epochs(task: Task, config: Any, total: int) -> Callable[[], float]:
    """Returns a function that trains the next of `total` epochs and returns its mean loss.

    Args:
      config: the detector's configuration, with its batch size and learning rate.
    """
    count = len(task.data[0])
    batch_size = min(config.batch_size, count)
    steps = count // batch_size
    optimiser = torch.optim.Adam(task.network.parameters(), config.learning_rate)
    final = getattr(config, "final_rate", 1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, total * steps, final * config.learning_rate
    )

    def epoch() -> float:
        order = torch.randperm(count, device=task.data[0].device)
        summed = torch.zeros((), device=order.device)
        for rows in order[: steps * batch_size].split(batch_size):
            batch = tuple(array[rows] for array in task.data)
            optimiser.zero_grad()
            loss = task.loss(batch, task.draw(batch))
            loss.backward()
            optimiser.step()
            if final != 1:
                cosine.step()
            summed += loss.detach()
        return float(summed) / steps

    return epoch


def task(module: str, params: Any, images: np.ndarray, victim: nn.Sequential) -> Task:
    """Returns the training task of a module, from its untrained weights.

    Args:
      module: "fmr", "lr" or "gr" of CMAG, "I" of MagNet.
      params: the result of the detector's `init`.
      images: (N, H, W, C) float32 in [0, 1].
      victim: the layers of `torch_twin`'s result.
    """
    here, x = device(), to_torch(images).to(device())
    if module == "I":
        return _autoencoder(params, x)
    config, shape = params.config, params.image_shape
    if config.ssim != "global":
        raise ValueError(f"expected the global SSIM, got {config.ssim!r}")
    until_features, head = victim[:-4].to(here), victim[-4:].to(here)  # see `torch_twin`
    feature_maps = _each(until_features, x)
    if module == "fmr":
        network = _fmr(params.fmr["params"], shape).to(here)
        return _fmr_task(config, network, until_features, x, feature_maps)
    logits = _each(head, feature_maps)
    lr = _lr(params.lr["params"], shape).to(here)
    if module == "lr":
        return _lr_task(config, lr, x, logits)
    of_fmr = _each(_fmr(params.fmr["params"], shape).to(here), feature_maps)
    gr = _gr(params.gr["params"], shape, config).to(here)
    return _gr_task(config, gr, lr, x, of_fmr, logits)


def _fmr_task(config: CMAGConfig, network, victim, x, feature_maps) -> Task:
    def draw(batch):
        if not config.fmr_noise:
            return None
        half = batch[0][: len(batch[0]) // 2]
        return config.fmr_noise * torch.rand_like(half[:, :1, :1, :1]) * torch.randn_like(half)

    def loss(batch, noise):
        images, seen = batch
        if noise is not None:
            with torch.no_grad():
                of_noisy = victim((images[: len(noise)] + noise).clamp(0, 1))
            seen = torch.cat([of_noisy, seen[len(noise) :]])
        return _reconstruction_loss(images, network(seen), config.mu_fmr).mean()

    return Task(network, (x, feature_maps), draw, loss)


def _lr_task(config: CMAGConfig, network, x, logits) -> Task:
    def loss(batch, _):
        images, seen = batch
        rebuilt = network(F.softmax(seen / config.temperature, 1))
        return _reconstruction_loss(images, rebuilt, config.mu_lr).mean()

    return Task(network, (x, logits), lambda _: None, loss)


def _gr_task(config: CMAGConfig, network, lr, x, of_fmr, logits) -> Task:
    def draw(batch):
        """Returns (B,): a class other than the predicted one, drawn as in `cmag._another_class`."""
        if not config.contrast:
            return None
        classes = batch[2].shape[1]
        best, runner_up = batch[2].topk(2).indices.T
        other = (best + torch.randint_like(best, 1, classes)) % classes
        return torch.where(torch.rand(best.shape, device=best.device) < 0.5, runner_up, other)

    def error(target, of_fmr, probabilities):
        with torch.no_grad():
            of_lr = lr(probabilities)
        rebuilt = network(_combine(of_fmr, of_lr, config))
        return _reconstruction_loss(target, rebuilt, config.mu_gr)

    def loss(batch, wrong):
        images, of_fmr, seen = batch
        errors = error(images, of_fmr, F.softmax(seen / config.temperature, 1))
        if wrong is not None:
            one_hot = F.one_hot(wrong, seen.shape[1]).to(seen)
            errors = errors + config.contrast * error(1 - images, of_fmr, one_hot)
        return errors.mean()

    return Task(network, (x, of_fmr, logits), draw, loss)


def _autoencoder(params: Any, x: Tensor) -> Task:
    config, weights = params.config, params.I["params"]
    network = nn.Sequential(*(_layer(weights, f"Conv_{i}") for i in range(len(weights))))
    network, pools = network.to(x.device), len(weights) == 5

    def draw(batch):
        return config.noise * torch.randn_like(batch[0])

    def loss(batch, noise):
        (images,), activity = batch, torch.zeros((), device=x.device)
        seen = (images + noise).clamp(0, 1)
        for i, layer in enumerate(network):
            seen = torch.sigmoid(layer(seen))
            activity = activity + (seen**2).sum()
            if pools and i == 0:
                seen = F.avg_pool2d(seen, 2)
            if pools and i == 2:
                seen = F.interpolate(seen, scale_factor=2)  # repeats each pixel four times
        return F.mse_loss(seen, images) + config.regularisation * activity

    return Task(network, (x,), draw, loss)


def _reconstruction_loss(x: Tensor, rebuilt: Tensor, mu: float) -> Tensor:
    """`cmag.reconstruction_loss` of images (B, C, H, W), with the global SSIM."""
    return mu * ((x - rebuilt) ** 2).mean((1, 2, 3)) + (1 - mu) * (1 - _global_ssim(x, rebuilt))


def _global_ssim(a: Tensor, b: Tensor) -> Tensor:
    mean_a, mean_b = a.mean((2, 3)), b.mean((2, 3))
    centred_a, centred_b = a - mean_a[..., None, None], b - mean_b[..., None, None]

    def covariance(x, y):
        return (x * y).sum((2, 3)) / (x.shape[2] * x.shape[3] - 1)

    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    variances = covariance(centred_a, centred_a) + covariance(centred_b, centred_b)
    contrast_structure = (2 * covariance(centred_a, centred_b) + C2) / (variances + C2)
    return (luminance * contrast_structure).mean(1)


def _combine(of_fmr: Tensor, of_lr: Tensor, config: CMAGConfig) -> Tensor:
    if config.combination == "average":
        return 0.5 * of_fmr + 0.5 * of_lr
    if config.combination == "signed":
        return (2 * of_fmr - 1) * (2 * of_lr - 1)
    return of_fmr * of_lr


class _Gated(nn.Module):
    """`reconstructors.GatedReconstructor`."""

    def __init__(self, weights: Any, order: np.ndarray) -> None:
        super().__init__()
        first, second = _layer(weights, "Dense_0", into=order), _layer(weights, "Dense_1")
        self.trunk = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())
        self.added = _layer(weights, "Dense_2", out=order)
        self.gate = _layer(weights, "Dense_3", out=order)

    def forward(self, h: Tensor) -> Tensor:
        x = self.trunk(h)
        return torch.sigmoid(self.added(x) + 4 * self.gate(x) * h.flatten(1)).reshape(h.shape)


def _fmr(weights: Any, shape: tuple[int, int, int]) -> nn.Module:
    channels, layers = shape[-1], []
    for i in range(3):
        layers += [_layer(weights, f"Conv_{i}"), nn.ReLU()]
    pixels = weights["Conv_3"]["bias"].shape[0] // channels  # block x block
    # A block of pixels has its channels last in JAX, first in torch.
    order = np.arange(pixels * channels).reshape(pixels, channels).T.ravel()
    shuffle = nn.PixelShuffle(round(pixels**0.5))
    return nn.Sequential(*layers, _layer(weights, "Conv_3", out=order), shuffle, nn.Sigmoid())


def _lr(weights: Any, shape: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(*_dense_image(weights, shape, slice(None)))


def _gr(weights: Any, shape: tuple[int, int, int], config: CMAGConfig) -> nn.Module:
    order = _channels_first(shape)
    if config.gr == "gated":
        return _Gated(weights, order)
    return nn.Sequential(nn.Flatten(), *_dense_image(weights, shape, order))


def _dense_image(weights: Any, shape: tuple[int, int, int], into: Any) -> list[nn.Module]:
    first, second = _layer(weights, "Dense_0", into=into), _layer(weights, "Dense_1")
    last = _layer(weights, "Dense_2", out=_channels_first(shape))
    height, width, channels = shape
    image = nn.Unflatten(1, (channels, height, width))
    return [first, nn.ReLU(), second, nn.ReLU(), last, nn.Sigmoid(), image]


def _layer(weights: Any, name: str, *, into: Any = slice(None), out: Any = slice(None)) -> Any:
    """Returns a convolution or dense layer with Flax's weights and reordered channels."""
    kernel = np.asarray(weights[name]["kernel"])[..., into, :][..., out]
    bias = np.asarray(weights[name]["bias"])[out]
    if kernel.ndim == 2:
        dense = nn.Linear(*kernel.shape)
        _fill(dense, kernel.T, bias)
        return dense
    convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], kernel.shape[:2], padding="same")
    _fill(convolution, kernel.transpose(3, 2, 0, 1), bias)
    return convolution


def _channels_first(shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the indices into a flat image (H, W, C) that give a flat image (C, H, W)."""
    return np.arange(np.prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()


@torch.no_grad()
def _each(network: nn.Module, x: Tensor) -> Tensor:
    """Returns the network's outputs for all images, computed in batches."""
    return torch.cat([network(part) for part in x.split(CHUNK)])
