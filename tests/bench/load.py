"""What fio does to a server's devices."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from servers import MACHINE_TIMES, machine_time_ns


@dataclass
class Load:
    """What fio does: so many jobs on each of the server's devices."""

    rw: str
    block_size: str
    depth: int
    seconds: float = 5
    jobs: int = 1
    x: int | None = None  # where it stands in a plot

    @property
    def name(self):
        jobs = f" x {self.jobs} jobs" if self.jobs > 1 else ""
        return f"{self.block_size} {self.rw} qd{self.depth}{jobs}"


def fio(jobs, load, prefix=()):
    """What fio says of the load; and "machine_ns", the CPU time of the whole machine meanwhile, without
    what it takes to start fio. `jobs`: where each reads and writes, a list of options. `prefix`: a
    command that runs another."""
    command = [*prefix, "fio", "--output-format=json", "--direct=1", "--thread",
               "--random_generator=tausworthe64", "--norandommap", "--time_based", "--group_reporting",
               f"--runtime={round(load.seconds * 1000)}ms", f"--rw={load.rw}", f"--bs={load.block_size}",
               f"--iodepth={load.depth}", f"--numjobs={load.jobs}"]
    for number, options in enumerate(jobs):
        command += [f"--name=job{number}", *options]
        if number == 0:
            command += [f"--exec_prerun={MACHINE_TIMES}", f"--exec_postrun={MACHINE_TIMES}"]
    with tempfile.TemporaryDirectory(prefix="fio-") as folder:
        output = subprocess.run(command, cwd=folder, check=True, timeout=load.seconds + 60, capture_output=True,
                                text=True).stdout
        begin, end = (machine_time_ns((Path(folder) / f"job0.{when}.txt").read_text())
                      for when in ("prerun", "postrun"))
    result = json.loads(output[output.index("{"):])["jobs"][0]  # before it, that it runs the commands
    return result | {"machine_ns": end - begin}
