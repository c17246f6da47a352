"""Chains against a plain automaton, and the rules by which they are forgotten."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import spt_jax
from spt_jax._defences.chain import Chain
from tests.spt_jax import automata, toys

TINY = (2, 2, 1)


def automaton(**options):
    """Also with a trigger that `chain` refuses, since no chain exceeds it."""
    usual = {"threshold_db": 30.0, "trigger": 5, "chain_length": 20, "regions": 10, "rule": "own"}
    return Chain(**usual | options)


@jax.jit
def histories(automaton, streams):
    """Streams (N, L, H, W, C): ((N, L) bool, memories (N, L, ...))."""

    def step(memory, image):
        memory, deceived = automaton.update(memory, image)
        return memory, (deceived, memory.used, memory.lengths)

    def one(stream):
        return jax.lax.scan(step, automaton.init(stream.shape[1:]), stream)[1]

    return jax.vmap(one)(streams)


def greys(letters):
    """A stream of flat images, one grey a letter, more than 20 dB apart in no case."""
    values = {"A": 0.1, "B": 0.4, "C": 0.7, "D": 1.0}
    return np.stack([np.full(TINY, values[c], np.float32) for c in letters])


def deceived(letters, **options):
    told, _, _ = histories(automaton(**options), greys(letters)[None])
    return "".join("*" if d else "." for d in told[0])


@pytest.mark.parametrize("rule", ["own", "any"])
@settings(max_examples=12, derandomize=True)
@given(
    regions=st.integers(1, 3),
    chain_length=st.integers(1, 9),
    trigger=st.integers(0, 5),
    threshold=st.floats(25, 45),
    stay=st.sampled_from([0.0, 0.5, 0.9]),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_streams_as_the_plain_automaton(
    rule, regions, chain_length, trigger, threshold, stay, levels, seed
):
    streams = toys.streams(seed, 40, 40, shape=TINY, levels=levels, stay=stay)
    ours = automaton(
        regions=regions, chain_length=chain_length, trigger=trigger, threshold_db=threshold,
        rule=rule,
    )  # fmt: skip
    told, used, lengths = (np.asarray(x) for x in histories(ours, streams))
    for i, stream in enumerate(streams.reshape(40, 40, -1).tolist()):
        plain = automata.Chain(regions, chain_length, trigger, threshold, rule)
        for j, x in enumerate(stream):
            assert plain.query(x) == told[i, j], (i, j)
            assert len(plain.chains) == used[i, j], (i, j)
            chains = [length for _, length in plain.chains]
            assert chains == lengths[i, j][: used[i, j]].tolist(), (i, j)
            assert not lengths[i, j][used[i, j] :].any(), (i, j)


def test_turns_over_several_images_are_noticed():
    """Which the buffer does not: no pair `length` queries apart is alike."""
    assert deceived("ABCABCABCABC", regions=3, trigger=2) == "......******"


def test_an_image_without_room_wipes_all_chains():
    assert deceived("AAABAAACAAA", regions=2, trigger=2) == "..*.***...*"


def test_a_chain_at_its_length_wipes_all_after_its_answer():
    options = {"regions": 2, "trigger": 2, "chain_length": 5}
    assert deceived("BBAAAAAAABB", **options) == "....***...."


def test_any_deceives_whoever_comes_while_another_attacks():
    assert deceived("AAABA", regions=2, trigger=2, rule="own") == "..*.*"
    assert deceived("AAABA", regions=2, trigger=2, rule="any") == "..***"


def test_many_small_steps_end_the_likeness():
    """Images are compared with heads: 40 steps of .0013 end 25.68 dB from the start."""
    steps = np.stack([np.full(TINY, 0.3 + 0.0013 * i, np.float32) for i in range(41)])
    assert abs(float(spt_jax.psnr(steps[0], steps[-1])) - 25.68) < 0.01
    for threshold, used in ((25.0, 1), (30.0, 2), (57.0, 21), (58.0, 41)):
        options = {"regions": 100, "chain_length": 1000, "threshold_db": threshold}
        _, chains, _ = histories(automaton(**options), steps[None])
        assert chains[0, -1] == used


@pytest.mark.parametrize(
    "options",
    [
        {"regions": 0}, {"chain_length": 0}, {"trigger": -1}, {"trigger": 1.5},
        {"threshold_db": np.inf}, {"rule": "all"}, {"response": "silence"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))} to be"):
        spt_jax.chain(toys.classifier, toys.decoy, **options)
