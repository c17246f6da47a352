"""Options of `python -m experiments.cmag`, and its presets."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from cmag_jax import CMAG_PLUS, CMAGConfig
from cmag_jax.defense_gan import DefenseGANConfig
from cmag_jax.feature_squeezing import FeatureSqueezingConfig
from cmag_jax.magnet import MagNetConfig
from experiments import victims
from experiments.cmag import paper_values
from experiments.cmag.defaults import DATASETS
from experiments.pipeline.attack_runs import AttackSpec
from experiments.pipeline.detectors import Choice, DetectorName, FittedDetector, chosen
from experiments.runtime import checks, cli

DatasetName = Literal["digits", "mnist", "fashion_mnist", "gtsrb"]
Preset = Literal["quick", "paper"]


# The width options of each system's networks. Above MOST_WIDTH, a width likely has a zero too many.
WIDTHS = {
    "cmag": ("fmr_width", "lr_width", "gr_width"),
    "cmag_plus": ("fmr_width", "lr_width", "gr_width"),
    "magnet": ("width",),
    "defense_gan": ("generator_width", "critic_width", "latent_size"),
}
MOST_WIDTH = 16_384


@dataclass(frozen=True)
class CWConfig:
    """Carlini and Wagner's l2 attack. Except for the steps, the defaults are their paper's."""

    num_steps: int = 1000  # per round; the paper: 10,000, of which an example seldom uses a tenth
    step_size: float = 0.01
    binary_search_steps: int = 9
    initial_const: float = 1e-3
    abort_early: bool = True


QUICK_CW = CWConfig(num_steps=200, step_size=0.05, binary_search_steps=5, initial_const=1.0)


@dataclass(frozen=True)
class Config:
    """All options that determine a run, and the folders that it reads and writes."""

    dataset: DatasetName = "digits"
    preset: Preset = "quick"  # defaults of the other options: minutes on a CPU, or the paper's
    systems: tuple[Choice, ...] = ("CMAG", "CMAG+")
    seed: int = 0
    output_dir: Path | None = None  # run folder; None: runs/cmag-DATASET-PRESET-seedSEED
    cache_dir: Path = Path("runs/cache")  # cache of victims, fitted detectors and attacked images
    data_dir: Path | None = None  # where TFDS keeps prepared data sets; None: TFDS_DATA_DIR
    manual_dir: Path | None = None  # the publishers' archives, one sub-folder per data set
    fgsm_eps: tuple[float, ...] = paper_values.FGSM_EPS  # strengths of FGSM; empty: no FGSM
    cw_confidence: tuple[float, ...] = (0.0, *paper_values.CW_CONFIDENCE)  # empty: no CW
    fgsm_images: int = 10_000  # correctly classified test images to attack with FGSM
    cw_images: int = 1000  # the same, with CW-l2
    other_images: int = 200  # the same, with each other attack of attacks_jax; for --systems=all
    hardened_images: int = 100  # per attack of tables 3-7, on eq. 11's adversarially trained victim
    # Maximum number of images per kind for Defense-GAN, which is slow. It skips other attacks.
    slow_images: int = 500
    attack_batch: int = 200  # images per attack batch; section 4.1
    victim: victims.VictimConfig = field(default_factory=victims.VictimConfig)
    cmag: CMAGConfig = field(default_factory=CMAGConfig)
    cmag_plus: CMAGConfig = field(default_factory=lambda: CMAG_PLUS)
    magnet: MagNetConfig = field(default_factory=MagNetConfig)
    defense_gan: DefenseGANConfig = field(default_factory=DefenseGANConfig)
    feature_squeezing: FeatureSqueezingConfig = field(default_factory=FeatureSqueezingConfig)
    cw: CWConfig = field(default_factory=CWConfig)

    def __post_init__(self) -> None:
        checks.seeds(self.seed)
        images = ("fgsm_images", "cw_images", "hardened_images", "slow_images")
        checks.counts(self, *images, "attack_batch")
        checks.counts(self, "other_images", least=0)
        checks.some(self, "systems")
        checks.different(self, "fgsm_eps", "cw_confidence")
        if not specs(self) and not (self.whole and self.other_images):
            raise ValueError(
                "expected a strength in fgsm_eps or cw_confidence to attack with, got none"
            )
        for spec in (*specs(self), *other_specs(self)):
            spec.make()  # refuses invalid options before any training
        for system in (self.cmag, self.cmag_plus, self.magnet, self.defense_gan):
            checks.above_zero(system, "learning_rate", most=1)
        for cascade in (self.cmag, self.cmag_plus):
            checks.above_zero(cascade, "final_rate", most=1)
        for name, widths in WIDTHS.items():
            checks.counts(getattr(self, name), *widths, most=MOST_WIDTH)

    @property
    def chosen(self) -> tuple[DetectorName, ...]:
        """Names of the chosen systems, in the tables' order."""
        return chosen(self.systems)

    @property
    def whole(self) -> bool:
        """Whether to run all that the paper and the field ask for.

        That adds other attacks, the ablation, theorem 1 and adversarial training.
        """
        return "all" in self.systems

    def most(self, system: FittedDetector) -> int | None:
        """Returns the most images of a kind that the system scores; None: all."""
        return self.slow_images if system.module.SLOW else None

    def of_system(self, name: DetectorName) -> Any:
        """Returns the configuration of a system."""
        of_each = {
            "CMAG": self.cmag,
            "CMAG+": self.cmag_plus,
            "MagNet": self.magnet,
            "Defense-GAN": self.defense_gan,
            "feature squeezing": self.feature_squeezing,
        }
        return of_each[name]


