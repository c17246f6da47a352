"""Systems as oracles for `attacks_jax`: pure functions (state, images (B, H, W, C)) -> (state,
logits (B, K))."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from spt_jax._checks import check_counts
from spt_jax._system import System


def one_client_per_image(system: System) -> Partial:
    """An oracle in which each image of the batch belongs to its own client, so the examples of an
    attack are independent. The state is `system.init_clients(B, image_shape)`.

    For a random label the logits are 1 at that label and 0 elsewhere, without a gradient, so an
    attack that takes the label from the logits gets the random label.
    """
    return Partial(_per_client, system)


def one_stream(system: System) -> Partial:
    """An oracle in which the batch is one client's stream, in order. An attack on three images in
    turns sends A0, B0, C0, A1, B1, C1, ... The state is `system.init(image_shape)`.

    Logits are as in `one_client_per_image`.
    """
    return Partial(_stream, system)


def taking_turns(system: System, images: int) -> Partial:
    """An oracle in which each client attacks `images` consecutive images of the batch in turns:
    A0, B0, C0, D0, A1, ... (SPT, section IV-D). The state is
    `system.init_clients(B // images, image_shape)`; the batch must be a multiple of `images`.

    Logits are as in `one_client_per_image`.

    Raises:
      ValueError: `images` that is not a whole number above 0; at a query, a batch that is not a
        multiple of it.
    """
    check_counts(images=images)
    return Partial(_Turns(images), system)


class _Turns(NamedTuple):  # instances compare equal, so that an attack compiles once
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
