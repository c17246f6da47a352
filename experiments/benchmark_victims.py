"""The classifiers that `parity` and `benchmark` attack: CMAG's, and one for CIFAR-10."""

from experiments import cmag_config
from experiments.victims import VictimConfig

CONFIGS = {
    **cmag_config.VICTIMS,
    "cifar10": VictimConfig((16, 32, 64), convolutions=2, dropout=0.3, max_shift=2, epochs=8),
}
