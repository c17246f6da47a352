"""Attacks as the tables run them, beside the same attacks written out query by query."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spt_jax
from experiments.spt import attacks
from experiments.spt.attacks import Attacked, Spec
from experiments.spt.defences import Never
from experiments.spt.evasions import Evasion
from tests.spt_jax.toys import CLASSES, SHAPE, classifier, decoy

STEPS, SIZE = 12, 1e-3  # eight steps of it are 42 dB: the buffer sees them
BARE = spt_jax.package(Never(), classifier, classifier)
BUFFER = spt_jax.buffer(classifier, decoy, length=4, patience=1)
COUNT = 6


def some_images() -> np.ndarray:
    """Some of their pixels are at a bound."""
    images = np.random.default_rng(0).uniform(-0.1, 1.1, (COUNT, *SHAPE))
    return np.clip(images, 0, 1).astype(np.float32)


def labels_of(network, images) -> np.ndarray:
    return np.array(jnp.argmax(network(jnp.asarray(images)), axis=-1), np.int32)


def some_labels() -> np.ndarray:
    """The classifier is right about all images but the second."""
    labels = labels_of(classifier, some_images())
    labels[1] = (labels[1] + 1) % CLASSES
    return labels


def goals_of(spec: Spec) -> np.ndarray:
    return some_labels() if spec.target is None else np.full(COUNT, spec.target, np.int32)


def drive(spec: Spec, system: spt_jax.System, **options) -> Attacked:
    return Attacked(**attacks.drive(spec, system, some_images(), some_labels(), **options))


@pytest.mark.parametrize("name", ["BIM", "MI-FGSM"])
@pytest.mark.parametrize("target", [None, 2])
def test_against_the_bare_classifier_each_attack_is_its_papers_loop(name, target):
    spec = Spec(name, STEPS, SIZE, target=target)
    goals = goals_of(spec)

    @jax.jit
    @jax.grad
    def gradient(x):
        return -jax.nn.log_softmax(classifier(x))[jnp.arange(COUNT), goals].sum()

    x = clean = some_images()
    momentum = np.zeros_like(x)
    for _ in range(STEPS):
        g = np.asarray(gradient(x))
        kept = momentum if name == "MI-FGSM" else 0.0
        momentum = kept + g / np.abs(g).sum(axis=(1, 2, 3), keepdims=True)
        away = np.sign(momentum) if target is None else -np.sign(momentum)
        x = np.clip(x + SIZE * away, 0, 1).astype(np.float32)
    # Whoever has what is wanted from the start is left alone.
    before = labels_of(classifier, clean)
    done = before != goals if target is None else before == goals
    assert done.any() and not done.all()
    x[done] = clean[done]
    attacked = drive(spec, BARE)
    np.testing.assert_allclose(attacked.images, x, atol=1e-6)
    np.testing.assert_array_equal(attacked.queries, np.where(done, 1, STEPS))
    assert not attacked.deceived.any() and not attacked.by_decoy.any()


@jax.jit
def ask(system, state, image, goal):
    """(the gradient of the cross-entropy, (the client's next state, the answer))."""

    def loss(x):
        after, answer = system.query(state, x)
        return -jax.nn.log_softmax(answer.logits)[goal], (after, answer)

    return jax.grad(loss, has_aux=True)(image)


def play(system: spt_jax.System, spec: Spec, images, goals) -> list[dict]:
    """The attack on one client's images, which take turns, a query at a time: of each image its
    last version, and what its queries were answered with."""
    states = [system.init(SHAPE) for _ in range(spec.evasion.clients)]
    played = [{"image": image, "momentum": 0.0, "told": [], "deceived": []} for image in images]
    done = [False] * len(images)
    for step in range(spec.steps):
        who = step % spec.evasion.clients
        for i, (one, goal) in enumerate(zip(played, goals, strict=True)):
            gradient, (states[who], answer) = ask(system, states[who], one["image"], goal)
            if done[i]:  # it is only sent again, to keep its turn
                continue
            one["told"].append(int(answer.label))
            one["deceived"].append(bool(answer.deceived))
            won = (answer.label == goal) == (spec.target is not None)
            done[i] = bool(won) and step == 0
            if done[i]:
                continue
            g = np.asarray(gradient)
            decay = 1.0 if spec.name == "MI-FGSM" else 0.0
            one["momentum"] = decay * one["momentum"] + g / np.abs(g).sum()
            away = np.sign(one["momentum"]) * (1 if spec.target is None else -1)
            moved = one["image"] + np.float32(SIZE) * away
            one["image"] = (np.clip(moved, 0, 1) if spec.cut else moved).astype(np.float32)
    return played


@pytest.mark.parametrize(
    "spec",
    [
        Spec("BIM", STEPS, SIZE),
        Spec("MI-FGSM", STEPS, SIZE, target=2),
        Spec("BIM", STEPS, SIZE, target=2, cut=False),
        Spec("BIM", STEPS, SIZE, target=2, turns=2),
        Spec("BIM", STEPS, SIZE, target=2, evasion=Evasion(clients=2)),
    ],
    ids=lambda spec: spec.title,
)
def test_against_a_buffer_it_is_a_loop_over_each_clients_queries(spec):
    """So nothing depends on the other clients of the batch."""
    attacked, goals = drive(spec, BUFFER), goals_of(spec)
    buffer = BUFFER if spec.cut else replace(BUFFER, bounds=attacks.UNCUT)
    for begin in range(0, COUNT, spec.turns):
        rows = slice(begin, begin + spec.turns)
        for i, one in enumerate(play(buffer, spec, some_images()[rows], goals[rows]), begin):
            asked = len(one["told"])
            assert attacked.queries[i] == asked
            np.testing.assert_allclose(attacked.images[i], one["image"], atol=1e-6)
            assert attacked.told_all[:asked, i].tolist() == one["told"]
            assert attacked.deceived[:asked, i].tolist() == one["deceived"]
            assert attacked.told[i] == one["told"][-1]
            assert attacked.by_decoy[i] == sum(one["deceived"])
    assert 0 < attacked.by_decoy.sum() < attacked.queries.sum()
    left = (attacked.images < 0).any() or (attacked.images > 1).any()
    assert left != spec.cut


def test_who_is_done_at_once_is_not_counted_as_deceived():
    """Its image goes on being sent, which the buffer sees, but no answer is of use."""
    attacked = drive(Spec("BIM", STEPS, SIZE), BUFFER)
    assert attacked.queries[1] == 1 and attacked.by_decoy[1] == 0
    assert not attacked.deceived[:, 1].any()
    assert (attacked.told_all[:, 1] == attacked.told[1]).all()
    assert attacked.told[1] == labels_of(classifier, some_images())[1]


def test_cs_is_the_label_of_the_last_query_and_not_of_the_last_image():
    path = []
    spec = Spec("BIM", STEPS, 0.05, target=2)  # moves so far that labels change on the way
    attacked = drive(spec, BARE, on_query=path.append)
    assert len(path) == STEPS
    np.testing.assert_array_equal(path[0], some_images())
    by_query = np.stack([labels_of(classifier, sent) for sent in path])
    running = attacked.queries == STEPS
    np.testing.assert_array_equal(attacked.told_all[:, running], by_query[:, running])
    np.testing.assert_array_equal(attacked.told[running], by_query[-1, running])
    assert (np.abs(path[-1] - attacked.images) > 0).any()


def test_it_ends_when_every_image_is_done():
    path = []
    labels = (some_labels() + 1) % CLASSES
    labels[1] = some_labels()[1]  # the one that is wrong already
    spec = Spec("BIM", 40, SIZE)
    found = attacks.drive(spec, BARE, some_images(), labels, on_query=path.append)
    assert len(path) == 1
    assert (found["queries"] == 1).all()
    np.testing.assert_array_equal(found["images"], some_images())
    np.testing.assert_array_equal(found["told"], labels_of(classifier, some_images()))


@pytest.mark.parametrize(
    ("system", "theta", "target"),
    [(BARE, 0.05, 3), (spt_jax.buffer(classifier, decoy, length=2, patience=1), 0.02, 4)],
    ids=["bare", "buffer"],
)
def test_jsma_stops_at_the_target_and_is_told_it(system, theta, target):
    attacked = drive(Spec("JSMA", 30, theta, target=target), system)
    reached = attacked.told == target
    assert (attacked.queries[reached] > 1).sum() > 1 and not reached.all()
    for i in range(COUNT):
        told = attacked.told_all[: attacked.queries[i], i]
        assert told[-1] == attacked.told[i]
        assert (told[:-1] != target).all()
    really = labels_of(classifier, attacked.images) == target
    if system is BARE:  # the query it stopped at was about the image that is left
        np.testing.assert_array_equal(really, reached)
    else:  # the decoy told some of them what they wanted to hear
        assert attacked.by_decoy[reached & ~really].all() and (reached & ~really).any()


def test_titles_tell_attacks_apart():
    specs = [
        Spec("BIM", 10, SIZE),
        Spec("BIM", 10, SIZE, target=0),
        Spec("BIM", 10, SIZE, target=0, cut=False),
        Spec("BIM", 10, SIZE, target=0, turns=4),
        Spec("BIM", 10, SIZE, target=0, evasion=Evasion(dummy_every=3)),
        Spec("BIM", 10, SIZE, target=0, evasion=Evasion(noise=0.01, samples=5)),
        Spec("BIM", 10, SIZE, target=0, evasion=Evasion(clients=3)),
    ]
    assert len({spec.title for spec in specs}) == len(specs)
    assert specs[3].title == "BIM targeted in turns of 4, 10 x"
