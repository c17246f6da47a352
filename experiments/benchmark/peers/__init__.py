"""The programs we measure ourselves against (extra `peers`), given the same weights.

Each peer has a file with `make(case, model, images, goals)`: the case's attack as a function
without arguments to adversarial images (a torch tensor, NCHW), or None where the peer lacks it.
"""

import importlib
import importlib.util
import random
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.cases import Case
from experiments.benchmark.peers.torch_port import counting as counting
from experiments.benchmark.peers.torch_port import device as device
from experiments.benchmark.peers.torch_port import from_torch as from_torch
from experiments.benchmark.peers.torch_port import to_torch as to_torch
from experiments.benchmark.peers.torch_port import torch_twin as torch_twin

# Peer -> (the package it is imported as, our file about it).
PEERS = {
    "Foolbox": ("foolbox", "foolbox_attacks"),
    "ART": ("art", "art_attacks"),
    "torchattacks": ("torchattacks", "torchattacks_attacks"),
}


class Outcome(NamedTuple):
    images: np.ndarray  # (B, H, W, C)
    success: np.ndarray  # (B,) bool, asked of the torch model on the returned images


def installed() -> list[str]:
    """The peers that can be imported; says in words which can't."""
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: measuring without peers")
        return []
    found = []
    for name, (package, _) in PEERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{name} is not installed: measuring without it")
        else:
            found.append(name)
    return found


def make(
    name: str, case: Case, model: Any, images: np.ndarray, goals: np.ndarray
) -> Callable[[], Outcome] | None:
    """A peer's attack on images (B, H, W, C), of which it may get only the first `case.few`.

    Args:
      name: a key of PEERS that is installed.
      case: the attack and its options.
      model: what `torch_twin` gave, on `device()`.
      images: within [0, 1].
      goals: (B,) the true classes, or the targets of a targeted case.

    Returns:
      A function that attacks anew at each call; None where the peer lacks the attack.
    """
    import torch

    count = min(case.few.get(system, len(images)) for system in (name, "attacks_jax"))
    if not count:
        return None
    tensor = to_torch(images[:count]).to(device())
    labels = torch.from_numpy(goals[:count].astype(np.int64)).to(device())
    module = importlib.import_module(f"experiments.benchmark.peers.{PEERS[name][1]}")
    attack = module.make(case, model, tensor, labels)
    return attack and partial(_judged, attack, model, labels, case.targeted)


def seed(value: int) -> None:
    """Makes the peers' randomness repeatable, most of which comes from global states."""
    import torch

    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002


def _judged(attack: Callable[[], Any], model: Any, goals: Any, targeted: bool) -> Outcome:
    import torch

    images = attack().detach().to(goals.device)
    with torch.no_grad():
        reached = model(images).argmax(1) == goals
    success = reached if targeted else ~reached
    return Outcome(from_torch(images), success.cpu().numpy())


def rounds_of_hop_skip_jump(queries: int) -> int:
    """The rounds of HopSkipJump that come nearest: 50 queries to begin, then about 100 sqrt(round)
    for the gradient and 25 for the searches. What is really spent is counted and reported."""
    rounds, spent, cost = 0, 50.0, 125.0
    while spent + cost / 2 <= queries:
        rounds, spent = rounds + 1, spent + cost
        cost = 100 * (rounds + 1) ** 0.5 + 25
    return max(rounds, 1)
