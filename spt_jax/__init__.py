"""Defences that remember their queries: structure-packaged classifiers (SPT).

Nothing is here yet. What is to come, and the names it will have, stands in the
README; until then this package is a name and a promise, and exports nothing.
"""
