"""Defences that remember their queries: structure-packaged classifiers (SPT).

Nothing is here yet, and nothing is exported: the package holds the place of the second library,
in which a classifier carries a buffer of its last queries through a functional query loop,
notices an iterative attack, and answers from a decoy.
"""
