"""Defences that remember their queries: system packaging theory (SPT), and its rivals.

    system = spt_jax.buffer(classifier, decoy, length=10, threshold_db=35.0, patience=5)
    state = system.init((32, 32, 3))
    state, answer = system.query(state, image)
    answer.logits, answer.label, answer.deceived

A packaged classifier remembers what a client sent, notices an attack that goes on, and answers
from a decoy, whose gradient leads astray. Its memory is a value that the caller carries: `query`
scans, `query_clients` serves many clients at once, and `one_client_per_image` makes of a system
what an attack can be run against.

Images are (H, W, C) or (B, H, W, C) float32 in [0, 1]; classifiers are pure functions from
images (B, H, W, C) to logits (B, K).
"""

from spt_jax._agreement import agreement as agreement
from spt_jax._automaton import Automaton as Automaton
from spt_jax._buffer import buffer as buffer
from spt_jax._buffer import classifier_queries as classifier_queries
from spt_jax._chain import chain as chain
from spt_jax._comparator import comparator as comparator
from spt_jax._comparator import cosine as cosine
from spt_jax._filters import jpeg as jpeg
from spt_jax._filters import median_smooth as median_smooth
from spt_jax._oracles import one_client_per_image as one_client_per_image
from spt_jax._oracles import one_stream as one_stream
from spt_jax._oracles import taking_turns as taking_turns
from spt_jax._osd import osd_threshold as osd_threshold
from spt_jax._psnr import psnr as psnr
from spt_jax._rivals import blacklight as blacklight
from spt_jax._rivals import osd as osd
from spt_jax._server import Server as Server
from spt_jax._server import serve as serve
from spt_jax._server import state_bytes as state_bytes
from spt_jax._system import Answer as Answer
from spt_jax._system import State as State
from spt_jax._system import System as System
from spt_jax._system import package as package
