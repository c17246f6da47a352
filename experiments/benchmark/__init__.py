"""Speed benchmarks, and the attack cases that `parity`, `rounding` and the gallery share."""
