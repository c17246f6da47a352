"""Ten thousand calls of the libraries with arguments that make no sense, or just enough.

Each call either gives what an independent look at its arguments confirms, or a ValueError that says
what was expected. Printed: how many were right, in words, with a traceback, silently wrong.
"""

import inspect
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import median_filter

import attacks_jax
import cmag_jax
import spt_jax
from cmag_jax import defense_gan, feature_squeezing, magnet
from tests.attacks_jax import toys

pytestmark = pytest.mark.slow
CALLS = 10_000
SHAPE, CLASSES = (12, 12, 1), 3
KEY = jax.random.key(0)
NETWORK = toys.random_network(jax.random.key(1), SHAPE, CLASSES)
ORACLE = attacks_jax.stateless(NETWORK)
SYSTEM = spt_jax.chain(NETWORK, NETWORK, regions=2)
STATE = SYSTEM.init(SHAPE)
SQUEEZING = feature_squeezing.FeatureSqueezingParams(
    feature_squeezing.FeatureSqueezingConfig(), SHAPE
)
NUMBERS = (
    *(0, 1, -1, 2, 2.5, 0.1, 1e30, -1e-30, float("nan"), float("inf"), 2**40, True, None),
    *("a", "0.1", [], {}, (0.1, 0.2), np.float32(0.1), np.float64(0.2), np.int64(3)),
    *(np.array([0.1, 0.2]), jnp.float32(0.2), jnp.array([1]), object(), len, 3 + 0j),
)


class Call(NamedTuple):
    function: Callable
    arguments: dict[str, Any]  # that are right
    odd: dict[str, Callable]  # argument -> draws something else for it
    holds: Callable  # (arguments, result) -> bool


def images(rng: np.random.Generator) -> Any:
    right = rng.uniform(size=(int(rng.integers(0, 4)), *SHAPE)).astype(np.float32)
    return [
        right, right[:, :6], right[..., 0], right.astype(np.float64), right.astype(np.float16),
        (right * 255).astype(np.uint8), right * 2, -right, right * np.nan,
        right.tolist(),
        right.astype(object), jnp.asarray(right), None, "images", 3, np.nextafter(right, 2) * 0 + 2,
        np.repeat(right, 2, axis=3), right > 0.5, right.astype(complex), right[:1, 0, 0],
    ][int(rng.integers(20))]  # fmt: skip


def number(rng: np.random.Generator) -> Any:
    return NUMBERS[int(rng.integers(len(NUMBERS)))]


def labels(rng: np.random.Generator) -> Any:
    right = rng.integers(CLASSES, size=3)
    return [
        right, right.astype(np.uint8), right.tolist(), right[:2], right + 2**32, right - 9,
        right.astype(float), right.astype(bool), None, "012", [0, 1], [[0], [1, 2], [3]],
        jnp.asarray(right), right.astype(object), right[:, None],
    ][int(rng.integers(15))]  # fmt: skip


def function(rng: np.random.Generator) -> Any:
    return [
        NETWORK, None, 3, "f", lambda x: x, lambda x: None, lambda x: (NETWORK(x), x),
        lambda x: NETWORK(x)[0], lambda x: jnp.argmax(NETWORK(x), -1), lambda *x: NETWORK(x[-1]),
    ][int(rng.integers(10))]  # fmt: skip


def bounds(rng: np.random.Generator) -> Any:
    return [
        (0.0, 1.0), (0, 1), [0, 1], (0.0, 255.0), (1, 0), 0.5, "01", None, (0, float("inf")),
        (0, 1, 2), (float("nan"), 1), np.array([0.0, 1.0]), ("0", "1"), (0, 0),
    ][int(rng.integers(14))]  # fmt: skip


def scores(rng: np.random.Generator) -> Any:
    values = rng.normal(size=30)
    return [
        {"a": values}, {"a": values, "b": values[::-1]}, {}, None, values, {"a": values[:0]},
        {"a": values, "b": values[:3]}, {"a": np.where(values > 1, np.nan, values)},
        [("a", values)],
        {"a": values.astype(str)}, {"a": 3.0}, {"a": None}, {"a": jnp.asarray(values)}, "scores",
        {"a": values.astype(complex)}, {"a": np.full(30, np.inf)},
    ][int(rng.integers(16))]  # fmt: skip


def attacked(a: dict, result: Any) -> bool:
    """Success is what the oracle says, and images are within the bounds."""
    if not len(a["images"]):
        return result.images.shape[0] == 0
    answers = np.argmax(NETWORK(result.images), -1)
    goals = np.asarray(a["labels"])
    low, high = float(result.images.min()), float(result.images.max())
    return 0 <= low <= high <= 1 and bool(np.all((answers != goals) == result.success))


