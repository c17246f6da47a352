"""Trains networks of the zoo: `python -m experiments.victims.zoo cifar10-resnet`

Writes each as NAME.npz (float16), and NAME.json with its training and its accuracy. Without a GPU,
some networks take an hour on two cores. The same command resumes an interrupted training.
`--evaluate` measures the networks in the zoo again and rewrites their JSON.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

import attacks_jax
from experiments import datasets, victims
from experiments.datasets import Dataset
from experiments.runtime import cache, checks, cli, results
from experiments.victims import Victim, recipe, zoo


@dataclass(frozen=True)
class Config:
    names: tyro.conf.Positional[tuple[Literal[tuple(zoo.RECIPES)], ...]]  # type: ignore[valid-type]
    seed: int = 0
    epochs: int | None = None  # replaces the recipe's own
    seconds: float | None = None  # train for this long instead of for `epochs`
    evaluate: bool = False  # measure existing networks instead of training
    attacked_images: int = 500  # by APGD, for adversarially trained networks; 0: skip
    output_dir: Path = zoo.FOLDER
    cache_dir: Path = Path("runs/cache")
    data_dir: Path | None = None
    manual_dir: Path | None = None

    def __post_init__(self) -> None:
        checks.seeds(self.seed)
        checks.some(self, "names")
        checks.counts(self, "epochs")
        checks.counts(self, "attacked_images", least=0)
        checks.above_zero(self, "seconds", most=checks.MOST)


def main(config: Config) -> None:
    cli.prepare_folders(config.output_dir, config.cache_dir)
    for name in config.names:
        dataset, how = zoo.RECIPES[name]
        if config.epochs is not None:
            how = dataclasses.replace(how, epochs=config.epochs)
        data = datasets.load(dataset, data_dir=config.data_dir, manual_dir=config.manual_dir)
        if config.evaluate:
            victim = zoo.load(name, config.output_dir)
            facts = json.loads((config.output_dir / f"{name}.json").read_text())
        else:
            start = time.monotonic()
            variables, epochs = recipe.train(
                data, how, seed=config.seed, cache_dir=config.cache_dir, seconds=config.seconds
            )
            how = dataclasses.replace(how, epochs=epochs)
            victim = victims.bind(how.network(data.classes), zoo.as_stored(variables), name)
            facts = {
                "dataset": dataset,
                "trained_on": cache.digest(data.train.images, data.train.labels),
                "seed": config.seed,
                "recipe": dataclasses.asdict(how),
                "training": results.provenance({"total": time.monotonic() - start}),
            }
        facts["accuracy"] = _accuracy(victim, data, how)
        if how.adversarial is not None and config.attacked_images:
            facts["accuracy_apgd"] = _under_attack(victim, data, how, config.attacked_images)
        path = zoo.save(name, victim.params, facts, config.output_dir)
        measured = {key: facts[key] for key in ("accuracy", "accuracy_apgd") if key in facts}
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB): {measured}", flush=True)


def _accuracy(victim: Victim, data: Dataset, how: recipe.Recipe) -> dict[str, Any]:
    def share(split):
        labels = split.labels
        if how.labels == "replaced":
            labels = data.classes - 1 - labels
        return float(np.mean(victims.predict(victim, split.images) == labels))

    return {
        "test": share(data.test),
        "test_images": len(data.test),
        "validation": share(data.validation),
        "validation_images": len(data.validation),
    }


def _under_attack(victim: Victim, data: Dataset, how: recipe.Recipe, most: int) -> dict[str, Any]:
    """Returns the accuracy after APGD on the cross-entropy, on DLR and on both."""
    split = datasets.sample(data.test, most, np.random.default_rng(0))
    eps = how.adversarial.eps if how.adversarial else 8 / 255
    oracle, key = attacks_jax.stateless(victim.logits), jax.random.key(0)
    found: dict[str, Any] = {"eps": eps, "num_steps": 100, "images": len(split)}
    fooled = np.zeros(len(split), bool)
    for loss in (attacks_jax.cross_entropy, attacks_jax.dlr):
        attack = attacks_jax.apgd(eps=eps, norm="linf", num_steps=100, loss=loss)
        result = attacks_jax.run(attack, oracle, key, split.images, split.labels)
        found[loss.__name__] = float(np.mean(~np.asarray(result.success)))
        fooled |= np.asarray(result.success)
    return found | {"both": float(np.mean(~fooled))}


if __name__ == "__main__":
    with cli.program():
        main(tyro.cli(Config, prog="python -m experiments.victims.zoo", description=__doc__))
