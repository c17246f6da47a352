"""The default table: a buffer deceives an attack on handwritten digits, in a minute or two."""

from pathlib import Path

from experiments.spt import tracing
from experiments.spt.buffer_tables import systems
from experiments.spt.defences import Decoy
from experiments.spt.lab import Lab, Measured

# Digits are far from each other, so this needs more and longer steps than CIFAR-10. The buffer
# still detects them (ten steps of 1.7e-3 are 35.4 dB).
STEPS, STEP_SIZE = 100, 1.7e-3


def measure(lab: Lab, folder: Path) -> Measured:
    spec = lab.spec("BIM", STEPS, STEP_SIZE)
    rows = systems(lab, "extra/spt/demo", spec, None, {}, ("C4",), trainings=("T-", "Td"))
    decoy = Decoy("C4", "Td")
    pictures = tracing.draw(lab, spec, lab.buffer(decoy), folder, "demo", f"Decoy {decoy.title}")
    return Measured(rows, pictures)
