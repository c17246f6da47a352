"""Ports a victim to torch with the same weights, and converts arrays between JAX and torch."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.victims import CNN


def torch_twin(network: CNN, params: Any, *, share_ties: bool = False) -> Any:
    """Returns the victim as a `torch.nn.Module` with the same weights: (B, C, H, W) -> (B, K).

    Args:
      network: the victim's network.
      params: its Flax variables.
      share_ties: pool with JAX's gradient, which is shared among equal values. Torch's own pooling
        is faster and gives the whole gradient to the first. Both are correct, and images with flat
        backgrounds have many ties.
    """
    import torch
    from torch import nn

    class SharingMaxPool(nn.Module):
        def forward(self, x):
            height, width = x.shape[2] // 2, x.shape[3] // 2
            x = x[:, :, : 2 * height, : 2 * width]
            return x.reshape(*x.shape[:2], height, 2, width, 2).amax((3, 5))

    class ToNHWC(nn.Module):  # Flax flattens channel-last feature maps
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    class Standardise(nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3), keepdim=True)
            variance = x.var((1, 2, 3), keepdim=True, unbiased=False)
            return (x - mean) / torch.sqrt(variance + 1e-3)

    class Twin(nn.Module):  # ART splits an nn.Sequential, which bypasses call counters
        def __init__(self, layers):
            super().__init__()
            self.layers = nn.Sequential(*layers)

        def forward(self, x):
            return self.layers(x.float())  # ART passes doubles

    weights = params["params"]
    modules: list[Any] = []
    for names in network.convolution_names():
        for name in names:
            kernel = np.asarray(weights[name]["kernel"])  # (h, w, in, out)
            convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding="same")
            _fill(convolution, kernel.transpose(3, 2, 0, 1), weights[name]["bias"])
            modules += [convolution, nn.ReLU()]
        modules.append(SharingMaxPool() if share_ties else nn.MaxPool2d(2))

    modules.append(ToNHWC())
    for name in ("hidden", "logits"):
        kernel = np.asarray(weights[name]["kernel"])
        dense = nn.Linear(*kernel.shape)
        _fill(dense, kernel.T, weights[name]["bias"])
        modules += [dense, nn.ReLU()]
    modules.pop()  # logits have no ReLU
    head = [Standardise()] if network.standardise else []
    return Twin([*head, *modules]).eval()


def _fill(layer: Any, weight: np.ndarray, bias: Any) -> None:
    import torch

    layer.weight.data = torch.from_numpy(np.ascontiguousarray(weight))
    layer.bias.data = torch.from_numpy(np.array(bias))


def to_torch(images: np.ndarray) -> Any:
    """Converts (B, H, W, C) to a torch tensor (B, C, H, W)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


def from_torch(images: Any) -> np.ndarray:
    """Converts a torch tensor (B, C, H, W) to (B, H, W, C)."""
    return images.detach().cpu().numpy().transpose(0, 2, 3, 1)


def device() -> str:
    """Returns torch's device, the same as JAX's, and sets the same precision: by default torch
    rounds convolutions to TF32, which `experiments.runtime` forbids for JAX."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    beside = jax.default_backend() != "cpu" and torch.cuda.is_available()
    return "cuda" if beside else "cpu"


@contextlib.contextmanager
def counting(model: Any) -> Iterator[Callable[[], int]]:
    """Counts the images that pass through a torch model; yields a function that returns it."""
    passed = 0

    def count(_module: Any, inputs: tuple[Any, ...]) -> None:
        nonlocal passed
        passed += len(inputs[0])

    handle = model.register_forward_pre_hook(count)
    try:
        yield lambda: passed
    finally:
        handle.remove()
