"""The buffer against a plain automaton, the worked trace, and the paper's counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

import spt_jax
from spt_jax._defences.buffer import Buffer
from tests.spt_jax import automata, toys

TINY = (2, 2, 1)
RESETS = ("periodic", "on_dissimilar")
# Cells are `k,s`: periodic before the reset, on_dissimilar after it; * deceived, R reset.
STREAM = "AAAAAABAAAAAAA"
TRACES = {
    "periodic": "1,0 2,0 3,0 4,1 5,2* 6,3*R 4,0 5,1 6,2*R 4,0 5,1 6,2*R 4,1 5,2*",
    "on_dissimilar": "1,0 2,0 3,0 4,1 5,2* 6,3* 0,0R 1,0 2,0 0,0R 1,0 2,0 3,1 4,2*",
}


def automaton(length, patience, reset="periodic", threshold_db=35.0):
    """Also with a patience that `buffer` refuses, since it deceives nobody."""
    return Buffer(threshold_db, patience, length, reset)


@jax.jit
def histories(automaton, streams):
    """Streams (N, L, H, W, C): (the ends of the N memories, (N, L) bool, (N, L) ints k and s)."""

    def step(memory, image):
        memory, deceived = automaton.update(memory, image)
        return memory, (deceived, memory.queries, memory.similar)

    def one(stream):
        return jax.lax.scan(step, automaton.init(stream.shape[1:]), stream)

    return jax.vmap(one)(streams)


@pytest.mark.parametrize("reset", RESETS)
def test_the_worked_trace(reset):
    a, b = np.full(TINY, 0.2, np.float32), np.full(TINY, 0.8, np.float32)
    stream = np.stack([a if letter == "A" else b for letter in STREAM])
    plain = automata.Buffer(3, 35.0, 1, reset)
    cells = []
    for x in stream.reshape(len(stream), -1).tolist():
        plain.query(x)
        cells.append(plain.cell)
    assert cells == TRACES[reset].split()

    _, (deceived, k, s) = histories(automaton(3, 1, reset), stream[None])
    after = ["3,0" if reset == "periodic" and "R" in c else c.strip("*R") for c in cells]
    assert [f"{i},{j}" for i, j in zip(k[0], s[0], strict=True)] == after
    np.testing.assert_array_equal(deceived[0], ["*" in cell for cell in cells])


@pytest.mark.parametrize("reset", RESETS)
@settings(max_examples=25, derandomize=True)
@given(
    t=st.integers(1, 5),
    S=st.integers(0, 4),
    threshold=st.floats(25, 45),
    stay=st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0]),
    levels=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_ten_thousand_streams_as_the_plain_automaton(reset, t, S, threshold, stay, levels, seed):
    """2 x 25 times 200 streams of 30 queries."""
    streams = toys.streams(seed, 200, 30, shape=TINY, levels=levels, stay=stay)
    memory, (deceived, k, s) = histories(automaton(t, S, reset, threshold), streams)
    deceived, k, s = np.asarray(deceived), np.asarray(k), np.asarray(s)
    for i, stream in enumerate(streams.reshape(200, 30, -1).tolist()):
        plain = automata.Buffer(t, threshold, S, reset)
        for j, x in enumerate(stream):
            assert plain.query(x) == deceived[i, j], (i, j)
            assert (plain.k, plain.s) == (k[i, j], s[i, j]), (i, j)
    last = np.asarray(streams[:, -t:])
    ordered = jax.vmap(lambda m: jnp.roll(m.images, -m.oldest, axis=0))(memory)
    np.testing.assert_array_equal(ordered, last)


@pytest.mark.parametrize("reset", RESETS)
def test_the_classifier_s_share_of_queries_alike(reset):
    alike = np.full((1, 40, *TINY), 0.5, np.float32)
    for t in (1, 2, 3, 5, 8):
        for S in (0, 1, 2, 4, 9):
            _, (deceived, _, _) = histories(automaton(t, S, reset), alike)
            simulated = np.cumsum(~np.asarray(deceived[0]))
            for queries in range(1, 41):
                count = spt_jax.classifier_queries(queries, length=t, patience=S, reset=reset)
                assert count == simulated[queries - 1], (queries, t, S)
                if reset == "periodic" and queries >= 2 * t and t >= S:
                    eq2 = t + S + (queries // t - 2) * S
                    assert count == eq2 if queries % t == 0 else count >= eq2
    assert spt_jax.classifier_queries(0, length=3, patience=1, reset=reset) == 0


@pytest.mark.parametrize(
    ("queries", "length", "counts"), [(40, 10, (25, 15)), (100, 10, (55, 15)), (100, 30, (45, 35))]
)
def test_the_paper_s_counts(queries, length, counts):
    for reset, count in zip(RESETS, counts, strict=True):
        assert spt_jax.classifier_queries(queries, length=length, patience=5, reset=reset) == count


@pytest.mark.parametrize(
    "options", [{"queries": -1}, {"length": 0}, {"patience": -1}, {"reset": 0}]
)
def test_counts_of_nonsense_are_refused(options):
    usual = {"queries": 40, "length": 10, "patience": 5, "reset": "periodic"} | options
    with pytest.raises(ValueError, match=f"expected {next(iter(options))}"):
        spt_jax.classifier_queries(usual.pop("queries"), **usual)


@pytest.mark.parametrize(
    ("eps", "t", "db"),
    [(3e-3, 10, 30.46), (3e-4, 10, 50.46), (3e-4, 30, 40.92), (1.3e-3, 10, 37.72)],
)
def test_the_psnr_after_equal_steps_and_who_notices_them(eps, t, db):
    start = np.full(TINY, 0.4, np.float32)
    steps = start + np.float32(eps) * np.arange(2 * t + 2, dtype=np.float32)[:, None, None, None]
    assert abs(float(spt_jax.psnr(steps[0], steps[t])) - db) < 0.01
    for threshold, noticed in ((db - 0.1, True), (db + 0.1, False)):
        _, (deceived, _, _) = histories(automaton(t, 0, threshold_db=threshold), steps[None])
        assert deceived.any() == noticed


@pytest.mark.parametrize(("max_pixel", "scale"), [(1.0, 1.0), (255, 255.0)])
def test_psnr_is_scikit_image_s(max_pixel, scale):
    rng = np.random.default_rng(0)
    a = (scale * rng.uniform(size=(6, 8, 7, 3))).astype(np.float32)
    b = np.clip(a + 0.05 * scale * rng.normal(size=a.shape), 0, scale).astype(np.float32)
    theirs = [peak_signal_noise_ratio(x, y, data_range=scale) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(spt_jax.psnr(a, b, max_pixel), theirs, rtol=1e-5)


def test_psnr_of_equal_images_is_infinite_and_broadcasts():
    image = toys.streams(0, 1, 3)[0]
    assert np.isposinf(spt_jax.psnr(image, image)).all()
    assert spt_jax.psnr(image[:, None], image[None]).shape == (3, 3)
    with pytest.raises(ValueError, match="expected max_pixel"):
        spt_jax.psnr(image, image, 0)


def test_just_at_the_threshold_is_alike():
    """A power of two, so that the error is the threshold's to the last bit."""
    a, b = np.zeros(TINY, np.float32), np.full(TINY, 0.5, np.float32)
    at = 20 * np.log10(2.0)
    for threshold, noticed in ((at - 1e-4, True), (at + 1e-4, False)):
        stream = np.stack([a, b, a])[None]
        _, (deceived, _, _) = histories(automaton(1, 0, threshold_db=threshold), stream)
        assert deceived[0, 1:].all() == noticed