def preset(name: Preset, dataset: DatasetName) -> Config:
    """Returns the options of a preset."""
    of = DATASETS[dataset]
    squeezing = FeatureSqueezingConfig(bits=of.bits)
    if name == "paper":
        small = of.paper_victim == of.victim  # too few images for the paper's batches
        return Config(
            dataset,
            name,
            victim=of.paper_victim,
            cmag=of.cmag() if small else CMAGConfig(),
            cmag_plus=of.cmag_plus() if small else CMAG_PLUS,
            magnet=of.paper_magnet,
            feature_squeezing=squeezing,
        )
    return Config(
        dataset,
        name,
        fgsm_images=1000,
        cw_images=of.cw_images,
        other_images=50,
        slow_images=100,
        victim=of.victim,
        cmag=of.cmag(),
        cmag_plus=of.cmag_plus(),
        magnet=of.magnet(),
        defense_gan=of.defense_gan(),
        feature_squeezing=squeezing,
        cw=QUICK_CW,
    )


def parse(arguments: list[str] | None = None, description: str | None = None) -> Config:
    """Returns the configuration of a command line: the preset, with the given options."""
    choices: dict[str, tuple[str, tuple]] = {
        "preset": ("quick", get_args(Preset)),
        "dataset": ("digits", tuple(DATASETS)),
    }
    return cli.parse(
        Config,
        preset,
        choices,
        arguments,
        prog="python -m experiments.cmag",
        description=description,
    )


def specs(config: Config) -> list[AttackSpec]:
    """Returns the attacks of tables 3-7, in the tables' order."""
    options = tuple(dataclasses.asdict(config.cw).items())
    fgsm = [AttackSpec("FGSM", float(eps)) for eps in config.fgsm_eps]
    return fgsm + [AttackSpec("CW-l2", float(k), options) for k in config.cw_confidence]


def hardened(config: Config) -> victims.HardenedConfig:
    """Returns the run's victim with adversarial training (eq. 11).

    The quick preset trains it for half as long, with FGSM from a random start: PGD of one step.
    """
    eps = DATASETS[config.dataset].hardened_eps
    steps = 1 if config.preset == "quick" else 7
    length = 1.25 * eps if steps == 1 else eps / 4
    options = {f.name: getattr(config.victim, f.name) for f in dataclasses.fields(config.victim)}
    if steps == 1:
        options["epochs"] = max(options["epochs"] // 2, 1)
    attack = victims.AdversarialConfig(eps=eps, step_size=length, num_steps=steps)
    return victims.HardenedConfig(**options, adversarial=attack)


def other_specs(config: Config) -> list[AttackSpec]:
    """Returns every other attack, at its usual strength; the quick preset shortens them."""
    eps, eps_l2 = DATASETS[config.dataset].other_eps
    quick = config.preset == "quick"
    cw = dataclasses.asdict(config.cw)
    shrinking = {"num_steps": 100, "step_size": 0.05} if quick else {}
    step: dict[str, float] = {"step_size": eps / 10, "num_steps": 20}
    pixels = {"population": 200, "generations": 20} if quick else {}
    table: list[tuple[str, float, dict[str, Any]]] = [
        ("least likely", eps, {}),
        ("BIM", eps, step),
        ("PGD", eps, step | {"num_steps": 40}),
        ("PGD-l2", eps_l2, {"norm": "l2", "step_size": eps_l2 / 10, "num_steps": 40}),
        ("MI-FGSM", eps, step),
        ("APGD", eps, {"num_steps": 50 if quick else 100}),
        ("AutoAttack", eps, {"num_steps": 20, "num_queries": 500} if quick else {}),
        ("DeepFool", 0.02, {}),
        ("EAD", 0.0, cw | {"beta": 0.01}),
        ("CW-l0", 0.0, shrinking),
        ("CW-linf", 0.0, shrinking),
        ("JSMA", 0.145, {}),
        ("few pixels", 5, pixels),
        ("patch", 8, {"num_steps": 200} if quick else {}),
        ("ATN", 10.0, {"num_steps": 300} if quick else {}),
        ("NES", eps, {"num_steps": 100 if quick else 10_000}),
        ("Square", eps, {"num_steps": 500 if quick else 5000, "p_init": 0.8}),
        ("Boundary", 0.01, {"num_steps": 1000 if quick else 25_000}),
        ("HopSkipJump", 1.0, {"num_steps": 1000}),
    ]
    return [AttackSpec(name, strength, tuple(o.items())) for name, strength, o in table]
