"""The programs we measure ourselves against (extra `peers`), given the same weights."""

import importlib.util
from typing import Any

import numpy as np

from experiments.victims import CNN


def available() -> bool:
    """Whether torch and Foolbox are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "foolbox"))


def torch_twin(network: CNN, params: Any) -> Any:
    """The victim as a `torch.nn.Module`: (B, C, H, W) -> logits (B, K), same weights."""
    import torch
    from torch import nn

    weights = params["params"]
    modules: list[Any] = []
    for names in network.convolution_names():
        for name in names:
            kernel = np.asarray(weights[name]["kernel"])  # (h, w, in, out)
            convolution = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding="same")
            _fill(convolution, kernel.transpose(3, 2, 0, 1), weights[name]["bias"])
            modules += [convolution, nn.ReLU()]
        modules.append(nn.MaxPool2d(2))

    class ToNHWC(nn.Module):  # Flax flattens channel-last feature maps
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1)

    class Standardise(nn.Module):
        def forward(self, x):
            mean = x.mean((1, 2, 3), keepdim=True)
            variance = x.var((1, 2, 3), keepdim=True, unbiased=False)
            return (x - mean) / torch.sqrt(variance + 1e-3)

    modules.append(ToNHWC())
    for name in ("hidden", "logits"):
        kernel = np.asarray(weights[name]["kernel"])
        dense = nn.Linear(*kernel.shape)
        _fill(dense, kernel.T, weights[name]["bias"])
        modules += [dense, nn.ReLU()]
    modules.pop()  # logits are not rectified
    head = [Standardise()] if network.standardise else []
    return nn.Sequential(*head, *modules).eval()


def _fill(layer: Any, weight: np.ndarray, bias: Any) -> None:
    import torch

    layer.weight.data = torch.from_numpy(np.ascontiguousarray(weight))
    layer.bias.data = torch.from_numpy(np.array(bias))


def to_torch(images: np.ndarray) -> Any:
    """(B, H, W, C) -> a torch tensor (B, C, H, W)."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.asarray(images).transpose(0, 3, 1, 2)))


def from_torch(images: Any) -> np.ndarray:
    """(B, C, H, W) -> (B, H, W, C)."""
    return images.detach().cpu().numpy().transpose(0, 2, 3, 1)
