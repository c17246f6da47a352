"""Foolbox's attacks with a case's options."""

from collections.abc import Callable
from functools import partial
from typing import Any

import foolbox
import torch
from foolbox import attacks

from experiments.benchmark import peers
from experiments.benchmark.cases import Case

# These attacks return a black image if they fail.
BLACK_WHERE_IT_FAILS = ("carlini_wagner_l2", "ead")


def make(case: Case, model: Any, images: Any, goals: Any) -> Callable[[], Any] | None:
    attack = _attack(case)
    if attack is None:
        return None
    criterion: Any = foolbox.criteria.Misclassification(goals)
    if case.targeted:
        criterion = foolbox.criteria.TargetedMisclassification(goals)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=peers.device())
    return partial(_run, case, attack, wrapped, images, criterion)


def _attack(case: Case) -> Any:
    o = case.options
    eps = o.get("eps", 1.0)
    steps = {"steps": o.get("num_steps"), "random_start": o.get("random_start", True)}
    steps["rel_stepsize"] = o.get("step_size", eps) / eps
    match case.attack:
        case "fgsm":  # Foolbox's FGSM takes no targets; one step of its PGD is FGSM
            return attacks.LinfPGD(rel_stepsize=1.0, steps=1, random_start=False)
        case "bim":
            return attacks.LinfBasicIterativeAttack(**steps | {"random_start": False})
        case "pgd":
            return (attacks.L2PGD if o.get("norm") == "l2" else attacks.LinfPGD)(**steps)
        case "mifgsm":
            return attacks.LinfMomentumIterativeFastGradientMethod(
                momentum=o["decay"], **steps | {"random_start": False}
            )
        case "carlini_wagner_l2":
            return attacks.L2CarliniWagnerAttack(
                steps=o["num_steps"], stepsize=o["step_size"], initial_const=o["initial_const"],
                binary_search_steps=o["binary_search_steps"], abort_early=o["abort_early"],
            )  # fmt: skip
        case "deepfool":
            return attacks.L2DeepFoolAttack(steps=o["num_steps"], overshoot=o["overshoot"])
        case "ead":
            return attacks.EADAttack(
                steps=o["num_steps"], initial_stepsize=o["step_size"],
                initial_const=o["initial_const"], binary_search_steps=o["binary_search_steps"],
                regularization=o["beta"], abort_early=False, decision_rule=o["decision_rule"],
            )  # fmt: skip
        case "boundary":  # a tenth of its steps make two queries
            return attacks.BoundaryAttack(steps=int(o["num_steps"] / 1.1))
        case "hop_skip_jump":
            return attacks.HopSkipJumpAttack(steps=peers.rounds_of_hop_skip_jump(o["num_steps"]))
    return None


def _run(case: Case, attack: Any, model: Any, images: Any, criterion: Any) -> Any:
    found, _, _ = attack(model, images, criterion, epsilons=case.options.get("eps"))
    if case.attack in BLACK_WHERE_IT_FAILS:
        black = found.flatten(1).amax(1) == 0
        found = torch.where(black[:, None, None, None], images, found)
    # By rounding, Foolbox's projection may leave the ball or the bounds.
    return found.clamp(0, 1)
