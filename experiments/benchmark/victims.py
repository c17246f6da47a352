"""The classifiers that `parity` and `benchmark` attack: CMAG's, and one for CIFAR-10."""

from experiments.cmag import defaults
from experiments.victims import VictimConfig

CONFIGS = {
    **defaults.VICTIMS,
    "cifar10": VictimConfig((16, 32, 64), convolutions=2, dropout=0.3, max_shift=2, epochs=8),
}

# A VGG of six convolutions without batch normalisation (which the torch port lacks). It shows an
# attack's cost when the network's own passes dominate. It needs a GPU: hours on two cores.
VGG = VictimConfig((64, 128, 256), convolutions=2, dense=512, max_shift=2, epochs=5)
