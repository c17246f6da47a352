"""What makes no sense on a command line is refused before anything runs: a few for each program.
`tests/campaign/test_bad_lines.py` has two hundred."""

import shlex

import pytest
import tyro

from experiments import attack_gallery, full_run, parity, prepare, rounding, ssim_autoencoder
from experiments.adaptive import config as adaptive_config
from experiments.benchmark import __main__ as benchmark
from experiments.cmag import config as cmag_config
from experiments.spt import config as spt_config
from experiments.victims import VictimConfig
from experiments.victims.zoo import __main__ as zoo

PARSERS = {
    "cmag": cmag_config.parse,
    "adaptive": adaptive_config.parse,
    "spt": spt_config.parse,
}
for module in (
    attack_gallery, benchmark, full_run, parity, prepare, rounding, ssim_autoencoder, zoo,
):  # fmt: skip
    PARSERS[module.__name__.removeprefix("experiments.").removesuffix(".__main__")] = (
        lambda words, module=module: tyro.cli(module.Config, args=words)
    )  # fmt: skip


def parse(line: str) -> object:
    name, *words = shlex.split(line)
    return PARSERS[name](words)


SEEDED = ("cmag", "adaptive", "spt", "parity", "ssim_autoencoder", "victims.zoo cifar10-resnet")


@pytest.mark.parametrize("program", SEEDED)
@pytest.mark.parametrize("seed", [-1, 2**32, 2**40, 2**64])
def test_seeds_that_are_another_s_are_refused(program, seed, capsys):
    """`jax.random.key` takes the lowest 32 bits: 2**40 would give the weights of seed 0."""
    with pytest.raises(SystemExit):
        parse(f"{program} --seed={seed}")
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert f"expected a seed from 0 to 4294967295, got {seed}" in said


@pytest.mark.parametrize("program", SEEDED)
def test_the_largest_seed_is_taken(program):
    assert parse(f"{program} --seed={2**32 - 1}").seed == 2**32 - 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("cmag --fgsm-eps --cw-confidence", "expected a strength in fgsm_eps or cw_confidence"),
        ("cmag --systems CMAG CMAG", "expected each of systems once, got CMAG CMAG"),
        ("cmag --victim.learning-rate=1e30", "expected learning_rate in (0, 1], got 1e+30"),
        ("cmag --victim.learning-rate=nan", "expected learning_rate in (0, 1], got nan"),
        ("cmag --cmag-plus.learning-rate=2", "expected learning_rate in (0, 1], got 2"),
        ("cmag --cmag.gr-width=1000000000", "expected gr_width of at most 16384"),
        ("cmag --victim.channels 4 1000000000", "expected channels from 1 to 16384"),
        ("cmag --dataset", "Missing value for argument '--dataset'"),
        ("adaptive --margin=nan", "expected a finite margin of at least 0, got nan"),
        ("adaptive --eps 0.1 2", "expected eps that rise from above 0 to 1"),
        ("adaptive --confidence inf", "expected a finite confidence of at least 0, got inf"),
        ("spt --target=10", "expected a target from 0 to 9, a class of digits, got 10"),
        ("spt --dataset=gtsrb --target=43", "expected a target from 0 to 42, a class of gtsrb"),
        ("spt --threshold-db=nan", "expected a finite threshold_db, got nan"),
        ("spt --step-size=nan", "expected step_size in (0, 1], got nan"),
        ("spt --faces.patch-size=47", "expected patch_size of at most 46"),
        ("ssim_autoencoder --eps", "expected at least one of eps, got none"),
        ("benchmark attacks --dataset=gtsrb", "expected a dataset among digits, mnist, cifar10"),
        ("benchmark detectors --dataset=cifar10", "gtsrb for detectors, got cifar10"),
        ("benchmark detectors --batches 0", "expected batches from 1 to 1048576, got 0"),
        ("parity --only FGMS", "got FGMS"),
        ("parity --only FGSM FGSM", "expected each attack once, got FGSM, FGSM"),
        ("rounding --images=0", "expected images of at least 1, got 0"),
        ("attack_gallery --images=-1", "expected images of at least 1, got -1"),
        ("victims.zoo", "expected at least one of names, got none"),
        ("victims.zoo cifar10-resnet --seconds=nan", "expected seconds in"),
        ("prepare --dataset=mnist --face-size 8 8", "expected face_size with orl_faces"),
        ("full_run --minutes=nan", "expected minutes in"),
        ("full_run --seeds 0 0", "expected each of seeds once, got 0 0"),
        ("full_run --datasets --spt-tables --no-benchmarks", "benchmarks to run, got none"),
    ],
)
def test_what_makes_no_sense_is_said(line, told, capsys):
    with pytest.raises(SystemExit) as end:
        parse(line)
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert told in said


def test_with_other_attacks_those_of_the_tables_may_be_left_out():
    assert cmag_config.parse(["--systems=all", "--fgsm-eps", "--cw-confidence"]).fgsm_eps == ()


@pytest.mark.parametrize("channels", [(), (0,), (1, 16_385), (1,) * 17])
def test_a_victim_of_channels_that_can_t_be_is_refused(channels):
    with pytest.raises(ValueError, match="expected channels"):
        VictimConfig(channels)
