"""Hundreds of devices in one runner: how long they take to come and go, what they cost when idle
and when all have been written to at once."""

import json
import os
import subprocess
import time
from dataclasses import dataclass

import memory
from bounds import Bound
from measure import Report
from memory import MB
from servers import Runner, wait_for

BUFFER_MEMORY_MB = 192  # the devices' reserves, 512K each, take 128
BLOCK_SIZE = 512 << 10
AT_ONCE = 32    # devices that one fio writes to at the same time
DEPTH = 8       # 128 MB in flight, more than the 64 that the reserves leave
CODE_MB = 8     # pages of program and libraries, which RSS counts in full and PSS by shares


@dataclass
class Row:
    what: str
    unit: str
    value: float
    bound: Bound

    def cell(self):
        number = f"{self.value:.1f}" if self.unit else f"{self.value:d}"
        return f"{number} {self.unit}".strip() + self.bound.verdict(self.value)


@dataclass
class Scale:
    devices: int
    written_mb: int  # to each
    pause: float     # seconds after which all is idle


def null_devices(mode, count):
    keys = {"handler": "null", "size": "1G", "queues": 2, "queue_depth": 128, "buffer": mode}
    runner = Runner(mode, {f"d{number:03}": keys for number in range(count)},
                    {"buffer_memory": f"{BUFFER_MEMORY_MB}M"})
    runner.start_seconds = 120
    return runner


def burst(devices, megabytes):
    """Writes so much to every device, some devices at a time."""
    for first in range(0, len(devices), AT_ONCE):
        jobs = []
        for device in devices[first:first + AT_ONCE]:
            jobs += [f"--name={os.path.basename(device)}", f"--filename={device}"]
        done = subprocess.run(
            ["fio", "--output-format=json", "--group_reporting", "--thread", "--ioengine=io_uring", "--direct=1",
             "--rw=write", f"--bs={BLOCK_SIZE}", f"--iodepth={DEPTH}", f"--size={megabytes}m", *jobs],
            check=True, timeout=300, capture_output=True, text=True)
        written = json.loads(done.stdout)["jobs"][0]["write"]["io_bytes"]
        if written != megabytes * MB * min(AT_ONCE, len(devices) - first):
            raise RuntimeError(f"the burst wrote only {written} bytes")


def measure_mode(mode, scale):
    runner = null_devices(mode, scale.devices)
    rows = []

    def row(what, value, unit="", **bound):
        rows.append(Row(what, unit, value, Bound(**bound)))

    available = memory.available()
    began = time.monotonic()
    with runner:
        row("all live after", time.monotonic() - began, "s", at_most=15)
        pid = runner.pids[0]
        time.sleep(scale.pause)
        idle = memory.pss(pid) / MB
        row("PSS, idle", idle, "MB", at_most=30)
        row("threads, idle", memory.threads(pid), at_most=8)
        row("memory of the machine, idle", (available - memory.available()) / MB, "MB")

        memory.reset_peak_rss(pid)
        began = time.monotonic()
        burst(runner.devices, scale.written_mb)
        row("burst", time.monotonic() - began, "s")
        row("peak RSS in the burst", memory.peak_rss(pid) / MB, "MB",
            at_most=round(BUFFER_MEMORY_MB + idle + CODE_MB))
        row("threads after the burst", memory.threads(pid))
        time.sleep(scale.pause)
        row(f"PSS, {scale.pause:g} s after the burst", memory.pss(pid) / MB, "MB", at_most=80)
        row("memory of the machine then", (available - memory.available()) / MB, "MB")

        began = time.monotonic()
        runner.end()
        wait_for("the end of all devices", lambda: not any(map(os.path.exists, runner.devices)))
        row("all gone after", time.monotonic() - began, "s", at_most=20)
    return rows


def many_devices(effort):
    scale = Scale(16, 8, 1) if effort.quick else Scale(256, 64, 10)
    columns = {mode: measure_mode(mode, scale) for mode in ("get-data", "user-copy")}
    lines = [f"{scale.devices} null devices of 2 queues x 128, {scale.written_mb} MB of writes of 512K to each, "
             f"buffer_memory = {BUFFER_MEMORY_MB}M", "",
             "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for rows in zip(*columns.values()):
        lines.append(f"| {rows[0].what} | " + " | ".join(row.cell() for row in rows) + " |")
    return Report("\n".join(lines), figures=[{"buffer": mode, **{row.what: row.value for row in rows}}
                                            for mode, rows in columns.items()])
