"""fio on one server, and the comparison of servers: rounds that alternate."""

import dataclasses
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

from bounds import bounds_text
from servers import cpu_time_ns, is_block_device


@dataclass
class Effort:
    rounds: int
    seconds: int  # of each load
    quick: bool   # only to see that all runs: less of whatever takes long


@dataclass
class Report:
    text: str   # Markdown
    data: list  # the same for programs


@dataclass
class Load:
    """What fio does: one job, or the same job on each of several devices."""

    rw: str
    block_size: str
    depth: int
    seconds: int = 5

    @property
    def name(self):
        return f"{self.block_size} {self.rw} qd{self.depth}"


@dataclass
class Sample:
    iops: float
    p50_us: float
    p99_us: float
    cpu_ns: float  # server CPU time per I/O; 0: the kernel serves
    wakeups: float | None = None  # of the server's threads per I/O, where it counts them


@dataclass
class Result:
    server: str
    load: str
    samples: list = field(default_factory=list)

    def median(self, what):
        return statistics.median(getattr(s, what) for s in self.samples)

    def spread(self, what):
        """Half the distance between the extremes, as a share of the median."""
        values = [getattr(s, what) for s in self.samples]
        middle = statistics.median(values)
        return (max(values) - min(values)) / 2 / middle if middle else 0.0


def fio(devices, load):
    command = ["fio", "--output-format=json", "--ioengine=io_uring", "--direct=1",
               "--random_generator=tausworthe64", "--norandommap", "--time_based", "--group_reporting",
               f"--runtime={load.seconds}", f"--rw={load.rw}", f"--bs={load.block_size}",
               f"--iodepth={load.depth}"]
    for number, device in enumerate(devices):
        # fio would make a plain file of a missing node, and measure the tmpfs.
        if not is_block_device(device):
            raise RuntimeError(f"{device} is no block device")
        command += [f"--name=job{number}", f"--filename={device}"]
    output = subprocess.run(command, check=True, timeout=load.seconds + 60, capture_output=True, text=True)
    return json.loads(output.stdout)["jobs"][0]


def measure(server, load):
    devices = getattr(server, "devices", None) or [server.device]
    before = cpu_time_ns(server.pids)
    job = fio(devices, load)
    cpu = cpu_time_ns(server.pids) - before
    sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
    ios = sum(side["total_ios"] for side in sides)
    latency = max((side["clat_ns"]["percentile"] for side in sides), key=lambda p: p["99.000000"])
    return Sample(
        iops=sum(side["iops"] for side in sides),
        p50_us=latency["50.000000"] / 1000,
        p99_us=latency["99.000000"] / 1000,
        cpu_ns=cpu / ios,
    )


def compare(servers, loads, rounds):
    """Each round, each load: every server in turn and just started, so that drift hits all alike."""
    results = {(s.name, load.name): Result(s.name, load.name) for s in servers for load in loads}
    for round_number in range(rounds):
        for load in loads:
            for server in servers:
                with server:
                    sample = measure(server, load)
                sample.wakeups = server.wakeups_per_io()
                results[server.name, load.name].samples.append(sample)
                print(f"round {round_number + 1}: {server.name}, {load.name}: {sample.iops:.0f} IOPS, "
                      f"{sample.cpu_ns:.0f} ns", file=sys.stderr, flush=True)
    return results


def comparison(effort, servers, loads, bounds=()):
    results = compare(servers, loads, effort.rounds)
    text = "\n\n".join(filter(None, (table(results), bounds_text(bounds, results))))
    return Report(text, [dataclasses.asdict(result) for result in results.values()])


def table(results):
    lines = ["| load | server | IOPS | p50 us | p99 us | CPU ns per I/O | spread |",
             "|---|---|---|---|---|---|---|"]
    for result in sorted(results.values(), key=lambda r: r.load):
        lines.append(
            f"| {result.load} | {result.server} | {result.median('iops'):.0f} | {result.median('p50_us'):.0f} "
            f"| {result.median('p99_us'):.0f} | {result.median('cpu_ns'):.0f} "
            f"| {max(result.spread('iops'), result.spread('cpu_ns')):.0%} |")
    return "\n".join(lines)
