"""Blacklight and OSD, packaged: the functions that SPT's systems have, and refused options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spt_jax
from tests.spt_jax import toys


def encode(images):
    return images.reshape(len(images), -1)


SYSTEMS = {
    "blacklight": spt_jax.blacklight(
        toys.classifier, toys.decoy, window=3, fingerprint_size=4, threshold=2, capacity=8
    ),
    "osd": spt_jax.osd(
        toys.classifier, toys.decoy, encode, threshold=0.1, neighbours=2, capacity=8
    ),
}


@pytest.mark.parametrize("kind", list(SYSTEMS))
def test_they_notice_a_stream_of_one_image_and_may_be_donated(kind):
    system = SYSTEMS[kind]
    query = jax.jit(system.query, donate_argnums=0)
    image = jax.random.uniform(jax.random.key(0), toys.SHAPE)
    state, deceived = system.init(toys.SHAPE), []
    for _ in range(6):
        state, answer = query(state, image)
        deceived.append(bool(answer.deceived))
        network = toys.decoy if deceived[-1] else toys.classifier
        np.testing.assert_allclose(answer.logits, network(image[None])[0], rtol=1e-5)
    once = 1 if kind == "blacklight" else 2  # stored before one is too many
    assert not any(deceived[:once])
    assert deceived[once]
    scanned = system.query_stream(system.init(toys.SHAPE), jnp.stack([image] * 6))[1]
    np.testing.assert_array_equal(scanned.deceived, deceived)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window"),
        ({"capacity": 2.5}, "capacity"),
        ({"threshold": -1}, "threshold"),
        ({"quantisation": 256}, "quantisation"),
    ],
)
def test_blacklight_refuses_in_words(options, message):
    with pytest.raises(ValueError, match=f"expected {message}"):
        spt_jax.blacklight(toys.classifier, toys.decoy, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"neighbours": 0}, "neighbours"), ({"threshold": float("nan")}, "threshold")],
)
def test_osd_refuses_in_words(options, message):
    with pytest.raises(ValueError, match=f"expected {message}"):
        spt_jax.osd(toys.classifier, toys.decoy, encode, **({"threshold": 1.0} | options))
