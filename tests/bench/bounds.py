"""What a comparison is to show: ratios and figures, each with the bound it is held against.

A missed bound is said and nothing more: no exit status depends on timing. What is nearer to the
bound, or to no difference at all, than the rounds are to each other is no result, and is said to
be none.
"""

import statistics
from dataclasses import dataclass

LABELS = {"iops": "IOPS", "cpu_ns": "CPU per I/O", "machine_ns": "the machine's CPU per I/O",
          "p99_us": "p99", "p50_us": "p50"}


@dataclass
class Bound:
    at_most: float | None = None
    at_least: float | None = None

    def holds(self, value):
        return ((self.at_most is None or value <= self.at_most)
                and (self.at_least is None or value >= self.at_least))

    def words(self):
        return ", ".join(f"at {side} {bound:g}" for side, bound in
                         (("most", self.at_most), ("least", self.at_least)) if bound is not None)

    def says(self, value, spread):
        """`spread`: by how much the value may be off."""
        if not self.words():
            return ""
        if self.holds(value - spread) and self.holds(value + spread):
            return "kept"
        if self.holds(value):
            return "kept, by less than the spread"
        if self.holds(value - spread) or self.holds(value + spread):
            return "missed by less than the spread: no result"
        return "**missed**"

    def verdict(self, value):
        """In brackets, and bold when it is missed."""
        if not self.words():
            return ""
        return f" ({self.words()})" if self.holds(value) else f" (**missed**: {self.words()})"


@dataclass
class Verdict:
    load: str
    what: str
    figure: str
    spread: str
    bound: str
    says: str


@dataclass
class Claim(Bound):
    what: str = "cpu_ns"  # a field of Sample
    load: str = ""
    server: str = ""


@dataclass
class Ratio(Claim):
    """One server to another under the same load: the median of the rounds' ratios."""

    rival: str = ""

    def judge(self, results):
        """None if one of them was not there."""
        sides = [results.get((name, self.load)) for name in (self.server, self.rival)]
        if None in sides:
            return None
        ratios = [ours / theirs for ours, theirs in zip(*(side.values(self.what) for side in sides))]
        value, spread = statistics.median(ratios), (max(ratios) - min(ratios)) / 2
        says = self.says(value, spread)
        if abs(value - 1) <= spread:
            says = "; ".join(filter(None, ("no difference beyond the spread", says)))
        return Verdict(self.load, f"{LABELS[self.what]}: {self.server} to {self.rival}",
                       f"{value:.2f}", f"{spread:.2f}", self.words(), says)


@dataclass
class UserShare(Claim):
    """How much of the server's CPU time is in user space. The kernel counts it by its ticks, so the
    spread is that of so many draws."""

    def judge(self, results):
        result = results.get((self.server, self.load))
        if result is None:
            return None
        share = result.user_share()
        ticks = (sum(result.values("user_ns")) + sum(result.values("system_ns"))) / 1e9 * TICKS_A_SECOND
        spread = 2 * (share * (1 - share) / ticks) ** 0.5
        return Verdict(self.load, f"share of user space: {self.server}", f"{share:.3f}", f"{spread:.3f}",
                       self.words(), self.says(share, spread))


TICKS_A_SECOND = 250  # of Debian's kernels


@dataclass
class Wakeups(Claim):
    """Of the server's threads, per I/O."""

    def judge(self, results):
        result = results.get((self.server, self.load))
        if result is None or None in result.values("wakeups"):
            return None
        values = result.values("wakeups")
        value, spread = statistics.median(values), (max(values) - min(values)) / 2
        return Verdict(self.load, f"eventfd writes per I/O: {self.server}", f"{value:.3f}", f"{spread:.3f}",
                       self.words(), self.says(value, spread))


@dataclass
class NearBest(Claim):
    """The server to the best of some others. By medians, since in any one round some other is the
    best by chance."""

    rivals: tuple = ()

    def judge(self, results):
        others = [result for name in self.rivals if (result := results.get((name, self.load)))]
        ours = results.get((self.server, self.load))
        if ours is None or not others:
            return None
        best = (max if self.what == "iops" else min)(others, key=lambda result: result.median(self.what))
        value = ours.median(self.what) / best.median(self.what)
        spread = max(ours.spread(self.what), best.spread(self.what))
        return Verdict(self.load, f"{LABELS[self.what]}: {self.server} to the best, {best.server}",
                       f"{value:.2f}", f"{spread:.2f}", self.words(), self.says(value, spread))
