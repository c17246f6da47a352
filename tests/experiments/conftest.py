"""XLA as the programs set it, for tests that call their mains in this process."""

from experiments.runtime import xla

xla.tune_process()
