"""The error that ends a program with one line."""


class DataError(Exception):
    """Something outside the program, such as a data set or a stored file, is missing, damaged or
    unusable. The message names the problem, the place and the remedy."""
