"""Attackers who know the defence: what reaches the system, and what that does to a buffer."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spt_jax
from experiments.spt import attacks, evasions
from experiments.spt.attacks import Attacked, Spec
from experiments.spt.evasions import Evasion
from tests.spt_jax.toys import SHAPE, classifier, decoy

CLIENTS, ROOM = 2, 32


class Pages(NamedTuple):
    written: jax.Array  # () int32
    images: jax.Array  # (ROOM, H, W, C)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Notebook:
    """An automaton that writes down what it is sent, and deceives nobody."""

    consults = 0

    def init(self, image_shape):
        return Pages(jnp.zeros((), jnp.int32), jnp.zeros((ROOM, *image_shape)))

    def observe(self, images, labels):
        return images

    def update(self, memory, image):
        images = memory.images.at[memory.written].set(image)
        return Pages(memory.written + 1, images), jnp.zeros((), bool)


NOTEBOOK = spt_jax.package(Notebook(), classifier, decoy)


def grey(level) -> np.ndarray:
    return np.full((CLIENTS, *SHAPE), level, np.float32)


def ask(evasion: Evasion, times: int):
    """So many steps of an attacker, who sends an image of another grey each time:
    (the record, the mean answers that came, the client's pages)."""
    oracle = jax.jit(evasions.evading(evasion, NOTEBOOK))
    queries = times * evasion.samples
    state = evasions.begin(evasion, NOTEBOOK, CLIENTS, SHAPE, queries=queries)
    answers = []
    for step in range(times):
        state, logits = oracle(state, grey(step / times))
        answers.append(np.asarray(logits))
    return state.record, answers, jax.tree.map(np.asarray, state.record.system.memory)


def test_without_evasion_each_image_is_sent_as_it_is():
    record, answers, pages = ask(Evasion(), 6)
    assert pages.written.tolist() == [6, 6] and record.asked == 6
    for step in range(6):
        np.testing.assert_array_equal(pages.images[:, step], grey(np.float32(step / 6)))
        np.testing.assert_allclose(answers[step], classifier(grey(step / 6)), atol=1e-5)


def test_a_dummy_comes_after_every_third_query_and_is_not_answered():
    record, answers, pages = ask(Evasion(dummy_every=3), 8)
    assert record.asked == 8 and pages.written.tolist() == [10, 10]
    sent = iter(range(8))
    for page in range(10):
        if page in (3, 7):  # A A A D A A A D A A
            noise = pages.images[:, page]
            assert (noise >= 0).all() and (noise <= 1).all() and noise.std() > 0.2
            assert (noise[0] != noise[1]).all()  # each client has his own
        else:
            np.testing.assert_array_equal(pages.images[:, page], grey(np.float32(next(sent) / 8)))
    assert (pages.images[:, 3] != pages.images[:, 7]).all()
    for step, logits in enumerate(answers):
        np.testing.assert_allclose(logits, classifier(grey(step / 8)), atol=1e-5)


def test_several_dummies_come_at_once():
    record, _, pages = ask(Evasion(dummy_every=3, dummies=2), 5)
    assert record.asked == 5 and pages.written.tolist() == [7, 7]
    assert (pages.images[:, 3] != pages.images[:, 4]).all()
    np.testing.assert_array_equal(pages.images[:, 5], grey(np.float32(3 / 5)))


def test_noise_is_another_for_each_query_and_stays_in_bounds():
    _, answers, pages = ask(Evasion(noise=0.05), 12)
    assert pages.written.tolist() == [12, 12]
    sent = pages.images[:, :12]
    assert (sent >= 0).all() and (sent <= 1).all()
    noise = sent - np.arange(12, dtype=np.float32)[:, None, None, None] / 12
    assert np.std(noise[:, 6]) == pytest.approx(0.05, rel=0.4)  # in the middle nothing is cut
    for step in range(1, 12):
        assert (noise[:, step] != noise[:, step - 1]).mean() > 0.9
        assert (noise[0, step] != noise[1, step]).mean() > 0.9
        np.testing.assert_allclose(answers[step], classifier(sent[:, step]), atol=1e-4)


def test_eot_asks_several_times_and_goes_by_the_mean():
    record, answers, pages = ask(Evasion(noise=0.05, samples=3), 4)
    assert record.asked == 12 and pages.written.tolist() == [12, 12]
    for step, logits in enumerate(answers):
        of_each = [classifier(pages.images[:, 3 * step + sample]) for sample in range(3)]
        assert np.abs(of_each[0] - of_each[1]).max() > 1e-3
        np.testing.assert_allclose(logits, np.mean(of_each, axis=0), atol=1e-4)


def test_each_of_three_identities_sends_every_third_query():
    record, _, pages = ask(Evasion(clients=3), 7)
    assert record.asked == 7
    assert pages.written.tolist() == [[3, 3], [2, 2], [2, 2]]
    for query in range(7):
        mine = pages.images[query % 3, :, query // 3]
        np.testing.assert_array_equal(mine, grey(np.float32(query / 7)))


def test_dummies_are_of_clients_with_one_image_each():
    for options in ({"turns": 2}, {}):
        clients = 1 if options else 2
        with pytest.raises(ValueError, match="dummies of clients with one image"):
            evasions.evading(Evasion(dummy_every=3, clients=clients), NOTEBOOK, **options)


# An attack that the paper's buffer (t = 10, S = 5) sees: ten steps are 46 dB.
IMAGES = np.random.default_rng(0).uniform(0.2, 0.8, (3, *SHAPE)).astype(np.float32)
SPEC = partial(Spec, "BIM", 40, 5e-4)
BUFFERS = {
    reset: spt_jax.buffer(classifier, decoy, reset=reset) for reset in ("periodic", "on_dissimilar")
}


def drive(system, evasion: Evasion = evasions.NO_EVASION) -> Attacked:
    labels = np.array(jnp.argmax(classifier(IMAGES), axis=-1), np.int32)
    return Attacked(**attacks.drive(SPEC(evasion=evasion), system, IMAGES, labels))


@pytest.mark.parametrize("reset", BUFFERS)
def test_who_sends_nothing_but_the_attack_is_deceived(reset):
    attacked = drive(BUFFERS[reset])
    answered = spt_jax.classifier_queries(40, length=10, patience=5, reset=reset)
    np.testing.assert_array_equal(attacked.by_decoy, 40 - answered)


@pytest.mark.parametrize(
    ("reset", "evasion"),
    [
        ("on_dissimilar", Evasion(dummy_every=11)),
        # Two noises of this size are 31 dB apart; of so few pixels, some pairs are over 35.
        ("on_dissimilar", Evasion(noise=0.02, samples=2)),
        ("periodic", Evasion(dummy_every=3)),
    ],
    ids=["a dummy after t + 1", "noise", "a dummy after 3"],
)
def test_who_knows_the_buffer_is_not_deceived(reset, evasion):
    attacked = drive(BUFFERS[reset], evasion)
    assert (attacked.queries == 40 * evasion.samples).all()  # each sample is a query
    assert attacked.told_all.shape == (40 * evasion.samples, len(IMAGES))
    np.testing.assert_array_equal(attacked.told, attacked.told_all[-1])
    assert not attacked.deceived.any()
