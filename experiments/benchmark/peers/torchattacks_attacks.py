"""torchattacks' attacks with a case's options."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torchattacks

from experiments.benchmark.cases import Case


def make(case: Case, model: Any, images: Any, goals: Any) -> Callable[[], Any] | None:
    attack = _attack(case, model)
    if attack is None:
        return None
    if case.attack == "least_likely":
        attack.set_mode_targeted_least_likely(quiet=True)
    elif case.targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    return partial(attack, images, goals)


def _attack(case: Case, model: Any) -> Any:
    o = case.options
    norm = {"l2": "L2", "linf": "Linf"}.get(case.norm)
    eps = {"eps": o.get("eps")}
    steps = eps | {"alpha": o.get("step_size"), "steps": o.get("num_steps")}
    match case.attack:
        case "fgsm" | "least_likely":
            return torchattacks.FGSM(model, **eps)
        case "bim":
            return torchattacks.BIM(model, **steps)
        case "pgd":
            kind = torchattacks.PGDL2 if case.norm == "l2" else torchattacks.PGD
            return kind(model, **steps, random_start=o.get("random_start", True))
        case "mifgsm":
            return torchattacks.MIFGSM(model, **steps, decay=o["decay"])
        case "apgd":
            loss = "dlr" if "loss" in o else "ce"
            return torchattacks.APGD(model, norm, steps=o["num_steps"], loss=loss, **eps)
        case "carlini_wagner_l2" if o["binary_search_steps"] == 1:  # torchattacks does not search c
            return torchattacks.CW(
                model, c=o["initial_const"], steps=o["num_steps"], lr=o["step_size"]
            )
        case "deepfool":
            return torchattacks.DeepFool(model, steps=o["num_steps"], overshoot=o["overshoot"])
        case "ead":
            kind = torchattacks.EADL1 if o["decision_rule"] == "L1" else torchattacks.EADEN
            return kind(
                model, lr=o["step_size"], binary_search_steps=o["binary_search_steps"],
                max_iterations=o["num_steps"], abort_early=False,
                initial_const=o["initial_const"], beta=o["beta"],
            )  # fmt: skip
        case "jsma":
            return torchattacks.JSMA(model, theta=o["theta"], gamma=o["gamma"])
        case "one_pixel":
            return torchattacks.OnePixel(
                model, pixels=o["pixels"], steps=o["generations"], popsize=o["population"]
            )
        case "square":
            queries = {"n_queries": o["num_steps"], "p_init": o["p_init"]}
            return torchattacks.Square(model, norm, **queries, **eps)
        case "auto_attack":  # built from the same members as ours, with their steps
            return torchattacks.MultiAttack([
                torchattacks.APGD(model, norm, steps=o["num_steps"], loss="ce", **eps),
                torchattacks.APGDT(model, norm, steps=o["num_steps"], **eps),
                torchattacks.Square(model, norm, n_queries=o["num_queries"], p_init=0.05, **eps),
            ])  # fmt: skip
    return None
