"""A load on one server, and the comparison of servers: rounds that alternate."""

import statistics
import sys
from dataclasses import asdict, dataclass, field

import cpu_shares
import instruction_counts
from load import Load, fio
from servers import cpu_time_ns, user_and_system_ns


@dataclass
class Effort:
    rounds: int
    seconds: int  # of each load
    quick: bool   # only to see that all runs: one load, and less of whatever takes long
    profile: bool = False  # count instructions instead of measuring time

    def load(self, rw, block_size, depth, **more):
        return Load(rw, block_size, depth, 0.3 if self.quick else self.seconds, **more)

    def some(self, items, count=1):
        """All of them, or the first few for a quick look."""
        return items[:count] if self.quick else items


@dataclass
class Report:
    """What came of a case: Markdown, and the same for programs."""

    text: str
    results: list = field(default_factory=list)  # of Result, as dicts
    claims: list = field(default_factory=list)   # of Verdict, as dicts
    axis: str | None = None                      # what the results' x is; None: a comparison
    figures: list = field(default_factory=list)  # of a case that is no comparison


@dataclass
class Sample:
    iops: float
    p50_us: float
    p99_us: float
    cpu_ns: float  # server CPU time per I/O; 0: the kernel serves
    machine_ns: float = 0  # CPU time of the whole machine per I/O: fio and the kernel, too
    # The server's CPU time in user space and in the kernel, as far as ticks of the clock tell.
    user_ns: int = 0
    system_ns: int = 0
    wakeups: float | None = None  # of the server's threads per I/O, where it counts them
    shares: dict = field(default_factory=dict)  # of machine_ns, see cpu_shares.py


@dataclass
class Result:
    server: str
    load: str
    series: str            # the line of a plot that it belongs to
    x: int | None = None
    samples: list = field(default_factory=list)

    def values(self, what):
        return [getattr(sample, what) for sample in self.samples]

    def median(self, what):
        return statistics.median(self.values(what))

    def spread(self, what):
        return relative_spread(self.values(what))

    def user_share(self):
        """Of all rounds together, since each has few ticks; None: the kernel serves."""
        user, system = sum(self.values("user_ns")), sum(self.values("system_ns"))
        return user / (user + system) if user + system else None


def relative_spread(values):
    """Half the distance between the extremes, as a share of the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / 2 / middle if middle else 0.0


def measure(server, load):
    threads = cpu_shares.thread_times()
    cpu = cpu_time_ns(server.pids)
    user, system = user_and_system_ns(server.pids)
    job = fio(server.fio_jobs(), load)
    cpu = cpu_time_ns(server.pids) - cpu
    user_after, system_after = user_and_system_ns(server.pids)
    threads_after = cpu_shares.thread_times()
    sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
    ios = sum(side["total_ios"] for side in sides)
    latency = max((side["clat_ns"]["percentile"] for side in sides), key=lambda p: p["99.000000"])
    return Sample(
        iops=sum(side["iops"] for side in sides),
        p50_us=latency["50.000000"] / 1000,
        p99_us=latency["99.000000"] / 1000,
        cpu_ns=cpu / ios,
        machine_ns=job["machine_ns"] / ios,
        user_ns=user_after - user,
        system_ns=system_after - system,
        shares=cpu_shares.shares(threads, threads_after, job["machine_ns"], ios),
    )


def compare(servers, loads, rounds):
    """Each round: every server in turn and just started, under every load; each other round the
    other way round. So drift hits all alike. A server that can't be here is left out."""
    for server in servers:
        if reason := server.unavailable():
            print(f"left out: {server.name}: {reason}", file=sys.stderr, flush=True)
    servers = [server for server in servers if not server.unavailable()]
    results = {(s.name, load.name): Result(s.name, load.name, s.series, s.x if load.x is None else load.x)
               for s in servers for load in loads}
    for round_number in range(rounds):
        for server in servers if round_number % 2 == 0 else reversed(servers):
            with server:
                samples = [measure(server, load) for load in loads]
            wakeups = server.wakeups_per_io()
            for load, sample in zip(loads, samples):
                sample.wakeups = wakeups
                results[server.name, load.name].samples.append(sample)
                print(f"round {round_number + 1}: {server.name}, {load.name}: {sample.iops:.0f} IOPS, "
                      f"{sample.cpu_ns:.0f} ns", file=sys.stderr, flush=True)
    return results


def comparison(effort, servers, loads, claims=(), axis=None, shares=False):
    """`claims`: what is to be seen, of bounds.py; nothing is said about them after a quick look.
    `shares`: it is told, too, whose the machine's CPU time is."""
    if effort.profile:
        return Report("", figures=instruction_counts.count(servers, loads, claims))
    results = compare(servers, loads, effort.rounds)
    judged = [] if effort.quick else [verdict for claim in claims if (verdict := claim.judge(results))]
    tables = [table(results), *([cpu_shares.table(results)] if shares else []),
              *([claims_table(judged)] if judged else [])]
    text = "\n\n".join(tables)
    return Report(text, [asdict(result) for result in results.values()],
                  [asdict(verdict) for verdict in judged], axis)


def table(results):
    lines = ["| load | server | IOPS | p50 us | p99 us | CPU ns per I/O | user space | spread: IOPS, CPU |",
             "|---|---|--:|--:|--:|--:|--:|--:|"]
    order = list(dict.fromkeys(result.load for result in results.values()))
    for result in sorted(results.values(), key=lambda r: order.index(r.load)):
        share = result.user_share()
        cpu = f"{result.median('cpu_ns'):.0f}" if share is not None else "-"
        lines.append(
            f"| {result.load} | {result.server} | {result.median('iops'):.0f} | {result.median('p50_us'):.0f} "
            f"| {result.median('p99_us'):.0f} | {cpu} | {'-' if share is None else f'{share:.1%}'} "
            f"| {result.spread('iops'):.0%}, {result.spread('cpu_ns'):.0%} |")
    return "\n".join(lines)


def claims_table(verdicts):
    lines = ["| load | what | figure | spread | bound | |", "|---|---|--:|--:|---|---|"]
    for verdict in verdicts:
        lines.append(f"| {verdict.load} | {verdict.what} | {verdict.figure} | {verdict.spread} "
                     f"| {verdict.bound} | {verdict.says} |")
    return "\n".join(lines)
