"""The host loop drops examples that are done, and nobody notices; eight devices give the same."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attacks_jax import guarded_state
from attacks_jax._host_loop import host_loop


class Counting(NamedTuple):
    """Counts each example up to its own goal."""

    goal: jax.Array
    count: jax.Array
    done: jax.Array
    oracle_state: tuple = ()


def start(goals):
    goals = jnp.asarray(goals)
    return Counting(goals, jnp.zeros_like(goals), goals == 0)


def make_step(sizes):
    def step(state):
        sizes.append(len(state.done))
        count = jnp.where(state.done, state.count, state.count + 1)
        return state._replace(count=count, done=count >= state.goal)

    return step


def test_the_batch_shrinks_to_those_who_are_not_done_and_all_arrive():
    goals = np.random.default_rng(0).permutation(np.r_[np.arange(40), 150])
    sizes = []
    final = host_loop(make_step(sizes), start(goals), 200, independent=True)
    np.testing.assert_array_equal(final.count, goals)
    np.testing.assert_array_equal(final.goal, goals)
    assert final.done.all()
    assert sizes[0] == 41 and sizes[-1] == 6 and len(sizes) == 151  # one in vain
    assert sorted(set(sizes), reverse=True) == [41, 21, 11, 6]


def test_examples_that_look_at_each_other_stay_together():
    sizes = []
    host_loop(make_step(sizes), start([1] * 30 + [60]), 200, independent=False)
    assert set(sizes) == {31}


def test_an_oracle_that_remembers_is_always_asked_about_all():
    sizes = []
    state = start([1] * 30 + [60])._replace(oracle_state=(jnp.zeros(31),))
    host_loop(make_step(sizes), state, 200, independent=True)
    assert set(sizes) == {31}


def test_a_guard_s_labels_shrink_with_the_batch_unless_something_behind_it_remembers():
    goals = np.random.default_rng(0).permutation(np.r_[[1] * 30, 60])

    def step(state):  # asked of who is who, as a guarded oracle is
        np.testing.assert_array_equal(state.oracle_state.labels, state.goal)
        return make_step(sizes)(state)

    for memory, smallest in (((), 8), (guarded_state(goals), 8), (jnp.zeros(31), 31)):
        sizes = []
        state = start(goals)._replace(oracle_state=guarded_state(goals, memory))
        final = host_loop(step, state, 200, independent=True)
        np.testing.assert_array_equal(final.count, goals)
        np.testing.assert_array_equal(final.oracle_state.labels, goals)
        assert sizes[-1] == smallest


def test_the_steps_are_limited():
    final = host_loop(make_step([]), start([5, 500] * 10), 100, independent=True)
    np.testing.assert_array_equal(final.count, [5, 100] * 10)


SHARDED = """
import jax, sys, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
import attacks_jax
from tests.attacks_jax import toys, zoo
assert jax.device_count() == 8
mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
logits = toys.random_network(jax.random.key(1), (5, 4, 1), 4)
oracle, key = attacks_jax.stateless(logits), jax.random.key(0)
images = toys.some_images(0, 16, (5, 4, 1))
labels = np.argmax(logits(images), -1)
sharding = NamedSharding(mesh, PartitionSpec("batch"))
for name in sys.argv[1:]:
    attack, targeted = zoo.EVERY[name]
    goals = (labels + 1) % 4 if targeted else labels
    plain = attacks_jax.run(attack, oracle, key, images, goals)
    there = jax.device_put(images, sharding), jax.device_put(goals, sharding)
    for loop in ("host", "compiled"):
        result = attacks_jax.run(attack, oracle, key, *there, loop=loop)
        assert len(result.images.sharding.device_set) == 8, name
        np.testing.assert_allclose(result.images, plain.images, atol=1e-4, err_msg=name)
        np.testing.assert_array_equal(result.success, plain.success, err_msg=name)
print("same")
"""


@pytest.mark.parametrize(
    "names",
    [
        ("pgd", "carlini_wagner_l2", "square"),
        pytest.param(
            ("apgd", "deepfool", "jsma, targeted", "hop_skip_jump"), marks=pytest.mark.slow
        ),
    ],
    ids=", ".join,
)
def test_a_batch_sharded_over_eight_devices_gives_the_same(names):
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(root),
    }  # fmt: skip
    command = [sys.executable, "-c", SHARDED, *names]
    run = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert run.stdout.strip() == "same", run.stderr[-2000:]
