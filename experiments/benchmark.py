"""Measures speed as ratios: `python -m experiments.benchmark attacks` or `... detectors`.

Everything that is compared runs in one process, turn and turn about, on the same weights; the
figure is the median, with compilation apart. Nothing here asserts: see results.json.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import attacks_jax
from cmag_jax import cmag
from experiments import attacking, cmag_config, datasets, peers, program, report, results, victims
from experiments.results import Row

CW_STEP_SIZE = 0.05  # large enough for CW to succeed in few steps


@dataclass(frozen=True)
class Config:
    what: tyro.conf.Positional[Literal["attacks", "detectors"]]
    dataset: Literal["digits", "mnist", "fashion_mnist", "gtsrb"] = "mnist"
    images: int = 128  # attacked at a time
    repeats: int = 5
    cw_steps: int = 100  # of CW, in each of `cw_rounds` rounds
    cw_rounds: int = 3
    batches: tuple[int, ...] = (1, 32, 256)  # of `detectors`
    output_dir: Path | None = None
    cache_dir: Path = Path("runs/cache")
    data_dir: Path | None = None
    manual_dir: Path | None = None


def main(config: Config) -> None:
    data = datasets.load(config.dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
    victim_config = cmag_config.VICTIMS[config.dataset]
    victim = victims.get(data, victim_config, seed=0, cache_dir=config.cache_dir)
    measure = {"attacks": measure_attacks, "detectors": measure_detectors}[config.what]
    rows = measure(config, data, victim, victims.make_cnn(data.classes, victim_config))

    folder = config.output_dir or Path(f"runs/benchmark-{config.what}-{config.dataset}")
    seconds = {"total": results.since_start()}
    results.write(folder / "results.json", config=config, rows=rows, seconds=seconds)
    report.console(results.read(folder)["rows"], (f"extra/benchmark/{config.what}",))
    print(f"wrote {folder / 'results.json'}")


def measure_attacks(config: Config, data, victim: victims.Victim, network) -> list[Row]:
    """FGSM and CW-l2 beside Foolbox (torch), and beside the network passes they can't avoid."""
    targets = attacking.choose(victim, data.test, config.images, seed=0)
    images, labels = targets.images, targets.labels
    steps, rounds = config.cw_steps, config.cw_rounds
    # Without early abortion, so that both make the same number of steps.
    cw = attacks_jax.carlini_wagner_l2(
        num_steps=steps, binary_search_steps=rounds, step_size=CW_STEP_SIZE, initial_const=1.0,
        abort_early=False,
    )  # fmt: skip
    ours = {"FGSM": (attacks_jax.fgsm(eps=0.1), 1), "CW-l2": (cw, steps * rounds)}
    oracle, key, x = attacks_jax.stateless(victim.logits), jax.random.key(0), jnp.asarray(images)
    theirs = _foolbox_attacks(config, network, victim, images, labels)

    rows = []
    for name, (attack, passes) in ours.items():
        competitors: dict[str, Callable[[], Any]] = {
            "ours": partial(attacks_jax.run, attack, oracle, key, images, labels),
            "floor": partial(_passes, victim.logits, x, labels, passes),
        }
        if name in theirs:
            competitors["foolbox"] = theirs[name]
        repeats = config.repeats * (10 if name == "FGSM" else 1)
        first, seconds = interleaved(competitors, repeats)
        figures = {
            "seconds": seconds["ours"],
            "compile_seconds": first["ours"] - seconds["ours"],
            "ratio_to_floor": seconds["ours"] / seconds["floor"],
        }
        result = competitors["ours"]()
        figures |= _outcome("", images, result.images, result.success)
        if name in theirs:
            figures["seconds:foolbox"] = seconds["foolbox"]
            figures["times_faster_than_foolbox"] = seconds["foolbox"] / seconds["ours"]
            figures |= _outcome(":foolbox", images, *theirs[name]())
        rows += [
            Row("extra/benchmark/attacks", config.dataset, "attacks_jax", name, None, metric,
                round(value, 5), len(images))
            for metric, value in figures.items()
        ]  # fmt: skip
    return rows


