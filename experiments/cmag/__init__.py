"""CMAG and its baselines end to end: every table and figure of the paper."""
