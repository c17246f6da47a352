"""Systems as what an attack asks: pure functions (state, images (B, H, W, C)) -> (state, logits
(B, K)), batch first, which is the oracle of `attacks_jax`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from spt_jax._checks import check_counts
from spt_jax._system import System


def one_client_per_image(system: System) -> Partial:
    """Each image of the batch is the next query of a client of its own: no example of an attack
    depends on its batch-mates. The state is `system.init_clients(B, image_shape)`.

    Where the answer is a random label, its logits are 1 at that label and 0 elsewhere, so that an
    attacker who reads the label off the logits reads it; no gradient comes with them.
    """
    return Partial(_per_client, system)


def one_stream(system: System) -> Partial:
    """The batch is one client's stream, in its order: A0, B0, C0, A1, B1, C1, ... is an attack on
    three images that takes turns. The state is `system.init(image_shape)`.

    Logits are as `one_client_per_image` has them.
    """
    return Partial(_stream, system)


def taking_turns(system: System, images: int) -> Partial:
    """Every `images` consecutive images of the batch are one client's, who attacks them in turns:
    A0, B0, C0, D0, A1, ... (SPT, section IV-D). The state is that of
    `system.init_clients(B // images, image_shape)`; the batch must be a multiple of `images`.

    Logits are as `one_client_per_image` has them.

    Raises:
      ValueError: a number of images that is not a whole number above 0; when asked, a batch that
        is not a multiple of it.
    """
    check_counts(images=images)
    return Partial(_Turns(images), system)


class _Turns(NamedTuple):  # equal to its like, so that an attack on it compiles once
    images: int

    def __call__(self, system, states, images):
        batch, *shape = images.shape
        if batch % self.images:
            raise ValueError(f"expected a multiple of {self.images} images, got {batch}")
        streams = images.reshape(batch // self.images, self.images, *shape)
        states, answers = system.query_streams(states, streams)
        flat = jax.tree.map(lambda leaf: leaf.reshape(batch, *leaf.shape[2:]), answers)
        return states, _told(system, flat)


def _per_client(system, states, images):
    states, answers = system.query_clients(states, images)
    return states, _told(system, answers)


def _stream(system, state, images):
    state, answers = system.query_stream(state, images)
    return state, _told(system, answers)


def _told(system, answers):
    if system.response == "decoy":
        return answers.logits
    label = jax.nn.one_hot(answers.label, answers.logits.shape[-1])
    return jnp.where(answers.deceived[:, None], label, answers.logits)
