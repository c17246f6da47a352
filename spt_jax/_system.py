"""A packaged classifier: a memory that decides, for each query, whether a classifier or a decoy
answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from spt_jax._automaton import Automaton, Images, Memory, unless
from spt_jax._checks import (
    check_choice,
    check_counts,
    check_images,
    check_key,
    check_shape,
)
from spt_jax._pinned import as_partial, pinned
from spt_jax._selection import Classifier, answers, ask

Response = Literal["decoy", "random"]


class State(NamedTuple):
    """One client's state: arrays of fixed size that determine the next answer, with the image."""

    memory: Memory
    key: jax.Array | None  # for random responses


class Seen(NamedTuple):
    """The information about images that does not depend on a client's memory."""

    images: Images  # (B, H, W, C): hostile images are clipped to the bounds, NaN becomes the lowest
    logits: tuple[jax.Array, ...]  # (B, K) of each network that the memory consults
    evidence: tuple[Any, jax.Array]  # for `decide`: (the automaton's, (B,) bool: hostile)


class Answer(NamedTuple):
    """The answer to a query; with a leading (B,) for several queries."""

    logits: jax.Array  # (K,) float32 of the network that answered; zeros if the answer is random
    label: jax.Array  # () int32: the class of the largest logit, or the random label
    deceived: jax.Array  # () bool: True if the decoy or a random label answered


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class System:
    """A classifier packaged with a memory and a decoy (SPT, fig. 2 and 3): a pure function from
    (state, image) to (state, answer).

    A hostile image is not finite or out of the bounds. Outside jit it raises a ValueError. Inside
    jit its pixels are unknown, so the image is clipped to the bounds, the decoy answers, and the
    memory does not store it.

    The gradient of an answer's logits is that of the network that answered; both networks run then.
    The memory's decision is a constant. All methods except `init` work inside jit, scan, vmap and
    grad. A system is a pytree. Its leaves are thresholds and the weights that are bound with
    `jax.tree_util.Partial`.

    Attributes:
      bounds: the lowest and the highest value of a pixel. For attacks that leave [0, 1], as some of
        the paper's do, use `dataclasses.replace(system, bounds=...)`.
    """

    automaton: Automaton
    classifier: Partial
    decoy: Partial
    response: Response = field(metadata={"static": True})
    bounds: tuple[float, float] = field(default=(0.0, 1.0), metadata={"static": True})

    def init(self, image_shape: Sequence[int], key: jax.Array | None = None) -> State:
        """The state of a new client.

        Args:
          image_shape: (H, W, C) of all images.
          key: a typed key, only for `response="random"`.

        Raises:
          ValueError: an invalid shape; a missing key, or a key that is not used.
        """
        if self.response == "random":
            check_key(key)
        elif key is not None:
            raise ValueError('expected a key only with response="random", got one with "decoy"')
        # Copy: donating the state must not invalidate the caller's key.
        own = None if key is None else jnp.copy(key)
        return State(self.automaton.init(check_shape(image_shape)), own)

    def init_clients(
        self, clients: int, image_shape: Sequence[int], key: jax.Array | None = None
    ) -> State:
        """The states of many new clients: leaves get a leading axis, each client its own key."""
        check_counts(clients=clients)
        one = self.init(image_shape, key)
        keys = None if key is None else jax.random.split(key, clients)
        return State(_repeat(one.memory, clients), keys)

    def query(self, state: State, image: jax.Array) -> tuple[State, Answer]:
        """Answers one client's next image; `lax.scan(system.query, state, stream)` runs a stream.

        Only the network that answers runs, unless the memory consults the other one. Under `vmap`
        both would run: use `query_clients` instead.

        Args:
          state: the client's state.
          image: (H, W, C) float32 in [0, 1].

        Raises:
          ValueError: an image of the wrong shape, type or range.
        """
        check_images(image, rank=3, bounds=self.bounds)
        return _query(pinned(self), state, image)

    def query_clients(self, states: State, images: Images) -> tuple[State, Answer]:
        """Answers many clients, one image each.

        Memories are mapped over. Each network runs once on the whole batch, and not at all if it
        answers no image and the memory does not consult it.

        Args:
          states: from `init_clients`.
          images: (B, H, W, C) float32 in [0, 1], the next image of each client.

        Raises:
          ValueError: images of the wrong shape, type or range.
        """
        check_images(images, rank=4, bounds=self.bounds)
        if not images.shape[0]:
            return states, self._answers_to_none(images)
        return _query_clients(pinned(self), states, images)

    def query_stream(self, state: State, images: Images) -> tuple[State, Answer]:
        """Answers one client's next images, in order: as `lax.scan(system.query, state, images)`,
        but only the memory is scanned, and each network runs once on the whole stream.

        Args:
          state: the client's state.
          images: (B, H, W, C) float32 in [0, 1].

        Raises:
          ValueError: images of the wrong shape, type or range.
        """
        check_images(images, rank=4, bounds=self.bounds)
        if not images.shape[0]:
            return state, self._answers_to_none(images)
        return _query_stream(pinned(self), state, images)

    def query_streams(self, states: State, images: jax.Array) -> tuple[State, Answer]:
        """Answers many clients, N images each, in order: `query_stream` for each client, but each
        network runs once on all images.

        Args:
          states: from `init_clients`, (B, ...).
          images: (B, N, H, W, C) float32 in [0, 1], N images of each client.

        Raises:
          ValueError: images of the wrong shape, type or range.
        """
        check_images(images, rank=5, bounds=self.bounds)
        if 0 in images.shape[:2]:
            return states, self._answers_to_none(images)
        return _query_streams(pinned(self), states, images)

    def _answers_to_none(self, images: jax.Array) -> Answer:
        """Empty answers for an empty batch. No network runs: many can't run on an empty batch."""
        one = jax.ShapeDtypeStruct((1, *images.shape[-3:]), jnp.float32)
        classes = jax.eval_shape(partial(ask, self.classifier), one).shape[-1]
        nobody = images.shape[:-3]
        return Answer(
            jnp.zeros((*nobody, classes), jnp.float32),
            jnp.zeros(nobody, jnp.int32),
            jnp.zeros(nobody, bool),
        )

    def look(self, images: Images) -> Seen:
        """The information about images (B, H, W, C) that does not depend on a client's memory."""
        images, hostile = _screened(images, *self.bounds)
        networks = (self.classifier, self.decoy)[: self.automaton.consults]
        logits = tuple(ask(network, images) for network in networks)
        labels = tuple(jnp.argmax(z, axis=-1) for z in logits)
        evidence = self.automaton.observe(lax.stop_gradient(images), labels)
        hostile |= ~_finite(evidence, len(images))
        return Seen(images, logits, lax.stop_gradient((evidence, hostile)))

    def decide(
        self, state: State, evidence: tuple[Any, jax.Array]
    ) -> tuple[State, tuple[jax.Array, Any]]:
        """Updates one client's memory: (state, (deceived, key)). The key is for drawing a random
        label; None if the decoy answers."""
        seen, hostile = evidence
        if getattr(self.automaton, "keeps_out", False):
            memory, deceived = self.automaton.update(state.memory, seen, hostile)  # type: ignore[call-arg]
        else:
            memory, deceived = self.automaton.update(state.memory, seen)
            memory = unless(hostile, state.memory, memory)
        deceived |= hostile
        if self.response == "decoy":
            return State(memory, None), (deceived, None)
        key, draw = jax.random.split(state.key)  # type: ignore[arg-type]
        return State(memory, key), (deceived, draw)

    def respond(
        self, images: Images, heard: tuple[jax.Array, ...], deceived: jax.Array, draws: Any
    ) -> Answer:
        """The answers (B,), given the memories' decisions; `heard` are the logits of the networks
        that ran already."""
        random = self.response == "random"
        decoy = Partial(_silence, self.classifier) if random else self.decoy
        known = [Partial(_recall, logits) for logits in heard[: 1 if random else 2]]
        first, second = [*known, *(self.classifier, decoy)[len(known) :]]
        logits = answers(first, second, deceived, images)
        label = jnp.argmax(logits, axis=-1)
        if random:
            classes = logits.shape[-1]
            drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, classes))(draws)
            label = jnp.where(deceived, drawn, label)
        return Answer(logits, label.astype(jnp.int32), deceived)


