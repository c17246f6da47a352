"""The temporary memory of one step of every attack on one image of 224x224x3, compiled and not run.

The network needs next to nothing: what is counted is the attack's own.
"""

import jax
import jax.numpy as jnp
import pytest

import attacks_jax as aj
from tests.attacks_jax.zoo import nothing

pytestmark = pytest.mark.slow
MIB = 2**20
# With the options of their papers, where they have defaults.
ATTACKS = {
    "fgsm": aj.fgsm(eps=0.1),
    "least_likely": aj.least_likely(eps=0.1),
    "bim": aj.bim(eps=0.1, step_size=0.01, num_steps=10),
    "pgd": aj.pgd(eps=0.1, step_size=0.01, num_steps=10),
    "pgd-l2": aj.pgd(eps=1.0, norm="l2", step_size=0.1, num_steps=10),
    "mifgsm": aj.mifgsm(eps=0.1),
    "evading_pgd": aj.evading_pgd(detector=nothing, eps=0.1, step_size=0.01, num_steps=10),
    "apgd": aj.apgd(eps=0.1),
    "auto_attack": aj.auto_attack(eps=0.1),
    "deepfool": aj.deepfool(),
    "carlini_wagner_l2": aj.carlini_wagner_l2(),
    "carlini_wagner_l0": aj.carlini_wagner_l0(),
    "carlini_wagner_linf": aj.carlini_wagner_linf(),
    "ead": aj.ead(),
    "jsma": aj.jsma(targeted=True),
    "one_pixel": aj.one_pixel(),
    "patch": aj.patch(size=56),
    "atn": aj.atn(),
    "nes": aj.nes(eps=0.1),
    "square": aj.square(eps=0.1),
    "square-l2": aj.square(eps=1.0, norm="l2"),
    "boundary": aj.boundary(),
    "hop_skip_jump": aj.hop_skip_jump(),
    "ensemble": aj.ensemble((aj.deepfool(), aj.bim(eps=0.1, step_size=0.01, num_steps=10))),
}


def network(images):
    """Ten logits from the image's blocks of 56x56."""
    batch, height, width, channels = images.shape
    rows, columns = height // 4, width // 4
    blocks = images.reshape(batch, 4, rows, 4, columns, channels).mean((2, 4, 5))
    return jnp.tanh(blocks.reshape(batch, 16) @ jnp.linspace(-1, 1, 160).reshape(16, 10))


def temporary_memory(attack, side: int, batch: int = 1) -> dict[str, int]:
    """Bytes that XLA reserves beside arguments and results, in init and in a step."""
    oracle = aj.stateless(network)
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def init(key, images, labels):
        return attack.init(oracle, (), key, images, labels)

    def step(state):
        return attack.step(oracle, state)

    state = jax.eval_shape(init, key, images, labels)
    compiled = {
        "init": jax.jit(init).lower(key, images, labels).compile(),
        "step": jax.jit(step).lower(state).compile(),
    }
    return {name: one.memory_analysis().temp_size_in_bytes for name, one in compiled.items()}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_step_at_224_pixels_needs_under_a_quarter_of_a_gib(name, capsys):
    found = temporary_memory(ATTACKS[name], 224)
    with capsys.disabled():
        print(f"\n{name}: init {found['init'] / MIB:.1f} MiB, step {found['step'] / MIB:.1f} MiB")
    assert max(found.values()) < 256 * MIB


def test_jsma_grows_with_the_pixels_not_with_their_square():
    small, large = (temporary_memory(ATTACKS["jsma"], side)["step"] for side in (112, 224))
    assert large < 8 * small  # four times the pixels; their square would be 16 times
