"""Adversarial attacks in JAX: pure, jittable functions that differentiate through the oracle.

    attack = attacks_jax.carlini_wagner_l2(confidence=9.0, num_steps=1000)
    oracle = attacks_jax.stateless(logits_fn)
    result = attacks_jax.run(attack, oracle, jax.random.key(0), images, labels)
    result.images, result.success, result.distance, result.queries

Images are (B, H, W, C) float32. Their range is [0, 1] unless an attack gets other `bounds`.
"""

from attacks_jax._attacks.apgd import apgd
from attacks_jax._attacks.atn import atn
from attacks_jax._attacks.boundary import boundary
from attacks_jax._attacks.carlini_wagner_l0 import carlini_wagner_l0
from attacks_jax._attacks.carlini_wagner_l2 import carlini_wagner_l2
from attacks_jax._attacks.carlini_wagner_linf import carlini_wagner_linf
from attacks_jax._attacks.deepfool import deepfool
from attacks_jax._attacks.ead import ead
from attacks_jax._attacks.ensemble import auto_attack, ensemble
from attacks_jax._attacks.evading_pgd import evading_pgd
from attacks_jax._attacks.fgsm import fgsm, least_likely
from attacks_jax._attacks.hop_skip_jump import hop_skip_jump
from attacks_jax._attacks.jsma import jsma
from attacks_jax._attacks.nes import nes
from attacks_jax._attacks.one_pixel import one_pixel
from attacks_jax._attacks.patch import patch
from attacks_jax._attacks.pgd import bim, mifgsm, pgd
from attacks_jax._attacks.square import square
from attacks_jax._base import Attack, Oracle, Result
from attacks_jax._detector_oracle import Detector, Guard, guarded, guarded_state
from attacks_jax._losses import Loss, cross_entropy, dlr, margin
from attacks_jax._oracles import bpda, eot, stateless, stochastic
from attacks_jax._run import fit, run
from attacks_jax._steps import steps

__version__ = "0.2.0"

__all__ = [
    "Attack",
    "Detector",
    "Guard",
    "Loss",
    "Oracle",
    "Result",
    "__version__",
    "apgd",
    "atn",
    "auto_attack",
    "bim",
    "boundary",
    "bpda",
    "carlini_wagner_l0",
    "carlini_wagner_l2",
    "carlini_wagner_linf",
    "cross_entropy",
    "deepfool",
    "dlr",
    "ead",
    "ensemble",
    "eot",
    "evading_pgd",
    "fgsm",
    "fit",
    "guarded",
    "guarded_state",
    "hop_skip_jump",
    "jsma",
    "least_likely",
    "margin",
    "mifgsm",
    "nes",
    "one_pixel",
    "patch",
    "pgd",
    "run",
    "square",
    "stateless",
    "steps",
    "stochastic",
]


def __dir__() -> list[str]:
    return __all__
