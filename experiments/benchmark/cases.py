"""The attacks that `parity` and `benchmark` compare with reference implementations.

A case names an attack and its options as `attacks_jax` does. Each file of
`experiments/benchmark/peers` translates it for one implementation, so that all get the same options
and the same number of steps, rounds or queries.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

import attacks_jax

SAME_PIXEL = 1e-4  # pixels that differ by less count as equal
Norm = Literal["linf", "l2", "l1", "l0"]


@dataclass(frozen=True)
class Case:
    """One attack with its options, and how it is measured."""

    name: str  # in the tables
    attack: str  # the name of the function in attacks_jax that makes it
    options: Mapping[str, Any]  # of that function
    norm: Norm  # of the distortion
    targeted: bool = False
    target: int | None = None  # one target for all images; None: the class after an image's own
    deterministic: bool = False  # same algorithm, not random: all implementations agree on pixels
    gradients: int = 1  # gradients in each query; 0 for a black-box attack
    few: Mapping[str, int] = field(default_factory=dict)  # slow system -> its number of images
    images: int = 128  # images attacked at a time when speed is measured
    repeats: int = 5  # repeats when speed is measured

    def make(self) -> Any:
        """Returns the attack of attacks_jax.

        Raises:
          AttributeError: attacks_jax lacks it.
        """
        mode = {"targeted": True} if self.targeted else {}
        return getattr(attacks_jax, self.attack)(**self.options, **mode)

    @property
    def ours(self) -> bool:
        """Returns whether attacks_jax has the attack."""
        return hasattr(attacks_jax, self.attack)

    def goals(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """Returns the classes that the attack gets: the true ones or, if targeted, the targets."""
        if self.target is not None:
            return np.full_like(labels, self.target)
        return (labels + 1) % classes if self.targeted else labels


# (eps in l-infinity, eps in l2): attacks on an undefended victim succeed on some images, not all.
EPS = {"digits": (0.1, 1.5), "mnist": (0.1, 1.5), "cifar10": (1.5 / 255, 0.15)}


def parity(dataset: str) -> list[Case]:
    """Returns all attacks that a reference implementation also has. Their budgets take minutes on
    two cores."""
    eps, eps_l2 = EPS[dataset]
    one = {"eps": eps}
    steps = {"eps": eps, "step_size": eps / 10, "num_steps": 20}
    steps_l2 = {"eps": eps_l2, "step_size": eps_l2 / 10, "num_steps": 20, "norm": "l2"}
    still: dict[str, Any] = {"random_start": False}
    cw = {"step_size": 0.05, "initial_const": 1.0}
    auto = {"eps": eps, "norm": "linf", "num_steps": 50}
    rounds = {"num_steps": 150, "binary_search_steps": 4, "abort_early": False}
    few_cw = {"attacks_jax": 20, "ART": 5}
    shrinking = {"num_steps": 100, "step_size": 0.05}
    ead = {
        "num_steps": 150, "binary_search_steps": 4, "step_size": 0.01, "initial_const": 1.0,
        "beta": 0.01, "decision_rule": "EN", "abort_early": False,
    }  # fmt: skip
    deepfool = {"num_steps": 50, "overshoot": 0.02}
    squares = {"num_steps": 500, "p_init": 0.8}
    pixels = {"pixels": 5, "population": 390, "generations": 5}
    patch = {"size": 10, "rotation": 22.5, "num_steps": 50, "batch_size": 100}
    return [
        Case("FGSM", "fgsm", one, "linf", deterministic=True),
        Case("FGSM targeted", "fgsm", one, "linf", targeted=True, deterministic=True),
        Case("least likely", "least_likely", one, "linf", deterministic=True),
        Case("BIM", "bim", steps, "linf", deterministic=True),
        Case("PGD-linf still", "pgd", steps | still, "linf", deterministic=True),
        Case("PGD-l2 still", "pgd", steps_l2 | still, "l2", deterministic=True),
        Case("PGD-linf", "pgd", steps, "linf"),
        Case("PGD-linf targeted", "pgd", steps, "linf", targeted=True),
        Case("MI-FGSM", "mifgsm", steps | {"decay": 1.0}, "linf", deterministic=True),
        Case("APGD-CE", "apgd", auto, "linf"),
        Case("APGD-CE l2", "apgd", auto | {"eps": eps_l2, "norm": "l2"}, "l2"),
        Case("APGD-DLR", "apgd", auto | {"loss": attacks_jax.dlr}, "linf"),
        Case("CW-l2", "carlini_wagner_l2", cw | rounds, "l2", few={"ART": 10}),
        Case("CW-l2 targeted", "carlini_wagner_l2", cw | rounds, "l2", True, few={"ART": 10}),
        Case(
            "CW-l2 1x200", "carlini_wagner_l2",
            cw | {"num_steps": 200, "binary_search_steps": 1, "abort_early": False}, "l2",
            few={"ART": 0},
        ),
        Case("CW-l0", "carlini_wagner_l0", shrinking, "l0", few=few_cw),
        Case("CW-linf", "carlini_wagner_linf", shrinking, "linf", few=few_cw),
        Case("DeepFool", "deepfool", deepfool, "l2", deterministic=True),
        Case("EAD", "ead", ead, "l1", few={"ART": 10, "torchattacks": 50}),
        # An eighth of the pixels is a whole number of pairs, so no implementation rounds.
        Case("JSMA", "jsma", {"theta": 1.0, "gamma": 0.125}, "l0", targeted=True,
             few={"torchattacks": 30}),
        Case("patch", "patch", patch, "l0", targeted=True, target=0),
        Case("few pixels", "one_pixel", pixels, "l0", few={"ART": 20, "torchattacks": 20}),
        Case("Square-linf", "square", squares | one, "linf"),
        Case("Square-l2", "square", squares | {"eps": eps_l2, "norm": "l2"}, "l2"),
        Case("Boundary", "boundary", {"num_steps": 1000}, "l2", few={"ART": 10}),
        Case("HopSkipJump", "hop_skip_jump", {"num_steps": 1000}, "l2", few={"ART": 10}),
        Case("AutoAttack", "auto_attack", one | {"num_steps": 20, "num_queries": 500}, "linf",
             few={"torchattacks": 50}),
    ]  # fmt: skip


def speed(dataset: str) -> list[Case]:
    """Returns the attacks whose speed is measured, from one gradient to a thousand queries."""
    eps, _ = EPS[dataset]
    steps = {"eps": eps, "step_size": eps / 20, "num_steps": 40}
    cw = {"step_size": 0.01, "initial_const": 1.0, "abort_early": True}
    gamma = {"cifar10": 0.02}.get(dataset, 0.125)  # few pixels: others try all pairs
    slow: dict[str, Any] = {"images": 32, "repeats": 3}
    black_box: dict[str, Any] = {"gradients": 0}
    return [
        Case("FGSM", "fgsm", {"eps": eps}, "linf", repeats=50),
        Case("PGD-40", "pgd", steps, "linf", repeats=10),
        Case("MI-FGSM-40", "mifgsm", steps | {"decay": 1.0}, "linf", repeats=10),
        Case("CW-l2 1x1000", "carlini_wagner_l2",
             cw | {"num_steps": 1000, "binary_search_steps": 1}, "l2", **slow),
        Case("CW-l2 9x200", "carlini_wagner_l2",
             cw | {"num_steps": 200, "binary_search_steps": 9}, "l2", **slow),
        # No implementation ends a round early: steps are equal, so our overhead shows.
        Case("CW-l2 1x200, all steps", "carlini_wagner_l2",
             cw | {"num_steps": 200, "binary_search_steps": 1, "abort_early": False}, "l2",
             few={"ART": 0}, **slow),
        Case("DeepFool", "deepfool", {"num_steps": 50, "overshoot": 0.02}, "l2",
             gradients=10, images=32),
        Case("JSMA", "jsma", {"theta": 1.0, "gamma": gamma}, "l0", targeted=True,
             gradients=2, images=16, repeats=3),
        Case("Square 500", "square", {"eps": eps, "num_steps": 500, "p_init": 0.8}, "linf",
             **black_box, **slow),
        Case("HopSkipJump 1000", "hop_skip_jump", {"num_steps": 1000}, "l2", **black_box, **slow),
    ]  # fmt: skip


def distortion(case: Case, clean: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Returns (B,): the images' distances from the clean ones in the case's norm. l0 counts whole
    pixels."""
    change = np.abs(images - clean).reshape(len(clean), -1, clean.shape[-1])
    if case.norm == "l0":
        return (change.max(axis=2) > SAME_PIXEL).sum(axis=1).astype(float)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[case.norm]
    return np.linalg.norm(change.reshape(len(clean), -1), ord=order, axis=1)


