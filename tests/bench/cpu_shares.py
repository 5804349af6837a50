"""Whose the machine's CPU time is: where the storage behind a server is on the same machine, most of
it is the storage's, and no server can be faster than the rest allows."""

import statistics
from collections import Counter
from pathlib import Path

STORAGE = ("nbdkit", "ceph-osd", "ceph-mon")
LIBRBD = ("msgr-worker", "io_context_pool", "safe_timer", "ceph_timer")
SERVERS = ("ublk-runner", "rbd-nbd")
COLUMNS = ("the server", "librbd in it", "the storage", "kernel threads")
REST = "fio and the rest"


def group(process, thread, is_kernel):
    if is_kernel:
        return "kernel threads"
    if process in STORAGE:
        return "the storage"
    if process in SERVERS:
        return "librbd in it" if thread.startswith(LIBRBD) else "the server"
    return None


def thread_times():
    """ns of each thread that belongs to a group, by its number, with the group. Those that end before
    they are looked at again are not told."""
    times = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            process = (folder / "comm").read_text().strip()
            is_kernel = not (folder / "cmdline").read_bytes()
            for thread in (folder / "task").iterdir():
                if name := group(process, (thread / "comm").read_text().strip(), is_kernel):
                    times[thread.name] = (name, int((thread / "schedstat").read_text().split()[0]))
        except OSError:
            continue  # it has just ended
    return times


def shares(before, after, machine_ns, ios):
    """ns per I/O of each group. They are counted while fio starts, too, when machine_ns is not yet; in a
    short load that is some of what the groups have beyond the whole."""
    spent = Counter()
    for thread, (name, ns) in after.items():
        spent[name] += ns - before.get(thread, (name, 0))[1]
    spent[REST] = max(0, machine_ns - spent.total())
    return {name: ns / ios for name, ns in spent.items()}


def table(results):
    """Of the medians of what `results`, Result by server and load, has in its samples."""
    columns = [*(c for c in COLUMNS if any(s.shares.get(c) for r in results.values() for s in r.samples)), REST]
    lines = ["| load | server | the machine's CPU us per I/O | " + " | ".join(columns) + " |",
             "|---|---|--:" + "|--:" * len(columns) + "|"]
    order = list(dict.fromkeys(result.load for result in results.values()))
    for result in sorted(results.values(), key=lambda r: order.index(r.load)):
        medians = (statistics.median(sample.shares.get(column, 0) for sample in result.samples) for column in columns)
        lines.append(f"| {result.load} | {result.server} | {result.median('machine_ns') / 1000:.0f} | "
                     + " | ".join(f"{ns / 1000:.0f}" for ns in medians) + " |")
    return "\n".join(lines)
