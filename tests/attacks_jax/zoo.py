"""Every attack, small enough for a test: what holds for all is tested on all."""

import attacks_jax as aj


def dark(images):
    """A detector that would flag what is brighter than white: it says something, flags nothing."""
    return images.mean((1, 2, 3)) - 2


FEW_CW = {"num_steps": 15, "initial_const": 1.0}
FEW_L0 = {"num_steps": 15, "step_size": 0.03, "initial_const": 1.0, "largest_const": 9.0}
FEW_LINF = {"num_steps": 10, "initial_const": 1.0, "largest_const": 9.0, "max_rounds": 6}
DE = {"pixels": 2, "population": 6, "generations": 3}

UNTARGETED = {
    "fgsm": aj.fgsm(eps=0.1),
    "least_likely": aj.least_likely(eps=0.1),
    "bim": aj.bim(eps=0.1, step_size=0.02, num_steps=5),
    "pgd": aj.pgd(eps=0.05, step_size=0.02, num_steps=4, restarts=2),
    "pgd-l2": aj.pgd(eps=0.5, step_size=0.2, num_steps=4, norm="l2"),
    "mifgsm": aj.mifgsm(eps=0.1, num_steps=5),
    "evading_pgd": aj.evading_pgd(detector=dark, eps=0.05, step_size=0.02, num_steps=4),
    "evading_pgd-selective": aj.evading_pgd(
        detector=dark,
        eps=0.5,
        step_size=0.2,
        num_steps=4,
        mode="selective",
        norm="l2",
        random_start=True,
    ),
    "apgd": aj.apgd(eps=0.05, num_steps=8),
    "apgd-t": aj.apgd(eps=0.05, num_steps=6, num_targets=2),
    "carlini_wagner_l2": aj.carlini_wagner_l2(binary_search_steps=3, **FEW_CW),
    "carlini_wagner_l0": aj.carlini_wagner_l0(**FEW_L0),
    "carlini_wagner_linf": aj.carlini_wagner_linf(**FEW_LINF),
    "ead": aj.ead(binary_search_steps=2, **FEW_CW),
    "deepfool": aj.deepfool(num_steps=8),
    "one_pixel": aj.one_pixel(**DE),
    "nes": aj.nes(eps=0.1, num_steps=40, samples=8),
    "square": aj.square(eps=0.1, num_steps=20),
    "square-l2": aj.square(eps=0.5, num_steps=20, norm="l2"),
    "boundary": aj.boundary(num_steps=60),
    "hop_skip_jump": aj.hop_skip_jump(num_steps=80, initial_gradient_queries=10),
    "auto_attack": aj.auto_attack(eps=0.05, num_steps=5, num_queries=10),
    "ensemble": aj.ensemble(
        (aj.deepfool(num_steps=8), aj.pgd(eps=0.5, norm="l2", num_steps=4)), norm="l2"
    ),
}
TARGETED = {
    "fgsm": aj.fgsm(eps=0.1, targeted=True),
    "bim": aj.bim(eps=0.1, step_size=0.02, num_steps=5, targeted=True),
    "evading_pgd": aj.evading_pgd(
        detector=dark, eps=0.1, step_size=0.02, num_steps=5, targeted=True
    ),
    "apgd": aj.apgd(eps=0.1, num_steps=8, targeted=True),
    "carlini_wagner_l2": aj.carlini_wagner_l2(binary_search_steps=3, targeted=True, **FEW_CW),
    "jsma": aj.jsma(gamma=0.5),
    "square": aj.square(eps=0.2, num_steps=20, targeted=True),
}
LEARNING = {
    "patch": aj.patch(size=3, num_steps=10),
    "atn": aj.atn(num_steps=10),
}

# name -> (attack, whether labels are targets)
TARGETS = {f"{name}, targeted": (attack, True) for name, attack in TARGETED.items()}
EVERY = {name: (attack, False) for name, attack in (UNTARGETED | LEARNING).items()} | TARGETS
# Each method once: for what takes a compilation to find out.
ONCE = {
    name: pair for name, pair in EVERY.items() if name not in TARGETS or name.startswith("jsma")
}
INDEPENDENT = {name: pair for name, pair in ONCE.items() if name not in LEARNING}
