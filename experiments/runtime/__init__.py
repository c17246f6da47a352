"""Shared by every program, and independent of other folders: cache, command line, results."""
