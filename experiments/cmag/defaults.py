"""The defaults of each data set: a record a data set, of what the presets need."""

import dataclasses
from dataclasses import dataclass

from cmag_jax import CMAG_PLUS, CMAGConfig
from cmag_jax.defense_gan import DefenseGANConfig
from cmag_jax.magnet import MAGNET_COLOUR, MagNetConfig
from experiments.victims import VictimConfig

QUICK_GAN = DefenseGANConfig(
    generator_width=16,
    critic_width=16,
    latent_size=64,
    learning_rate=1e-3,
    final_rate=0.05,
    batch_size=64,
)


@dataclass(frozen=True)
class Epochs:
    """Epochs of the quick preset."""

    fmr: int  # of CMAG and CMAG+
    lr: tuple[int, int]  # of CMAG, of CMAG+
    gr: tuple[int, int]
    magnet: int
    gan: int


@dataclass(frozen=True)
class Defaults:
    """What a data set asks for. The quick preset fits each detector in minutes on two cores."""

    victim: VictimConfig  # of the quick preset
    paper_victim: VictimConfig
    epochs: Epochs
    batch_size: int = 250  # small batches need few epochs; the paper's 2,000 need a hundred
    cw_images: int = 400  # that CW attacks in the quick preset
    bits: tuple[int, ...] = (1,)  # squeezed to; at 1 bit, clothes and road signs lose their content
    paper_magnet: MagNetConfig = dataclasses.field(default_factory=MagNetConfig)
    hardened_eps: float = 0.3  # of adversarial training, l-infinity
    # (l-infinity, l2) bounds of the other attacks: the usual ones for grey images of 28x28 pixels.
    other_eps: tuple[float, float] = (0.2, 1.5)

    def cmag(self) -> CMAGConfig:
        return CMAGConfig(
            batch_size=self.batch_size,
            fmr_epochs=self.epochs.fmr,
            lr_epochs=self.epochs.lr[0],
            gr_epochs=self.epochs.gr[0],
            fmr_width=64,
        )

    def cmag_plus(self) -> CMAGConfig:
        return dataclasses.replace(
            CMAG_PLUS,
            batch_size=self.batch_size,
            fmr_epochs=self.epochs.fmr,
            lr_epochs=self.epochs.lr[1],
            gr_epochs=self.epochs.gr[1],
            fmr_width=64,
        )

    def magnet(self) -> MagNetConfig:
        """Four times the paper's steps an epoch, at twice its rate."""
        return dataclasses.replace(
            self.paper_magnet, batch_size=64, learning_rate=2e-3, epochs=self.epochs.magnet
        )

    def defense_gan(self) -> DefenseGANConfig:
        return dataclasses.replace(QUICK_GAN, epochs=self.epochs.gan)


_DIGITS = VictimConfig((16, 32), epochs=30, batch_size=32, max_shift=2)

DATASETS: dict[str, Defaults] = {
    "digits": Defaults(
        victim=_DIGITS,
        paper_victim=_DIGITS,
        epochs=Epochs(fmr=60, lr=(10, 10), gr=(30, 30), magnet=60, gan=30),
        batch_size=50,
        cw_images=200,
        hardened_eps=0.2,
    ),
    "mnist": Defaults(
        victim=VictimConfig((16, 32), epochs=6, dropout=0.3),
        paper_victim=VictimConfig((32, 64), epochs=20),
        epochs=Epochs(fmr=5, lr=(2, 3), gr=(12, 8), magnet=10, gan=4),
    ),
    "fashion_mnist": Defaults(
        victim=VictimConfig((16, 32), epochs=8, dropout=0.3),
        paper_victim=VictimConfig((32, 64), epochs=20),
        epochs=Epochs(fmr=16, lr=(2, 3), gr=(12, 8), magnet=10, gan=5),
        bits=(5,),
        hardened_eps=0.1,
    ),
    "gtsrb": Defaults(
        victim=VictimConfig((24, 48), dense=192, standardise=True, max_shift=2, epochs=16),
        paper_victim=VictimConfig((64, 128), dense=512, standardise=True, max_shift=2, epochs=40),
        epochs=Epochs(fmr=16, lr=(2, 3), gr=(12, 8), magnet=8, gan=5),
        bits=(5,),
        paper_magnet=MAGNET_COLOUR,
        hardened_eps=0.03,
        other_eps=(8 / 255, 0.5),
    ),
}
VICTIMS = {name: of.victim for name, of in DATASETS.items()}