def _foolbox_attacks(config: Config, network, victim, images, labels) -> dict[str, Callable]:
    """The same attacks as functions to (images, success); none where Foolbox is missing."""
    if not peers.available():
        print("Foolbox or torch is not installed (extra `peers`): measuring without it")
        return {}
    import foolbox
    import torch

    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("torch sees no GPU where JAX does: measuring without Foolbox")
        return {}
    model = peers.torch_twin(network, victim.params).to(device)
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device=device)
    tensor = peers.to_torch(images).to(device)
    truth = torch.from_numpy(labels.astype(np.int64)).to(device)
    fgsm = foolbox.attacks.LinfFastGradientAttack()
    cw = foolbox.attacks.L2CarliniWagnerAttack(
        steps=config.cw_steps, stepsize=CW_STEP_SIZE, binary_search_steps=config.cw_rounds,
        initial_const=1.0, abort_early=False,
    )  # fmt: skip

    def run(attack, epsilon):
        _, clipped, success = attack(fmodel, tensor, truth, epsilons=epsilon)
        found = peers.from_torch(clipped)
        # Where its CW finds nothing, Foolbox returns a black image, and asks whether that fools.
        return found, success.cpu().numpy() & (found.max(axis=(1, 2, 3)) > 0)

    return {"FGSM": partial(run, fgsm, 0.1), "CW-l2": partial(run, cw, None)}


def _outcome(suffix: str, clean, images, success) -> dict[str, float]:
    """How often an attack succeeded, and how near its successes are: faster must not be worse."""
    distances = np.linalg.norm((np.asarray(images) - clean).reshape(len(clean), -1), axis=1)
    success = np.asarray(success)
    return {
        f"success_rate{suffix}": float(success.mean()),
        f"mean_l2{suffix}": float(distances[success].mean()) if success.any() else 0.0,
    }


def measure_detectors(config: Config, data, victim: victims.Victim, network) -> list[Row]:
    """`cmag.score` beside the victim's own forward pass, each jitted, at several batch sizes."""
    detector_config = cmag_config.preset("quick", config.dataset).cmag
    # Speed does not depend on the weights: those that training starts from will do.
    params = cmag.init(
        jax.random.key(0), victim.features_and_logits, data.test.images[:1], detector_config
    )
    score = jax.jit(partial(cmag.score, victim.features_and_logits, params))
    forward = jax.jit(victim.logits)
    rows = []
    for batch in config.batches:
        images = jnp.asarray(np.resize(data.test.images, (batch, *data.image_shape)))
        competitors = {"score": partial(score, images), "forward": partial(forward, images)}
        compile_seconds, seconds = interleaved(competitors, config.repeats * 40)
        figures = {
            "milliseconds:forward": 1000 * seconds["forward"],
            "milliseconds:score": 1000 * seconds["score"],
            "compile_seconds:score": compile_seconds["score"],
            "score_to_forward": seconds["score"] / seconds["forward"],
        }
        rows += [
            Row("extra/benchmark/detectors", config.dataset, "CMAG", "batch", batch, metric,
                round(value, 5), batch)
            for metric, value in figures.items()
        ]  # fmt: skip
    return rows


def interleaved(
    competitors: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """(seconds of the first call, median seconds of the later ones), by name. The competitors
    take turns, so that whatever else the machine does hits them alike."""
    first = {name: _seconds(call) for name, call in competitors.items()}
    later: dict[str, list[float]] = {name: [] for name in competitors}
    for _ in range(repeats):
        for name, call in competitors.items():
            later[name].append(_seconds(call))
    return first, {name: statistics.median(values) for name, values in later.items()}


# Threads of the last competitor may spin on for a while and slow whoever comes next.
SETTLE_SECONDS = 0.05


def _seconds(call: Callable[[], Any]) -> float:
    time.sleep(SETTLE_SECONDS)
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


@jax.jit
def _one_pass(logits, images, labels):
    def loss(x):
        return attacks_jax.cross_entropy(logits(x), labels, x).sum()

    return jax.grad(loss)(images)


def _passes(logits, images, labels, count: int) -> jax.Array:
    """The floor of an attack: its forward and backward passes, each after the other."""
    for _ in range(count):
        gradient = _one_pass(logits, images, labels)
    return gradient


if __name__ == "__main__":
    with program.errors_in_words():
        main(tyro.cli(Config, prog="python -m experiments.benchmark", description=__doc__))