def package(
    automaton: Automaton,
    classifier: Classifier,
    decoy: Classifier | None = None,
    response: Response = "decoy",
) -> System:
    """Joins a memory, which may be your own, to a classifier and a decoy.

    Args:
      automaton: an `Automaton`.
      classifier: images (B, H, W, C) -> logits (B, K).
      decoy: the same kind of function. May be None if the memory does not consult it and
        `response="random"`.
      response: the answer when the memory detects an attack. "decoy" gives the decoy's answer and
        gradient. "random" gives a label drawn uniformly from all classes, the true one included;
        logits and gradient are zeros (SPT, section III-B, "Judging the attack process").

    Raises:
      ValueError: an unknown response; a missing decoy.
    """
    check_choice(response=(response, ("decoy", "random")))
    if decoy is None and (response == "decoy" or automaton.consults == 2):
        raise ValueError("expected a decoy, images (B, H, W, C) -> logits (B, K), got None")
    decoy = as_partial(_nobody if decoy is None else decoy, "decoy")
    classifier = as_partial(classifier, "classifier")
    return System(pinned(automaton), pinned(classifier), pinned(decoy), response)


def _nobody(images):
    raise ValueError("this system has no decoy")


# Inlined into the caller's trace. As a call, weights would become arguments, and XLA would need a
# fifth more time for one image.
_compiled = partial(jax.jit, inline=True)


