"""A table of clients against a dictionary of states, one query after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spt_jax
from spt_jax._server import NEVER, Server, serve, state_bytes
from tests.spt_jax import toys

NAMES = np.array([0, 1, 7, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 5000], np.uint32)


class Dictionary:
    """What a table must be, in plain Python."""

    def __init__(self, system, capacity, key):
        self.system, self.capacity, self.key = system, capacity, key
        self.fresh = system.init(toys.SHAPE, key)
        self.states, self.last, self.batch = {}, {}, 0

    def query(self, clients, images):
        self.batch += 1
        names = [int(name) for name in np.asarray(clients).astype(np.uint32)]
        self.last.update({name: self.batch for name in names if name in self.states})
        new = list(dict.fromkeys(name for name in names if name not in self.states))
        for _ in range(len(self.states) + len(new) - self.capacity):
            gone = min(self.states, key=lambda name: (self.last[name], name))
            del self.states[gone], self.last[gone]
        for name in new:
            own = None if self.key is None else jax.random.fold_in(self.key, np.uint32(name))
            self.states[name] = self.fresh._replace(key=own)
            self.last[name] = self.batch
        answers = []
        for name, image in zip(names, images, strict=True):
            self.states[name], answer = self.system.query(self.states[name], image)
            answers.append(answer)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *answers)


def batches(seed, number, size):
    """Clients at random, each with a stream of its own that stays alike for a while."""
    rng = np.random.default_rng(seed)
    streams = toys.streams(seed, len(NAMES), number * size, stay=0.9)
    for batch in range(number):
        chosen = (len(NAMES) * rng.random(size) ** 2).astype(int)  # some come more often
        yield NAMES[chosen], streams[chosen, batch * size + np.arange(size)]


def assert_table_is(table, plain):
    """The directory is sorted and without doubles, and every state is the dictionary's."""
    rows = np.flatnonzero(np.asarray(table.idle) != NEVER)
    names = np.asarray(table.names)[rows]
    assert rows.tolist() == list(range(len(plain.states)))
    assert names.tolist() == sorted(plain.states)
    assert sorted(np.asarray(table.slots).tolist()) == list(range(len(table.slots)))
    for row, name in zip(rows, names.tolist(), strict=True):
        assert table.idle[row] == plain.batch - plain.last[name]
        slot = table.slots[row]
        toys.assert_same(jax.tree.map(lambda leaf: leaf[slot], table.states), plain.states[name])  # noqa: B023


@pytest.mark.parametrize(
    ("name", "capacity", "size"),
    [
        ("buffer", 5, 5), ("buffer", 5, 3), ("buffer", 9, 6),
        ("chain", 5, 5), ("agreement", 5, 5), ("random", 5, 5),
    ],
)  # fmt: skip
def test_as_a_dictionary_of_states(name, capacity, size):
    """Eight names, some of them at the types' ends, for five places and for more than enough."""
    system = toys.SYSTEMS[name]
    key = toys.key_for(system)
    server, plain = serve(system, capacity), Dictionary(system, capacity, key)
    query = jax.jit(server.query, donate_argnums=0)
    table = server.init(toys.SHAPE, key)
    told = 0
    for clients, images in batches(capacity + size, 40 // size, size):
        table, answers = query(table, clients, images)
        toys.assert_same_answers(answers, plain.query(clients, images))
        told += int(answers.deceived.sum())
    assert_table_is(table, plain)
    assert told > 2


def test_minus_one_is_the_largest_name():
    server = serve(toys.SYSTEMS["buffer"], 4)
    image = toys.streams(0, 1, 1)[0]
    table = server.init(toys.SHAPE)
    table, _ = server.query(table, jnp.array([-1], jnp.int32), image)
    table, _ = server.query(table, jnp.array([2**32 - 1], jnp.uint32), image)
    assert np.asarray(table.names).tolist() == [2**32 - 1] * 4  # its own, and those of nobody
    assert (np.asarray(table.idle) == NEVER).tolist() == [False, True, True, True]
    assert table.states.memory.queries[table.slots[0]] == 2


def test_a_flood_by_one_client_is_a_stream():
    system = toys.SYSTEMS["buffer"]
    stream = toys.streams(4, 1, 40, stay=0.9)[0]
    server = serve(system, 40)
    query = jax.jit(Server.query, donate_argnums=1)
    table, answers = query(server, server.init(toys.SHAPE), jnp.full(40, 3), stream)
    state, expected = system.query_stream(system.init(toys.SHAPE), stream)
    toys.assert_same_answers(answers, expected)
    slot = table.slots[0]
    toys.assert_same(jax.tree.map(lambda leaf: leaf[slot], table.states), state)


def test_those_of_the_batch_stay_and_the_longest_away_go():
    server = serve(toys.SYSTEMS["buffer"], 3)
    table = server.init(toys.SHAPE)
    images = toys.streams(0, 1, 3)[0]
    for clients in ([1, 2, 3], [2, 2, 2], [1, 4, 4], [3, 4, 1]):
        table, _ = server.query(table, jnp.array(clients), images)
        there = set(np.asarray(table.names)[np.asarray(table.idle) != NEVER].tolist())
        assert set(clients) <= there
    assert there == {1, 3, 4}


def test_a_donated_table_is_updated_where_it_is():
    """The table is not copied: what the program needs besides is of the size of the batch."""
    system = toys.SYSTEMS["buffer"]
    server = serve(system, 4096)
    table = server.init(toys.SHAPE)
    clients, images = jnp.arange(4, dtype=jnp.uint32), toys.streams(0, 4, 1)[:, 0]
    query = jax.jit(server.query, donate_argnums=0).lower(table, clients, images).compile()
    memory = query.memory_analysis()
    states, directory = 4096 * state_bytes(system, toys.SHAPE), 4096 * 12
    assert memory.alias_size_in_bytes > states
    assert memory.temp_size_in_bytes < 5 * directory < states / 2
    after, _ = query(table, clients, images)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(table))
    query(after, clients, images)


