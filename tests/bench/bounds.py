"""What a comparison is to show: ratios and limits, each with the bound it is held against.

A missed bound is said and nothing more: no exit status depends on timing.
"""

import itertools
import statistics
from dataclasses import dataclass

LABELS = {"iops": "IOPS", "cpu_ns": "CPU", "wakeups": "eventfd writes per I/O"}


@dataclass
class Bound:
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value):
        return ((self.at_most is None or value <= self.at_most)
                and (self.at_least is None or value >= self.at_least))

    def verdict(self, value):
        """In brackets, and bold when it is missed."""
        words = [f"at {side} {bound:g}" for side, bound in (("most", self.at_most), ("least", self.at_least))
                 if bound is not None]
        if not words:
            return ""
        return f" ({', '.join(words)})" if self.holds(value) else f" (**missed**: {', '.join(words)})"


@dataclass
class Ratio(Bound):
    """One server to another under the same load: the median of the rounds' ratios."""

    what: str = "cpu_ns"  # a field of Sample
    load: str = ""
    server: str = ""
    rival: str = ""

    def text(self, results):
        ours, theirs = (results[name, self.load].samples for name in (self.server, self.rival))
        ratios = [getattr(a, self.what) / getattr(b, self.what) for a, b in zip(ours, theirs)]
        value = round(statistics.median(ratios), 2)
        return f"{LABELS[self.what]} {value:.2f} x {self.rival}{self.verdict(value)}"


@dataclass
class Limit(Bound):
    """One server's own figure: the median of the rounds."""

    what: str = "cpu_ns"
    load: str = ""
    server: str = ""

    def text(self, results):
        values = [getattr(sample, self.what) for sample in results[self.server, self.load].samples]
        if None in values:
            return f"{LABELS[self.what]} not known"
        value = statistics.median(values)
        return f"{LABELS[self.what]} {value:.3f}{self.verdict(value)}"


def bounds_text(bounds, results):
    """A line for each load and server, of what is said of it."""
    lines = []
    for (load, server), group in itertools.groupby(bounds, key=lambda bound: (bound.load, bound.server)):
        lines.append(f"- {load}, {server}: " + ", ".join(bound.text(results) for bound in group))
    return "\n".join(lines)
