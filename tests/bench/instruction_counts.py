"""How many instructions a server takes for an I/O, in the guest: each server alone on one CPU, and
what that CPU executes is counted by a plugin of QEMU's, see count_guest.cpp. Nothing is measured in
time, so whatever else the machine does changes little.

The plugin writes a numbered file each time that it is told; here it is noted which number is whose.
"""

import os
import shutil
import subprocess
from pathlib import Path

from load import fio
from servers import BUILD_DIR

MARK = BUILD_DIR / "tests/bench/bench_count_mark"
SERVER_CPU, FIO_CPU = 1, 0
KHUGEPAGED_PAUSE = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs")

nr_written = 0


def count(servers, loads, claims):
    """A dict for each pair of servers and load that a bound on CPU time is about."""
    pairs = {(claim.server, claim.rival, claim.load) for claim in claims
             if claim.what == "cpu_ns" and getattr(claim, "rival", None)}
    KHUGEPAGED_PAUSE.write_text("100000000")  # it works for everybody, on whatever CPU it is
    counts = {}
    for server in servers:
        mine = [load for load in loads if any(server.name in pair[:2] and load.name == pair[2] for pair in pairs)]
        if mine and not server.unavailable():
            with server:
                for pid in server.pids:
                    subprocess.run(["taskset", "--all-tasks", "--cpu-list", "--pid", str(SERVER_CPU), str(pid)],
                                   check=True, stdout=subprocess.DEVNULL)
                for load in mine:
                    counts[server.name, load.name] = count_one(server, load)
    # Of the modules, too, which are loaded now.
    shutil.copyfile("/proc/kallsyms", Path(os.environ["RESULT_DIR"]) / "kallsyms")
    return [{"load": load, "sides": [{"server": name, **counts[name, load]} for name in names]}
            for *names, load in sorted(pairs) if all((name, load) in counts for name in names)]


def count_one(server, load):
    global nr_written
    pinned = ("taskset", "--cpu-list", str(FIO_CPU))
    fio(server.fio_jobs(), load, pinned)  # code is loaded, and memory touched
    subprocess.run([MARK, "begin"], check=True)
    job = fio(server.fio_jobs(), load, pinned)
    subprocess.run([MARK, "end"], check=True)
    nr_written += 1
    return {"number": nr_written - 1, "cpu": SERVER_CPU,
            "ios": sum(job[side]["total_ios"] for side in ("read", "write"))}
