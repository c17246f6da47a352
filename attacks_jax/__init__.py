"""Adversarial attacks in JAX: pure, jittable, differentiated straight through the oracle.

    attack = attacks_jax.carlini_wagner_l2(confidence=9.0, num_steps=1000)
    oracle = attacks_jax.stateless(logits_fn)
    result = attacks_jax.run(attack, oracle, jax.random.key(0), images, labels)
    result.images, result.success, result.distance, result.queries

Images are (B, H, W, C) float32, in [0, 1] unless an attack is given other `bounds`.
"""

from attacks_jax._attack import Attack as Attack
from attacks_jax._attack import Oracle as Oracle
from attacks_jax._attack import Result as Result
from attacks_jax._attack import stateless as stateless
from attacks_jax._carlini_wagner_l2 import carlini_wagner_l2 as carlini_wagner_l2
from attacks_jax._fgsm import fgsm as fgsm
from attacks_jax._fgsm import least_likely as least_likely
from attacks_jax._losses import cross_entropy as cross_entropy
from attacks_jax._losses import dlr as dlr
from attacks_jax._losses import margin as margin
from attacks_jax._run import run as run