@pytest.mark.parametrize("reset", RESETS)
def test_nothing_that_is_sent_makes_it_grow_and_counters_stay(reset):
    system = spt_jax.buffer(toys.classifier, toys.decoy, length=3, patience=2, reset=reset)
    state = system.init(TINY)
    memory, _ = histories(system.automaton, np.full((1, 100, *TINY), 0.5, np.float32))
    sizes = jax.tree.map(jnp.shape, state.memory)
    assert jax.tree.map(lambda leaf: leaf.shape[1:], memory) == sizes
    most = jnp.int32(2**31 - 1)
    memory = jax.tree.map(lambda leaf: leaf[0], memory)._replace(queries=most, similar=most)
    after, deceived = system.automaton.update(memory, memory.images[0])
    assert deceived
    assert min(after.queries, after.similar) >= 0
    if reset == "on_dissimilar":
        assert (after.queries, after.similar) == (most, most)


@pytest.mark.parametrize(
    "options",
    [
        {"length": 0}, {"length": 2.5}, {"patience": -1}, {"patience": True},
        {"threshold_db": np.nan}, {"threshold_db": "35"}, {"reset": "never"},
        {"response": "silence"},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"expected {next(iter(options))} to be"):
        spt_jax.buffer(toys.classifier, toys.decoy, **options)
