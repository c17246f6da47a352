"""Every attack, small enough for a test: what holds for all is tested on all."""

import jax.numpy as jnp

import attacks_jax as aj


def nothing(images):
    """A detector that says something of every image, and flags none."""
    return jnp.tanh(images.mean((1, 2, 3))) - 2


DE = {"pixels": 2, "population": 6, "generations": 3}


FEW_L0 = {"num_steps": 15, "step_size": 0.03, "initial_const": 1.0, "largest_const": 9.0}
FEW_LINF = {"num_steps": 10, "initial_const": 1.0, "largest_const": 9.0, "max_rounds": 6}


def untargeted(bounds=(0.0, 1.0)):
    """Options in units of the pixels are the same shares of any bounds."""
    unit, to = bounds[1] - bounds[0], {"bounds": bounds}
    few = {"num_steps": 15, "initial_const": 1.0} | to
    l2 = {"eps": 0.5 * unit, "norm": "l2"} | to
    steps = {"eps": 0.05 * unit, "step_size": 0.02 * unit, "num_steps": 4} | to
    nes = {"sigma": 0.001 * unit, "step_size": 0.01 * unit, "num_steps": 40, "samples": 8}
    return {
        "fgsm": aj.fgsm(eps=0.1 * unit, **to),
        "least_likely": aj.least_likely(eps=0.1 * unit, **to),
        "bim": aj.bim(eps=0.1 * unit, step_size=0.02 * unit, num_steps=5, **to),
        "pgd": aj.pgd(restarts=2, **steps),
        "pgd-l2": aj.pgd(step_size=0.2 * unit, num_steps=4, **l2),
        "mifgsm": aj.mifgsm(eps=0.1 * unit, num_steps=5, **to),
        "evading_pgd": aj.evading_pgd(detector=nothing, **steps),
        "evading_pgd-selective": aj.evading_pgd(
            detector=nothing, step_size=0.2 * unit, num_steps=4, mode="selective",
            random_start=True, **l2,
        ),
        "apgd": aj.apgd(eps=0.05 * unit, num_steps=8, **to),
        "apgd-t": aj.apgd(eps=0.05 * unit, num_steps=6, num_targets=2, **to),
        "carlini_wagner_l2": aj.carlini_wagner_l2(binary_search_steps=3, **few),
        "carlini_wagner_l0": aj.carlini_wagner_l0(**FEW_L0, **to),
        "carlini_wagner_linf": aj.carlini_wagner_linf(**FEW_LINF, **to),
        "ead": aj.ead(binary_search_steps=2, **few),
        "deepfool": aj.deepfool(num_steps=8, **to),
        "one_pixel": aj.one_pixel(**DE, **to),
        "nes": aj.nes(eps=0.1 * unit, **nes, **to),
        "square": aj.square(eps=0.1 * unit, num_steps=20, **to),
        "square-l2": aj.square(num_steps=20, **l2),
        "boundary": aj.boundary(num_steps=60, **to),
        "hop_skip_jump": aj.hop_skip_jump(num_steps=80, initial_gradient_queries=10, **to),
        "auto_attack": aj.auto_attack(eps=0.05 * unit, num_steps=5, num_queries=10, **to),
        "ensemble": aj.ensemble(
            (aj.deepfool(num_steps=8, **to), aj.pgd(step_size=0.01 * unit, num_steps=4, **l2)),
            norm="l2",
        ),
    }  # fmt: skip


def targeted(bounds=(0.0, 1.0)):
    unit, to = bounds[1] - bounds[0], {"bounds": bounds, "targeted": True}
    few = {"num_steps": 15, "initial_const": 1.0} | to
    steps = {"eps": 0.1 * unit, "step_size": 0.02 * unit, "num_steps": 5} | to
    return {
        "fgsm": aj.fgsm(eps=0.1 * unit, **to),
        "bim": aj.bim(**steps),
        "evading_pgd": aj.evading_pgd(detector=nothing, **steps),
        "apgd": aj.apgd(eps=0.1 * unit, num_steps=8, **to),
        "carlini_wagner_l2": aj.carlini_wagner_l2(binary_search_steps=3, **few),
        "jsma": aj.jsma(theta=1.0 * unit, gamma=0.5, **to),
        "square": aj.square(eps=0.2 * unit, num_steps=20, **to),
    }


def learning(bounds=(0.0, 1.0)):
    return {
        "patch": aj.patch(size=3, num_steps=10, bounds=bounds),
        "atn": aj.atn(num_steps=10, bounds=bounds),
    }


def every(bounds=(0.0, 1.0)):
    """name -> (attack, whether labels are targets)"""
    aimed = {f"{name}, targeted": (attack, True) for name, attack in targeted(bounds).items()}
    others = untargeted(bounds) | learning(bounds)
    return {name: (attack, False) for name, attack in others.items()} | aimed


LEARNING = learning()
EVERY = every()
# Each method once: for what takes a compilation to find out.
ONCE = {
    name: pair
    for name, pair in EVERY.items()
    if not name.endswith(", targeted") or name.startswith("jsma")
}
INDEPENDENT = {name: pair for name, pair in ONCE.items() if name not in LEARNING}