def psnr(a: dict, result: Any) -> bool:
    one, two = (np.asarray(x, np.float64) for x in (a["a"], a["b"]))
    error = np.mean((one - two) ** 2, axis=(-3, -2, -1))
    with np.errstate(divide="ignore"):
        expected = 10 * np.log10(np.square(float(np.asarray(a["max_pixel"]))) / error)
    return bool(np.allclose(result, expected, rtol=1e-3, atol=1e-3, equal_nan=False))


def ssim(a: dict, result: Any) -> bool:
    return bool(np.all(np.isfinite(result)) and np.all(np.asarray(result) <= 1 + 1e-5))


def depth(a: dict, result: Any) -> bool:
    levels = 2 ** int(a["bits"]) - 1
    expected = np.round(np.asarray(a["images"], np.float64) * levels) / levels
    return expected.size == 0 or bool(np.mean(np.abs(np.asarray(result) - expected) > 1e-6) < 0.01)


def median(a: dict, result: Any) -> bool:
    size, x = int(a["size"]), np.asarray(a["images"]).astype(np.float32)
    return x.size == 0 or bool(np.allclose(result, median_filter(x, (1, size, size, 1))))


def made(a: dict, result: Any) -> bool:
    """Of what is only made: every number in it is finite."""
    leaves = [leaf for leaf in jax.tree.leaves(result) if isinstance(leaf, int | float)]
    return all(np.isfinite(leaf) for leaf in leaves)


def flagged(a: dict, result: Any) -> bool:
    expected = np.zeros(np.shape(result), bool)
    for name, values in a["scores"].items():
        expected |= ~(np.asarray(values) <= a["thresholds"][name])
    return bool(np.all(np.asarray(result) == expected))


def share(a: dict, result: Any) -> bool:
    """No more of the images than `fpr` exceed any threshold."""
    over = np.any([np.asarray(v) > result[k] for k, v in a["clean_scores"].items()], axis=0)
    return bool(over.mean() <= a["fpr"] + 1e-9)


def answered(a: dict, result: Any) -> bool:
    _, answer = result
    return bool(np.isfinite(answer.logits).all())


RIGHT = np.random.default_rng(0).uniform(size=(3, *SHAPE)).astype(np.float32)
RIGHT_LABELS = np.asarray(np.argmax(NETWORK(RIGHT), -1))
MAKERS = (
    "fgsm", "least_likely", "bim", "pgd", "mifgsm", "apgd", "carlini_wagner_l2",
    "carlini_wagner_l0", "carlini_wagner_linf", "ead", "deepfool", "jsma", "one_pixel", "nes",
    "square", "boundary", "hop_skip_jump", "patch", "atn", "auto_attack",
)  # fmt: skip


CHOICES = (
    "targeted", "starting_points", "network", "random_start", "early_stop", "abort_early", "norm",
    "shape", "decision_rule", "place", "scale",
)  # fmt: skip


def makers() -> list[Call]:
    kinds = {"bounds": bounds, "loss": function}
    calls = []
    for name in MAKERS:
        make = getattr(attacks_jax, name)
        named = [option for option in inspect.signature(make).parameters if option not in CHOICES]
        calls.append(Call(make, {}, {o: kinds.get(o, number) for o in named}, made))
    return calls


