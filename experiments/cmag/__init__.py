"""CMAG end to end, beside its rivals: every table and figure of the paper."""
