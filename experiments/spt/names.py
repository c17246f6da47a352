"""How an attacker clears a stateful server's memory: by changing its name, or by flooding.

The server keeps one state per client name. A client with a new name starts with an empty state. All
clients do so after as many other names as the server has room for. A memory is worth having only if
names cost something (an account, a payment).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import spt_jax
from experiments.runtime import progress
from experiments.runtime.results import Row
from experiments.spt.lab import Lab, Measured
from experiments.spt.natural import defences

TABLE = "extra/spt/names"
QUERIES = 500  # similar images, as an attack sends them
APART = 1e-3  # standard deviation of the noise that tells them apart
CAPACITY = 256  # clients that the server has room for
BEFORE, AFTER = 18, 10  # queries of a client before and after the flood
RENAMED_EVERY = (5, 10, 14, 15, 16, 20, 50, QUERIES)  # queries under one name


def measure(lab: Lab, folder: Path) -> Measured:
    del folder
    random = np.random.default_rng(lab.config.seed)
    image = lab.split.images[0]
    noise = APART * random.normal(size=(QUERIES, *image.shape))
    stream = np.clip(image + noise, 0, 1).astype(np.float32)
    rows: list[Row] = []
    for title, defence in progress.over(defences(lab).items(), "names"):
        server = spt_jax.serve(lab.system(defence), CAPACITY)

        for often in RENAMED_EVERY:
            share = _deceived(server, np.arange(QUERIES) // often, stream).mean()
            way = "renamed every", often, "deceived", round(float(share), 6)
            rows.append(Row(TABLE, lab.dataset, title, *way, QUERIES))
        for others in (CAPACITY - 1, CAPACITY):
            way = "other names", others, "remembered", float(_remembered(server, stream, others))
            rows.append(Row(TABLE, lab.dataset, title, *way, 1))
    return Measured(rows)


def _deceived(server: spt_jax.Server, clients: np.ndarray, stream: np.ndarray) -> np.ndarray:
    """Sends the queries one after the other. Returns (N,) bool: whether the decoy answered."""
    table = server.init(stream.shape[1:])
    _, told = _send(server, table, jnp.asarray(clients, jnp.int32), stream)
    return np.asarray(told)


def _remembered(server: spt_jax.Server, stream: np.ndarray, others: int) -> bool:
    """Returns whether the server remembers a client after one query from each of `others` names:
    whether its answers differ from a new client's."""
    before, after = stream[:BEFORE], stream[BEFORE : BEFORE + AFTER]
    client = jnp.zeros(BEFORE, jnp.int32)
    table, _ = _send(server, server.init(stream.shape[1:]), client, before)
    names = jnp.arange(1, others + 1, dtype=jnp.int32)
    table, _ = _send(server, table, names, np.resize(stream, (others, *stream.shape[1:])))
    told = [
        np.asarray(_send(server, start, client[:AFTER], after)[1])
        for start in (table, server.init(stream.shape[1:]))
    ]
    return bool(np.any(told[0] != told[1]))


@jax.jit
def _send(server, table, clients, images):
    """Sends one query after the other. Returns (the table, (N,) bool: deceived)."""

    def one(table, query):
        client, image = query
        table, answer = server.query(table, client[None], image[None])
        return table, answer.deceived[0]

    return jax.lax.scan(one, table, (clients, jnp.asarray(images)))