# (case, peer) -> how the peer's algorithm or budget differs, so that figures may differ too.
DIFFERENT = {
    ("PGD-l2 still", "ART"): "clips to the bounds before it projects onto the ball, not after",
    ("PGD-l2 still", "torchattacks"): "adds 1e-10 to the norm of a gradient that it has divided by"
    " the batch size: confident images take shorter steps",
    ("MI-FGSM", "Foolbox"): "sums the gradients' signs, not the gradients",
    ("CW-l2", "ART"): "descends with a line search: six times the queries of a step of Adam",
    ("CW-l2 targeted", "ART"): "the same",
    ("CW-l0", "ART"): "its own elimination, by another rule",
    ("CW-linf", "ART"): "descends with a line search",
    ("Square-linf", "ART"): "a third of the rounds: asks three times in each",
    ("Square-l2", "ART"): "a third of the rounds: asks three times in each",
    ("Boundary", "ART"): "adapts its steps after every 20 proposals, from two trust regions",
    ("HopSkipJump", "Foolbox"): "divides the estimated gradients by the norm of the whole batch's:"
    " the larger the batch, the smaller the hops (one image at a time, it finds what ours does)",
    ("HopSkipJump", "ART"): "searches the boundary with another precision, 0.01 / sqrt(d)",
    ("EAD", "torchattacks"): "begins each round where the last one ended",
    ("few pixels", "ART"): "another differential evolution: best/1, two queries more a generation",
    ("few pixels", "torchattacks"): "another differential evolution: best/1",
    ("patch", "ART"): "gradient steps, not Adam's; a rounded mask on the image's whole canvas",
    ("JSMA", "ART"): "raises the two pixels that raise the target's logit most, whatever they do to"
    " the others': no saliency map",
    ("DeepFool", "ART"): "overshoots once in the end",
    ("DeepFool", "torchattacks"): "overshoots each step by 2% of itself, not the whole way: where"
    " clipping costs more, it never crosses the boundary",
}


def chosen(cases: list[Case], only: tuple[str, ...]) -> list[Case]:
    """Returns the cases with the names in `only`, or all cases if it is empty.

    Raises:
      ValueError: a name is unknown or repeated.
    """
    if len(set(only)) < len(only):
        raise ValueError(f"expected each attack once, got {', '.join(only)}")
    unknown = set(only) - {case.name for case in cases}
    if unknown:
        names = ", ".join(case.name for case in cases)
        raise ValueError(f"expected attacks among {names}; got {', '.join(sorted(unknown))}")
    return [case for case in cases if not only or case.name in only]


def shrunk(case: Case, *, images: int, repeats: int, most_steps: int) -> Case:
    """Returns a smaller case, for a quick look and for tests."""
    options = {
        name: min(value, most_steps) if name in ("num_steps", "binary_search_steps") else value
        for name, value in case.options.items()
    }
    return replace(
        case,
        options=options,
        images=min(case.images, images),
        repeats=min(case.repeats, repeats),
    )
