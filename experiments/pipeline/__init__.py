"""Detectors and attacks as the programs use them: fitted, scored, run and kept in the cache."""
