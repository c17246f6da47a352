"""Reproduces SPT's tables and figures: `python -m experiments.spt --table=VII`."""
