"""Stateful defences in JAX: system packaging theory (SPT) and its baselines.

    system = spt_jax.buffer(classifier, decoy, length=10, threshold_db=35.0, patience=5)
    state = system.init((32, 32, 3))
    state, answer = system.query(state, image)
    answer.logits, answer.label, answer.deceived

A packaged classifier stores a client's past queries. When it detects an ongoing attack, a decoy
network answers, and the decoy's gradient misleads the attack. The caller carries the state:
`query` works in `lax.scan`, `query_clients` serves many clients at once, and
`one_client_per_image` turns a system into an oracle for attacks.

Images are (H, W, C) or (B, H, W, C) float32 in [0, 1]; classifiers are pure functions from
images (B, H, W, C) to logits (B, K).
"""

from spt_jax._automaton import Automaton
from spt_jax._defences.agreement import agreement
from spt_jax._defences.buffer import buffer, classifier_queries
from spt_jax._defences.chain import chain
from spt_jax._defences.comparator import comparator, cosine
from spt_jax._defences.osd import osd_threshold
from spt_jax._defences.rivals import blacklight, osd
from spt_jax._filters import jpeg, median_smooth
from spt_jax._oracles import one_client_per_image, one_stream, taking_turns
from spt_jax._psnr import psnr
from spt_jax._server import Server, serve, state_bytes
from spt_jax._system import Answer, State, System, package

__version__ = "0.2.0"

__all__ = [
    "Answer",
    "Automaton",
    "Server",
    "State",
    "System",
    "__version__",
    "agreement",
    "blacklight",
    "buffer",
    "chain",
    "classifier_queries",
    "comparator",
    "cosine",
    "jpeg",
    "median_smooth",
    "one_client_per_image",
    "one_stream",
    "osd",
    "osd_threshold",
    "package",
    "psnr",
    "serve",
    "state_bytes",
    "taking_turns",
]


def __dir__() -> list[str]:
    return __all__
