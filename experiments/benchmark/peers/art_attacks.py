"""The Adversarial Robustness Toolbox's attacks with a case's options."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier

from experiments.benchmark import peers
from experiments.benchmark.cases import Case

NORMS = {"linf": np.inf, "l2": 2}


class Patch(evasion.AdversarialPatchNumpy):
    def reset_patch(self, initial_patch_value: Any) -> None:
        # ART 1.20.1 accepts only a float, but passes it a numpy.float32.
        super().reset_patch(float(initial_patch_value))


def make(case: Case, model: Any, images: Any, goals: Any) -> Callable[[], Any] | None:
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    classifier = PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=classes,
        clip_values=(0, 1),
        device_type="gpu" if peers.device() == "cuda" else "cpu",
    )
    attack = _attack(case, classifier, len(images))
    return attack and partial(_run, attack, images.cpu().numpy(), goals.cpu().numpy())


def _attack(case: Case, classifier: Any, batch: int) -> Any:
    o = case.options
    norm = NORMS.get(case.norm, np.inf)
    quiet = {"batch_size": batch, "verbose": False}
    aimed = quiet | {"targeted": case.targeted}
    ball = {"norm": norm, "eps": o.get("eps")}
    steps = ball | {"eps_step": o.get("step_size"), "max_iter": o.get("num_steps")} | aimed
    search = {
        "learning_rate": o.get("step_size"),
        "max_iter": o.get("num_steps"),
        "binary_search_steps": o.get("binary_search_steps"),
        "initial_const": o.get("initial_const"),
    } | aimed
    # ART's Carlini and Wagner attacks use a line search: about six queries per iteration.
    line_search = {"max_iter": max(o.get("num_steps", 1) // 6, 1)}
    match case.attack:
        case "fgsm":
            return evasion.FastGradientMethod(
                classifier, **ball, targeted=case.targeted, batch_size=batch
            )
        case "bim":
            return evasion.BasicIterativeMethod(
                classifier, **{name: value for name, value in steps.items() if name != "norm"}
            )
        case "pgd":
            starts = int(o.get("random_start", True))
            return evasion.ProjectedGradientDescent(classifier, num_random_init=starts, **steps)
        case "mifgsm":
            return evasion.MomentumIterativeMethod(classifier, decay=o["decay"], **steps)
        case "apgd":
            loss = "difference_logits_ratio" if "loss" in o else "cross_entropy"
            options = steps | {"eps_step": 2 * o["eps"], "nb_random_init": 1, "loss_type": loss}
            return evasion.AutoProjectedGradientDescent(classifier, **options)
        case "carlini_wagner_l2":
            return evasion.CarliniL2Method(classifier, **search | line_search)
        case "carlini_wagner_l0":
            return evasion.CarliniL0Method(
                classifier, binary_search_steps=4, initial_const=1.0,
                learning_rate=o["step_size"], **aimed | line_search,
            )  # fmt: skip
        case "carlini_wagner_linf":
            return evasion.CarliniLInfMethod(
                classifier, learning_rate=o["step_size"], **aimed | line_search
            )
        case "deepfool":
            return evasion.DeepFool(
                classifier, max_iter=o["num_steps"], epsilon=o["overshoot"], nb_grads=10, **quiet
            )
        case "ead":
            return evasion.ElasticNet(
                classifier, beta=o["beta"], decision_rule=o["decision_rule"], **search
            )
        case "jsma":
            return evasion.SaliencyMapMethod(
                classifier, theta=o["theta"], gamma=o["gamma"], **quiet
            )
        case "patch":  # ART's patch has the image's size and is scaled to the wanted one
            scale = o["size"] / min(classifier.input_shape[1:])
            return Patch(
                classifier, rotation_max=o["rotation"], scale_min=scale, scale_max=scale,
                max_iter=o["num_steps"], **aimed,
            )  # fmt: skip
        case "one_pixel":
            return evasion.PixelAttack(
                classifier, th=o["pixels"], es=1, max_iter=o["generations"], targeted=case.targeted
            )
        case "square":  # about three queries per iteration
            return evasion.SquareAttack(
                classifier,
                **ball,
                max_iter=max(o["num_steps"] // 3, 1),
                p_init=o["p_init"],
                **quiet,
            )
        case "boundary":  # each round: 20 proposals on the sphere, up to 20 steps inwards
            return evasion.BoundaryAttack(
                classifier, max_iter=o["num_steps"] // 40, min_epsilon=0, **aimed
            )
        case "hop_skip_jump":
            rounds = peers.rounds_of_hop_skip_jump(o["num_steps"])
            return evasion.HopSkipJump(classifier, norm=2, max_iter=rounds, **aimed)
    return None


def _run(attack: Any, images: np.ndarray, goals: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # irrelevant warnings of PIL, numpy and ART
        if isinstance(attack, Patch):
            attack.generate(images, goals, reset_patch=True)
            found = attack.apply_patch(images, attack.scale_min)
        else:
            found = attack.generate(images, goals)
    return torch.from_numpy(found.astype(np.float32))
