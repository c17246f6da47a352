"""Agreement flags: now and a query ago."""

import jax
import numpy as np
import pytest

import spt_jax
from tests.spt_jax import automata, toys


@pytest.mark.parametrize(("rule", "expected"), [("and", "...**.***.."), ("or", ".......*...")])
def test_by_hand(rule, expected):
    """Before the first flag there was an agreement; 0 is a disagreement."""
    flags = [int(flag) for flag in "11101100111"]
    plain = automata.Agreement(rule)
    assert "".join("*" if plain.query(1, flag) else "." for flag in flags) == expected
    automaton = spt_jax.agreement(toys.classifier, toys.nearly, rule=rule).automaton
    memory, deceived = automaton.init(toys.SHAPE), ""
    for flag in flags:
        memory, this = automaton.update(memory, np.bool_(flag))
        deceived += "*" if this else "."
    assert deceived == expected


@pytest.mark.parametrize("rule", ["and", "or"])
def test_streams_as_the_plain_automaton(rule):
    system = spt_jax.agreement(toys.classifier, toys.nearly, rule=rule)
    for stream in toys.streams(3, 5, 60, levels=40, stay=0.5):
        labels = [np.argmax(net(stream), -1) for net in (toys.classifier, toys.nearly)]
        plain = automata.Agreement(rule)
        expected = [plain.query(a, b) for a, b in zip(*labels, strict=True)]
        _, answers = system.query_stream(system.init(toys.SHAPE), stream)
        np.testing.assert_array_equal(answers.deceived, expected)
        np.testing.assert_array_equal(answers.label, np.where(expected, *labels[::-1]))
    assert 0 < np.mean(answers.deceived) < 1


def test_the_flag_is_the_stream_s_and_the_networks_may_be_as_weird_as_they_like():
    """Two that always agree deceive nobody, two that never do deceive always, but for `or`'s
    first query, before which there was an agreement."""
    images = toys.streams(0, 1, 4)[0]
    one, other = toys.constant([1, 0]), toys.constant([0, 1])
    for rule, first in (("and", True), ("or", False)):
        same = spt_jax.agreement(one, one, rule=rule)
        assert not same.query_stream(same.init(toys.SHAPE), images)[1].deceived.any()
        never = spt_jax.agreement(one, other, rule=rule)
        _, answers = never.query_stream(never.init(toys.SHAPE), images)
        assert answers.deceived.tolist() == [first, True, True, True]


def test_a_random_response_needs_the_second_network_all_the_same():
    with pytest.raises(ValueError, match="expected a decoy"):
        spt_jax.agreement(toys.classifier, None, response="random")
    system = spt_jax.agreement(toys.classifier, toys.nearly, response="random")
    _, answers = system.query_stream(
        system.init(toys.SHAPE, jax.random.key(0)), toys.streams(0, 1, 30, stay=0.2, levels=30)[0]
    )
    assert 0 < np.mean(answers.deceived) < 1
    assert not answers.logits[answers.deceived].any()


@pytest.mark.parametrize("options", [{"rule": "xor"}, {"response": "silence"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))} to be one of"):
        spt_jax.agreement(toys.classifier, toys.nearly, **options)
