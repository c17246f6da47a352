"""Adversarial attacks in JAX: pure, jittable, differentiated straight through the oracle.

    attack = attacks_jax.carlini_wagner_l2(confidence=9.0, num_steps=1000)
    oracle = attacks_jax.stateless(logits_fn)
    result = attacks_jax.run(attack, oracle, jax.random.key(0), images, labels)
    result.images, result.success, result.distance, result.queries

Images are (B, H, W, C) float32, in [0, 1] unless an attack is given other `bounds`.
"""

from attacks_jax._apgd import apgd as apgd
from attacks_jax._atn import atn as atn
from attacks_jax._attack import Attack as Attack
from attacks_jax._attack import Oracle as Oracle
from attacks_jax._attack import Result as Result
from attacks_jax._boundary import boundary as boundary
from attacks_jax._carlini_wagner_l0 import carlini_wagner_l0 as carlini_wagner_l0
from attacks_jax._carlini_wagner_l2 import carlini_wagner_l2 as carlini_wagner_l2
from attacks_jax._carlini_wagner_linf import carlini_wagner_linf as carlini_wagner_linf
from attacks_jax._deepfool import deepfool as deepfool
from attacks_jax._ead import ead as ead
from attacks_jax._ensemble import auto_attack as auto_attack
from attacks_jax._ensemble import ensemble as ensemble
from attacks_jax._evading_pgd import evading_pgd as evading_pgd
from attacks_jax._fgsm import fgsm as fgsm
from attacks_jax._fgsm import least_likely as least_likely
from attacks_jax._guarded import Detector as Detector
from attacks_jax._guarded import Guard as Guard
from attacks_jax._guarded import guarded as guarded
from attacks_jax._guarded import guarded_state as guarded_state
from attacks_jax._hop_skip_jump import hop_skip_jump as hop_skip_jump
from attacks_jax._jsma import jsma as jsma
from attacks_jax._losses import Loss as Loss
from attacks_jax._losses import cross_entropy as cross_entropy
from attacks_jax._losses import dlr as dlr
from attacks_jax._losses import margin as margin
from attacks_jax._nes import nes as nes
from attacks_jax._one_pixel import one_pixel as one_pixel
from attacks_jax._oracles import bpda as bpda
from attacks_jax._oracles import eot as eot
from attacks_jax._oracles import stateless as stateless
from attacks_jax._oracles import stochastic as stochastic
from attacks_jax._patch import patch as patch
from attacks_jax._pgd import bim as bim
from attacks_jax._pgd import mifgsm as mifgsm
from attacks_jax._pgd import pgd as pgd
from attacks_jax._run import fit as fit
from attacks_jax._run import run as run
from attacks_jax._square import square as square
