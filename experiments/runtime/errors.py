"""The error that every program ends on in one line."""


class DataError(Exception):
    """Something outside the program that is missing, damaged or can't be used, a data set or a
    stored file most of all: the message names what, where, and the remedy."""