def test_who_donates_a_table_keeps_the_key():
    key = jax.random.key(0)
    for leaf in jax.tree.leaves(serve(toys.SYSTEMS["random"], 1).init(toys.SHAPE, key)):
        leaf.delete()
    assert not key.is_deleted()


def test_a_server_is_a_tree_whose_thresholds_are_leaves():
    servers = [serve(spt_jax.buffer(toys.classifier, toys.decoy, threshold_db=t)) for t in (20, 35)]
    assert len({jax.tree.structure(server) for server in servers}) == 1
    assert [jax.tree.leaves(server)[0] for server in servers] == [20, 35]


def test_networks_run_once_on_the_whole_batch():
    sizes = []

    def counted(images):
        sizes.append(images.shape)
        return toys.classifier(images)

    system = spt_jax.agreement(counted, toys.nearly)
    server = serve(system, 8)
    server.query(server.init(toys.SHAPE), jnp.zeros(6, jnp.int32), toys.streams(0, 1, 6)[0])
    assert sizes == [(6, *toys.SHAPE)]


def test_the_bytes_of_a_client():
    shape = (32, 32, 3)
    assert state_bytes(spt_jax.buffer(toys.classifier, toys.decoy), shape) == 122_896
    assert state_bytes(spt_jax.buffer(toys.classifier, toys.decoy, length=30), shape) == 368_656
    random = spt_jax.buffer(toys.classifier, None, response="random")
    assert state_bytes(random, shape) == 122_896 + 8
    assert state_bytes(spt_jax.agreement(toys.classifier, toys.decoy), shape) == 1
    with pytest.raises(ValueError, match="expected an image shape"):
        state_bytes(random, (32, 32))


@pytest.mark.parametrize(
    ("clients", "count", "message"),
    [
        (jnp.arange(3), 2, r"expected clients \(2,\) int32 or uint32, one an image, got int32"),
        (np.arange(2), 2, "got int64"),
        (jnp.zeros(2), 2, "got float32"),
        ([1, 2], 2, "got list"),
        (jnp.arange(5), 5, "expected 1 to 4 queries, the capacity, got 5"),
        (jnp.arange(0), 0, "expected 1 to 4 queries"),
    ],
)
def test_wrong_clients_are_refused_in_words(clients, count, message):
    server = serve(toys.SYSTEMS["buffer"], 4)
    with pytest.raises(ValueError, match=message):
        server.query(server.init(toys.SHAPE), clients, np.zeros((count, *toys.SHAPE), np.float32))


def test_other_wrong_inputs_are_refused_in_words():
    for capacity in (0, -1, 2.5):
        with pytest.raises(ValueError, match="expected capacity to be"):
            serve(toys.SYSTEMS["buffer"], capacity)
    server = serve(toys.SYSTEMS["buffer"], 4)
    table = server.init(toys.SHAPE)
    with pytest.raises(ValueError, match=r"expected images .* got uint8"):
        server.query(table, jnp.arange(2), np.zeros((2, *toys.SHAPE), np.uint8))
    with pytest.raises(ValueError, match="of the shape given to init"):
        server.query(table, jnp.arange(2), np.zeros((2, 5, 5, 1), np.float32))
    with pytest.raises(ValueError, match="expected one typed key"):
        serve(toys.SYSTEMS["random"], 4).init(toys.SHAPE)
    with pytest.raises(ValueError, match="expected a key only with"):
        server.init(toys.SHAPE, jax.random.key(0))
