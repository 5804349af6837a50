"""That each way to the data brings the right data: a benchmark of a server that loses it is none."""

import json
import os
import subprocess

from measure import Report
from servers import Runner, is_block_device, kernel_before

MEGABYTES = 4


def sections():
    """Names of devices, and their keys."""
    batch_too = ["off"] if kernel_before((7, 0)) else ["off", "on"]
    found = {}
    for batch in batch_too:
        suffix = "-batch" if batch == "on" else ""

        def add(name, batch=batch, suffix=suffix, **keys):
            found[name + suffix] = {"size": f"{MEGABYTES}M", "queues": 2, "batch_io": batch, **keys}

        def add_file(name, suffix=suffix, **keys):
            add(name, handler="file", path=f"/dev/shm/ublk-runner-bench-{name}{suffix}", create="true", **keys)

        for mode in ("copy", "user-copy") if batch == "on" else ("copy", "get-data", "user-copy"):
            add(f"memory-{mode}", handler="memory", buffer=mode)
            add(f"null-{mode}", handler="null", buffer=mode)
        add_file("copy", buffer="copy")
        add_file("workers", io="workers")
        if not kernel_before((6, 16)):
            add_file("zero-copy", zero_copy="on")
    return found


def verify(devices):
    """Writes all of them in random order and mixed sizes, and reads them back with a crc in every block."""
    command = ["fio", "--output-format=json", "--thread", "--ioengine=io_uring", "--direct=1", "--rw=randwrite",
               "--bsrange=512-64k", "--iodepth=16", f"--size={MEGABYTES}m", "--verify=crc32c", "--do_verify=1",
               "--verify_fatal=1"]
    for device in devices:
        if not is_block_device(device):
            raise RuntimeError(f"{device} is no block device")
        command += [f"--name={os.path.basename(device)}", f"--filename={device}"]
    output = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    # Warnings come before the JSON. It also succeeds when it has verified nothing.
    for job in json.loads(output[output.index("{"):])["jobs"]:
        if job["error"] or not job["write"]["io_bytes"] or job["read"]["io_bytes"] < job["write"]["io_bytes"]:
            raise RuntimeError(f"{job['jobname']}: the data was not verified")


def check_zeroes(device):
    with open(device, "rb") as disk:
        if disk.read(MEGABYTES << 20) != bytes(MEGABYTES << 20):
            raise RuntimeError(f"{device} reads something else than zeroes")


def data(effort):
    devices = sections()
    try:
        with Runner("data", devices) as runner:
            nulls = [device for device in runner.devices if "bench-null" in device]
            verify([device for device in runner.devices if device not in nulls])
            for device in nulls:
                check_zeroes(device)
    finally:
        for keys in devices.values():
            if "path" in keys and os.path.exists(keys["path"]):
                os.unlink(keys["path"])
    return Report("Written and read back with a checksum in every block, or read as zeroes: "
                  + ", ".join(f"`{name}`" for name in devices) + ".")