def others() -> list[Call]:
    fgsm = attacks_jax.fgsm()

    def run(**a):
        return attacks_jax.run(fgsm, a.get("oracle", ORACLE), KEY, a["images"], a["labels"])

    def of_classifier(classifier):
        oracle = attacks_jax.stateless(classifier)
        return attacks_jax.run(fgsm, oracle, KEY, RIGHT, RIGHT_LABELS)

    def query(images):
        return SYSTEM.query_stream(STATE, images)

    def packaged(classifier):
        system = spt_jax.buffer(classifier, NETWORK)
        return system.query(system.init(SHAPE), RIGHT[0])

    nets = {"classifier": NETWORK, "decoy": NETWORK}
    numbers = {"length": number, "patience": number, "threshold_db": number}
    chains = {"regions": number, "chain_length": number, "trigger": number, "threshold_db": number}
    hashes = dict.fromkeys(
        ("threshold", "window", "quantisation", "fingerprint_size", "capacity", "salt"), number
    )
    two = {"a": RIGHT, "b": RIGHT[::-1].copy()}
    squeezed = {"images": RIGHT}
    return [
        Call(run, {"images": RIGHT, "labels": RIGHT_LABELS}, {"images": images}, attacked),
        Call(run, {"images": RIGHT, "labels": RIGHT_LABELS}, {"labels": labels}, attacked),
        Call(of_classifier, {"classifier": NETWORK}, {"classifier": function}, lambda a, r: True),
        Call(query, {"images": RIGHT}, {"images": images}, answered),
        Call(packaged, {"classifier": NETWORK}, {"classifier": function}, answered),
        Call(spt_jax.buffer, nets, numbers, made),
        Call(spt_jax.chain, nets, chains, made),
        Call(spt_jax.blacklight, nets, hashes, made),
        Call(spt_jax.osd, nets | {"encode": NETWORK, "threshold": 0.1}, {
            "encode": function, "threshold": number, "neighbours": number, "capacity": number},
             lambda a, r: True),
        Call(cmag_jax.thresholds.combine, {"scores": {"a": np.arange(30.0)},
             "clean_scores": {"a": np.arange(30.0)}}, {"scores": scores, "clean_scores": scores},
             lambda a, r: np.all((np.asarray(r) >= 0) & (np.asarray(r) <= 2))),
        Call(magnet.calibrate, {"clean_scores": {"a": np.arange(30.0)}, "drop_rate": 0.1},
             {"clean_scores": scores, "drop_rate": number}, made),
        Call(defense_gan.DefenseGANConfig, {}, dict.fromkeys(
            ("penalty", "learning_rate", "beta1", "momentum", "final_rate", "epochs", "generator",
             "restarts", "search_rate"), number), made),
        Call(feature_squeezing.FeatureSqueezingConfig, {},
             {"bits": number, "medians": number}, made),
        Call(spt_jax.serve, {"system": SYSTEM}, {"capacity": number}, made),
        Call(spt_jax.psnr, two | {"max_pixel": 1.0}, {"a": images, "b": images}, psnr),
        Call(spt_jax.psnr, two | {"max_pixel": 1.0}, {"max_pixel": number}, psnr),
        Call(spt_jax.jpeg, squeezed | {"quality": 75}, {"images": images, "quality": number},
             lambda a, r: ssim(a, r)),
        Call(spt_jax.median_smooth, squeezed | {"size": 3}, {"images": images}, median),
        Call(spt_jax.osd_threshold, {"encodings": RIGHT.reshape(3, -1), "neighbours": 1},
             {"encodings": images, "neighbours": number, "fpr": number},
             lambda a, r: np.isfinite(r)),
        Call(cmag_jax.global_ssim, two, {"a": images, "b": images}, ssim),
        Call(cmag_jax.windowed_ssim, two, {"a": images, "b": images}, ssim),
        Call(feature_squeezing.bit_depth, squeezed | {"bits": 3},
             {"images": images, "bits": number}, depth),
        Call(feature_squeezing.median_smooth, squeezed | {"size": 3},
             {"images": images, "size": number}, median),
        Call(cmag_jax.detect, {"scores": {"a": np.arange(30.0)}, "thresholds": {"a": 3.0}},
             {"scores": scores, "thresholds": scores}, flagged),
        Call(cmag_jax.calibrate, {"clean_scores": {"a": np.arange(30.0)}, "fpr": 0.1},
             {"clean_scores": scores, "fpr": number}, share),
        Call(lambda **a: feature_squeezing.score(lambda x: (x, NETWORK(x)), SQUEEZING, **a),
             squeezed, {"images": images}, lambda a, r: ssim({}, r["l1"] - 1)),
        Call(cmag_jax.CMAGConfig, {}, dict.fromkeys(
            ("mu_fmr", "temperature", "learning_rate", "batch_size", "fmr_epochs", "scores", "ssim",
             "contrast", "final_rate", "gr_width"), number), made),
        Call(magnet.MagNetConfig, {}, dict.fromkeys(
            ("width", "noise", "temperatures", "learning_rate", "epochs"), number), made),
    ]  # fmt: skip


def outcome(call: Call, arguments: dict[str, Any]) -> tuple[str, str]:
    try:
        result = call.function(**arguments)
    except ValueError as error:
        in_words = "expected" in str(error)
        return ("in words" if in_words else "traceback"), repr(error)[:200]
    except Exception as error:
        if "dot_general requires" in str(error):  # what the network says of images of other shapes
            return "in the network's words", ""
        return "traceback", repr(error)[:200]
    try:
        right = call.holds(arguments, result)
    except Exception as error:  # what was accepted is no argument that could be right
        return "silent", repr(error)[:200]
    return ("right" if right else "silent"), ""


def test_no_call_is_silently_wrong_or_ends_in_a_riddle(capsys):
    rng = np.random.default_rng(0)
    calls = [*makers(), *others()]
    found, wrong = Counter(), {}
    for i in range(CALLS):
        call = calls[i % len(calls)]
        names = list(call.odd)
        chosen = rng.choice(names, size=min(len(names), int(rng.integers(1, 3))), replace=False)
        arguments = call.arguments | {str(name): call.odd[str(name)](rng) for name in chosen}
        kind, why = outcome(call, arguments)
        found[kind] += 1
        if kind in ("silent", "traceback"):
            shown = {k: repr(v)[:60] for k, v in arguments.items() if k in chosen}
            wrong.setdefault(
                (getattr(call.function, "__name__", "?"), kind, why[:60]), (shown, why)
            )
        if i % 500 == 499:
            jax.clear_caches()
    with capsys.disabled():
        print(f"\n{CALLS} calls: {dict(found)}")
        for key, value in wrong.items():
            print(key, value)
    assert not wrong
