"""What fio does to a server's devices."""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from servers import MACHINE_TIMES, is_block_device, machine_time_ns


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


def fio(devices, load, prefix=()):
    """What fio says of the load; and "machine_ns", the CPU time of the whole machine meanwhile, without
    what it takes to start fio. `prefix`: a command that runs another."""
    command = [*prefix, "fio", "--output-format=json", "--ioengine=io_uring", "--direct=1", "--thread",
               "--random_generator=tausworthe64", "--norandommap", "--time_based", "--group_reporting",
               f"--runtime={round(load.seconds * 1000)}ms", f"--rw={load.rw}", f"--bs={load.block_size}",
               f"--iodepth={load.depth}", f"--numjobs={load.jobs}"]
    for number, device in enumerate(devices):
        # fio would make a plain file of a missing node, and measure the tmpfs.
        if not is_block_device(device):
            raise RuntimeError(f"{device} is no block device")
        command += [f"--name=job{number}", f"--filename={device}"]
        if number == 0:
            command += [f"--exec_prerun={MACHINE_TIMES}", f"--exec_postrun={MACHINE_TIMES}"]
    with tempfile.TemporaryDirectory(prefix="fio-") as folder:
        output = subprocess.run(command, cwd=folder, check=True, timeout=load.seconds + 60, capture_output=True,
                                text=True).stdout
        begin, end = (machine_time_ns((Path(folder) / f"job0.{when}.txt").read_text()) for when in ("prerun", "postrun"))
    result = json.loads(output[output.index("{"):])["jobs"][0]  # before it, that it runs the commands
    return result | {"machine_ns": end - begin}
