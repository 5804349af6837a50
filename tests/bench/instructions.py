#!/usr/bin/env python3
"""How many instructions in user space a read takes on its way through the runner: of its I/O
thread, counted by callgrind, with the in-process driver in the place of the kernel's.

  instructions.py RESULTS.json      adds the case "instructions" to it
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True

from callgrind import Profile  # noqa: E402

BUILD_DIR = Path(os.environ["BUILD_DIR"])
PROGRAM = BUILD_DIR / "tests/bench/bench_count_instructions"
READS = 4000
DEPTHS = (64, 1)
MODES = ("copy", "get-data", "user-copy")
STATISTICS = " with statistics"  # behind a mode
# What stands for the kernel: the commands' way to the driver, and to wait.
COMMAND, WAIT = "fake::Driver::redirect", "io_uring_submit_and_wait"
PARTS = {"libublk": "ublk::", "runner": "ublk_runner::"}
REST = "handler and libraries"


def profile(mode, depth, reads, folder):
    """Of the I/O thread."""
    buffers, _, statistics = mode.partition(" with ")
    subprocess.run(
        ["valgrind", "--tool=callgrind", "--separate-threads=yes", "--fair-sched=yes", "--quiet",
         f"--callgrind-out-file={folder}/{reads}", PROGRAM, BUILD_DIR / "handlers", str(reads), str(depth),
         buffers, *([statistics] if statistics else [])],
        check=True, timeout=300)
    threads = [Profile(path) for path in Path(folder).glob(f"{reads}-*")]
    return max(threads, key=lambda thread: thread.of_calls(COMMAND))


def counts(profile):
    found = {part: sum(cost for function, cost in profile.own.items() if function.startswith(prefix))
             for part, prefix in PARTS.items()}
    # ublk::internal::Adapter is of the header that a handler in C++ is built with.
    adapter = sum(cost for function, cost in profile.own.items() if function.startswith("ublk::internal::Adapter"))
    found["libublk"] -= adapter
    total = profile.total() - profile.of_calls(COMMAND, WAIT)
    found[REST] = total - sum(found.values())
    return {"all": total, **found}


def per_read(mode, depth):
    with tempfile.TemporaryDirectory() as folder:
        few, many = (counts(profile(mode, depth, reads, folder)) for reads in (READS, 2 * READS))
    return {part: (many[part] - few[part]) / READS for part in many}


def main():
    runs = [(mode, depth) for depth in DEPTHS for mode in (*MODES, "copy" + STATISTICS)]
    if os.environ.get("UBLK_BENCH_QUICK"):
        runs = runs[:2]
    figures = [{"mode": mode, "depth": depth, **per_read(mode, depth)} for mode, depth in runs]
    parts = ["all", *PARTS, REST]
    lines = ["| mode | depth | " + " | ".join(parts) + " |", "|---|--:" + "|--:" * len(parts) + "|"]
    for figure in figures:
        lines.append(f"| {figure['mode']} | {figure['depth']} | "
                     + " | ".join(f"{figure[part]:.0f}" for part in parts) + " |")
    text = "\n".join(lines)
    print(f"\n### instructions\n\n{text}\n")

    path = Path(sys.argv[1])
    results = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    title = ("Instructions in user space for a 4k read of a null device, by callgrind on the in-process driver, "
             "without batches. The kernel's code for reading the clock is in it as a system call's. Each byte that the handler zeroes, where the buffer is new, counts as one.")
    results["cases"]["instructions"] = {"title": title, "text": text, "figures": figures}
    path.write_text(json.dumps(results, indent=1))


main()
