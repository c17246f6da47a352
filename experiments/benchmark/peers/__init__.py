"""The reference implementations of attacks (extra `peers`), run on the same weights.

Each has a file with `make(case, model, images, goals)`. It returns the case's attack as a function
without arguments that returns adversarial images (a torch tensor, NCHW), or None if the
implementation lacks the attack.
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

# Reference implementation -> (its package, our file for it).
PEERS = {
    "Foolbox": ("foolbox", "foolbox_attacks"),
    "ART": ("art", "art_attacks"),
    "torchattacks": ("torchattacks", "torchattacks_attacks"),
}


class Outcome(NamedTuple):
    images: np.ndarray  # (B, H, W, C)
    success: np.ndarray  # (B,) bool, by the torch model on the returned images


def installed() -> list[str]:
    """Returns the reference implementations that are installed; prints which are not."""
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
    """Returns a reference implementation's attack on images (B, H, W, C).

    It may get only the first `case.few` images.

    Args:
      name: a key of PEERS that is installed.
      case: the attack and its options.
      model: the result of `torch_twin`, on `device()`.
      images: within [0, 1].
      goals: (B,) the true classes, or the targets of a targeted case.

    Returns:
      A function that runs the attack at each call; None if the implementation lacks the attack.
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
    """Makes the reference implementations repeatable: most draw from global random states."""
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
    """Returns the rounds of HopSkipJump that cost about `queries` queries.

    It takes 50 queries at the start. Each round takes about 100 sqrt(round) for the gradient and 25
    for the searches. The real number is counted and reported.
    """
    rounds, spent, cost = 0, 50.0, 125.0
    while spent + cost / 2 <= queries:
        rounds, spent = rounds + 1, spent + cost
        cost = 100 * (rounds + 1) ** 0.5 + 25
    return max(rounds, 1)
