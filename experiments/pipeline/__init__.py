"""Fits detectors, scores images, runs attacks, and keeps the results in the cache."""
