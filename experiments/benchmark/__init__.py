"""Speed as ratios, and the cases of attacks that `parity`, `rounding` and the gallery share."""
