"""SPT's automata once more, in plain Python, from the specification and not from the library."""

import math


def mse(a, b):
    """Of two flat lists of pixels."""
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / len(a)


def decibels(a, b):
    error = mse(a, b)
    return math.inf if error == 0 else -10 * math.log10(error)


class Buffer:
    def __init__(self, t, threshold, S, reset):
        self.t, self.threshold, self.S, self.reset = t, threshold, S, reset
        self.sent, self.k, self.s = [], 0, 0
        self.cell = ""  # as the worked trace writes it

    def query(self, x):
        self.k += 1
        compared = len(self.sent) >= self.t and self.k >= self.t
        hit = compared and decibels(x, self.sent[-self.t]) >= self.threshold
        self.sent.append(x)
        self.s += hit
        deceived = hit and self.s > self.S
        before = f"{self.k},{self.s}"
        over = self.k >= 2 * self.t if self.reset == "periodic" else compared and not hit
        if over:
            self.k, self.s = (self.t if self.reset == "periodic" else 0), 0
        shown = before if self.reset == "periodic" else f"{self.k},{self.s}"
        self.cell = shown + "*" * deceived + "R" * over
        return deceived


class Chain:
    def __init__(self, regions, chain_length, trigger, threshold, rule):
        self.regions, self.chain_length, self.trigger = regions, chain_length, trigger
        self.threshold, self.rule = threshold, rule
        self.chains = []  # [head, length]

    def query(self, x):
        alike = [c for c in self.chains if decibels(x, c[0]) >= self.threshold]
        if alike:
            own = max(alike, key=lambda c: decibels(x, c[0]))
            own[1] += 1
        else:
            if len(self.chains) == self.regions:
                self.chains = []
            own = [x, 1]
            self.chains.append(own)
        lengths = [length for _, length in self.chains]
        deceived = (own[1] if self.rule == "own" else max(lengths)) > self.trigger
        if max(lengths) >= self.chain_length:
            self.chains = []
        return deceived


class Agreement:
    def __init__(self, rule):
        self.rule, self.last = rule, True

    def query(self, label, label2):
        now = label == label2
        by_classifier = (now and self.last) if self.rule == "and" else (now or self.last)
        self.last = now
        return not by_classifier
