"""Programs: data, victims, training, tables and figures around the three libraries."""

from experiments.runtime.xla import tune_process

tune_process()  # before jax starts: what it sets is read once