@_compiled
def _query(system, state, image):
    images, heard, evidence = system.look(image[None])
    state, (deceived, draw) = system.decide(state, _drop_axis(evidence))
    draws = None if draw is None else draw[None]
    return state, _drop_axis(system.respond(images, heard, deceived[None], draws))


@_compiled
def _query_clients(system, states, images):
    images, heard, evidence = system.look(images)
    states, (deceived, draws) = jax.vmap(system.decide)(states, evidence)
    return states, system.respond(images, heard, deceived, draws)


@_compiled
def _query_stream(system, state, images):
    images, heard, evidence = system.look(images)
    state, (deceived, draws) = lax.scan(system.decide, state, evidence)
    return state, system.respond(images, heard, deceived, draws)


@_compiled
def _query_streams(system, states, images):
    clients_and_images = images.shape[:2]

    def split(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(*clients_and_images, *leaf.shape[1:]), tree)

    def join(tree):
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)

    flat, heard, evidence = system.look(join(images))
    of_client = jax.vmap(partial(lax.scan, system.decide))
    states, (deceived, draws) = of_client(states, split(evidence))
    return states, split(system.respond(flat, heard, join(deceived), join(draws)))


def _recall(logits, images):
    """A network whose logits are known already."""
    return logits


def _silence(classifier, images):
    """A decoy whose logits are zeros, for random responses."""
    return jnp.zeros(jax.eval_shape(partial(ask, classifier), images).shape, jnp.float32)


def _screened(images: Images, low: float, high: float) -> tuple[Images, jax.Array]:
    """(images, with hostile ones clipped to the bounds; (B,) bool: hostile)."""
    hostile = ~jnp.all((images >= low) & (images <= high), axis=(1, 2, 3))  # True for NaN too
    fitting = jnp.clip(jnp.nan_to_num(images, nan=low), low, high)
    return jnp.where(hostile[:, None, None, None], fitting, images), hostile


def _finite(evidence: Any, count: int) -> jax.Array:
    """(B,) bool: whether all of an image's evidence is finite."""
    finite = jnp.ones(count, bool)
    for leaf in jax.tree.leaves(evidence):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= jnp.all(jnp.isfinite(leaf.reshape(count, -1)), axis=1)
    return finite


def _drop_axis(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _repeat(tree, times):
    # Broadcasting allocates only the result: a table of many clients may fill most of the memory.
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (times, *leaf.shape)), tree)
