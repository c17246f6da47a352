"""Measures the time of a packaged classifier and its memory, compared with the bare classifier.

Each figure is a ratio within one interleaved run: to the bare classifier on the same images, or to
one pass over the bytes that must be read. The networks are untrained, because speed does not depend
on the weights.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax

import spt_jax
from experiments import victims
from experiments.benchmark import timing
from experiments.datasets import Dataset
from experiments.runtime.results import Row
from experiments.victims.networks import Architecture, NetworkConfig

TABLE = "extra/benchmark/spt"
NETWORKS: tuple[Architecture, Architecture] = ("VGG", "C4")  # the classifier and the decoy
QUERIES = 50  # queries of one client in a measurement
STREAM, CHUNK = 10_000, 500
CLIENTS = 1024
SERVED = 64  # queries in a batch of the server
TABLES = (1, 100, 10_000, 100_000)  # clients
CHAINS = (10, 1000, 10_000, 100_000)  # heads
MEMORY_SHARE = 0.4  # of the free memory; larger cases are left out


def measure(config: Any, data: Dataset) -> list[Row]:
    """Returns all rows. `config` is a `benchmark.Config`."""
    make = partial(victims.get, data, seed=0, cache_dir=Path())  # untrained, so nothing is cached
    classifier, decoy = (make(NetworkConfig(name, epochs=0)).logits for name in NETWORKS)
    system = spt_jax.buffer(classifier, decoy)
    images = jnp.asarray(np.resize(data.test.images, (CLIENTS, *data.image_shape)))
    row = partial(_row, config.dataset)
    return [
        *_one_client(row, system, images, config.detector_repeats),
        *_stream(row, system, images, config),
        *_clients(row, system, images, config.detector_repeats),
        *_server(row, system, images, config),
        *_chains(row, classifier, decoy, images, config),
    ]


def _one_client(row: Any, system: spt_jax.System, images: jax.Array, repeats: int) -> list[Row]:
    """Times one image per call, for a benign client and for one that only the decoy answers."""
    query = jax.jit(system.query, donate_argnums=0)
    bare = jax.jit(lambda image: system.classifier(image[None])[0])
    other = jax.jit(lambda image: system.decoy(image[None])[0])
    # All images are similar and patience is 0, so the decoy answers every query once the buffer is
    # full.
    suspicious = spt_jax.buffer(
        system.classifier, system.decoy, patience=0, threshold_db=-100.0, reset="on_dissimilar"
    )
    suspects = jax.jit(suspicious.query, donate_argnums=0)
    singles = list(images[:QUERIES])
    states: dict[str, Any] = {}

    def through(ask: Callable, name: str) -> Any:
        state = states.get(name) or system.init(images.shape[1:])
        for image in singles:
            state, answer = ask(state, image)
            jax.block_until_ready(answer.logits)
        states[name] = state
        return answer

    def alone(network: Callable) -> Any:
        for image in singles:
            logits = jax.block_until_ready(network(image))
        return logits

    competitors = {
        "classifier": partial(alone, bare),
        "query": partial(through, query, "query"),
        "decoy": partial(alone, other),
        "query, deceived": partial(through, suspects, "deceived"),
    }
    first, seconds = timing.interleaved(competitors, max(repeats // 4, 1))
    each = {name: value / QUERIES for name, value in seconds.items()}
    return [
        row("one client", "batch 1", f"microseconds:{name}", 1e6 * value, QUERIES)
        for name, value in each.items()
    ] + [
        row(
            "one client", "batch 1", "over_classifier", each["query"] / each["classifier"], QUERIES
        ),
        row(
            "one client", "batch 1", "over_decoy", each["query, deceived"] / each["decoy"], QUERIES
        ),
        row("one client", "batch 1", "compile_seconds", first["query"] - seconds["query"], QUERIES),
    ]


def _stream(row: Any, system: spt_jax.System, images: jax.Array, config: Any) -> list[Row]:
    """Times 10,000 images of one client: networks inside the scan, or once on every chunk."""
    count = min(STREAM, config.most_steps)
    chunk = min(CHUNK, count)
    stream = jnp.resize(images, (count // chunk * chunk, *images.shape[1:]))
    chunks = jnp.split(stream, len(stream) // chunk)
    scan = jax.jit(partial(lax.scan, system.query))
    begin = system.init(images.shape[1:])

    def in_chunks() -> Any:
        state = begin
        for part in chunks:
            state, answers = system.query_stream(state, part)
        return answers

    bare = jax.jit(lambda x: system.classifier(x))
    competitors: dict[str, Callable[[], Any]] = {
        "scan of query": partial(scan, begin, stream),
        "query_stream": in_chunks,
        "classifier": lambda: [bare(part) for part in chunks],
    }
    _, seconds = timing.interleaved(competitors, min(config.detector_repeats, 5))
    return _over(row, f"a stream of {len(stream)}", seconds, len(stream))


def _clients(row: Any, system: spt_jax.System, images: jax.Array, repeats: int) -> list[Row]:
    """Times many clients at once: first the decoy answers none of them, then every other one, so
    that both networks run."""
    step = jax.jit(system.query_clients, donate_argnums=0)
    bare = jax.jit(lambda x: system.classifier(x))
    both = jax.jit(lambda x: (system.classifier(x), system.decoy(x)))
    suspicious = spt_jax.buffer(system.classifier, system.decoy, length=1, patience=0)
    mixed = jnp.where((jnp.arange(len(images)) % 2 == 0)[:, None, None, None], images, images[::-1])
    suspects = jax.jit(suspicious.query_clients, donate_argnums=0)
    states = {
        "query_clients": system.init_clients(len(images), images.shape[1:]),
        "query_clients, half deceived": suspicious.init_clients(len(images), images.shape[1:]),
    }
    turn = [0]

    def ask(name: str, function: Callable) -> Any:
        turn[0] += 1
        sent = images if name == "query_clients" or turn[0] % 2 else mixed
        states[name], answers = function(states[name], sent)
        return answers

    competitors = {
        "query_clients": partial(ask, "query_clients", step),
        "classifier": partial(bare, images),
        "query_clients, half deceived": partial(ask, "query_clients, half deceived", suspects),
        "both networks": partial(both, images),
    }
    _, seconds = timing.interleaved(competitors, min(repeats, 20))
    name = f"{len(images)} clients"
    rows = _over(row, name, {k: seconds[k] for k in ("query_clients", "classifier")}, len(images))
    ratio = seconds["query_clients, half deceived"] / seconds["both networks"]
    return [*rows, row(name, "half deceived", "over_both_networks", ratio, len(images))]


def _server(row: Any, system: spt_jax.System, images: jax.Array, config: Any) -> list[Row]:
    """Times a batch of queries on tables of several sizes: from clients in the table, and from new
    clients, for each of which the server forgets another."""
    shape, rows = images.shape[1:], []
    bare = jax.jit(lambda x: system.classifier(x))
    for clients in TABLES:
        each = spt_jax.state_bytes(system, shape)
        if clients * each > _most_bytes() or clients > config.most_steps:
            continue
        server, batch = spt_jax.serve(system, clients), min(SERVED, clients)
        query = jax.jit(server.query, donate_argnums=0)
        held = {"table": server.init(shape)}
        names = np.random.default_rng(0).permutation(clients)
        for start in range(0, clients, batch):  # every client once
            who = jnp.asarray(names[np.arange(start, start + batch) % clients], jnp.int32)
            held["table"], _ = query(held["table"], who, images[:batch])
        calls = [0]

        def ask(new: bool, query=query, held=held, batch=batch, clients=clients, calls=calls):
            calls[0] += 1
            who = np.arange(calls[0] * batch, (calls[0] + 1) * batch) % clients
            who = who + (calls[0] * clients if new else 0)
            held["table"], answers = query(
                held["table"], jnp.asarray(who, jnp.int32), images[:batch]
            )
            return answers

        def classify(batch=batch):
            return bare(images[:batch])

        competitors: dict[str, Callable[[], Any]] = {
            "known clients": partial(ask, False),
            "classifier": classify,
            "new clients": partial(ask, True),
        }
        _, seconds = timing.interleaved(competitors, min(config.detector_repeats, 20))
        table = f"table of {clients}"
        rows += [
            row("server", table, f"queries_per_second:{name}", batch / value, batch)
            for name, value in seconds.items()
        ]
        ratio = seconds["known clients"] / seconds["classifier"]
        rows.append(row("server", table, "over_classifier", ratio, batch))
        rows.append(row("server", table, "bytes_per_client", each, 1))
        del held["table"]
    return rows


def _chains(row: Any, classifier: Any, decoy: Any, images: jax.Array, config: Any) -> list[Row]:
    """Times the memory alone: a look at all heads, compared with one pass over their bytes."""
    rows = []
    for heads in CHAINS:
        if heads > config.most_steps or heads * images[0].nbytes > _most_bytes():
            continue
        system = spt_jax.chain(
            classifier, decoy, regions=heads, chain_length=10**9, trigger=10**9 - 1
        )
        memory = system.init(images.shape[1:]).memory
        memory = memory._replace(used=jnp.asarray(heads, jnp.int32))  # all in use
        held = {"memory": memory._replace(heads=memory.heads + images[1])}
        update = jax.jit(system.automaton.update, donate_argnums=0)

        def look(held=held, update=update):
            held["memory"], deceived = update(held["memory"], images[1])
            return deceived

        read = jax.jit(lambda m: jnp.max(m.heads))

        def floor(held=held, read=read):
            return read(held["memory"])

        competitors = {"look": look, "floor": floor}
        _, seconds = timing.interleaved(competitors, min(config.detector_repeats, 20))
        rows += [
            row("chain", f"{heads} heads", "microseconds:look", 1e6 * seconds["look"], heads),
            row("chain", f"{heads} heads", "ratio_to_floor", seconds["look"] / seconds["floor"],
                heads),
        ]  # fmt: skip
        del held["memory"], memory
    return rows


def _most_bytes() -> float:
    """Returns the largest allowed size of one array on the device, in bytes."""
    stats = jax.devices()[0].memory_stats() or {}
    free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
    return MEMORY_SHARE * (free or psutil.virtual_memory().available)


def _over(row: Any, what: str, seconds: dict[str, float], n: int) -> list[Row]:
    """Returns rows of microseconds per query, and of ratios to the bare classifier."""
    rows = []
    for name, value in seconds.items():
        rows.append(row(what, name, "microseconds_per_query", 1e6 * value / n, n))
        if name != "classifier":
            rows.append(row(what, name, "over_classifier", value / seconds["classifier"], n))
    return rows


def _row(dataset: str, system: str, case: str, metric: str, value: float, n: int) -> Row:
    return Row(TABLE, dataset, system, case, None, metric, round(float(value), 5), n)
