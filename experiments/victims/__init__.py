"""The classifiers that are attacked and defended."""

from experiments.victims.adversarial import AdversarialConfig as AdversarialConfig
from experiments.victims.cnn import CNN as CNN
from experiments.victims.cnn import HardenedConfig as HardenedConfig
from experiments.victims.cnn import VictimConfig as VictimConfig
from experiments.victims.cnn import make_cnn as make_cnn
from experiments.victims.networks import Architecture as Architecture
from experiments.victims.networks import NetworkConfig as NetworkConfig
from experiments.victims.training import Victim as Victim
from experiments.victims.training import accuracy as accuracy
from experiments.victims.training import batched as batched
from experiments.victims.training import bind as bind
from experiments.victims.training import get as get
from experiments.victims.training import predict as predict
