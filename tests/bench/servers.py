"""Who serves a block device in a comparison: ours and the rivals.

A server is a context manager; inside it `device` is the path of a block device
and `pids` are the processes whose CPU time counts as the server's. Everything
runs in the guest and leaves nothing behind.
"""

import os
import re
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path

BUILD_DIR = Path(os.environ["BUILD_DIR"])
START_SECONDS = 20


def wait_for(what, condition):
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {START_SECONDS} s")
        time.sleep(0.05)


def is_block_device(path):
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def has_size(path):
    name = os.path.basename(os.path.realpath(path))
    return int(Path(f"/sys/block/{name}/size").read_text()) > 0


class Server:
    """Base: keeps processes, ends them in the reverse order."""

    def __init__(self, name):
        self.name = name
        self.device = None
        self.pids = []
        self._processes = []

    def run(self, *command):
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)

    def spawn(self, *command, counts=True):
        log = tempfile.NamedTemporaryFile("w+", prefix="server-", suffix=".log", delete=False)
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        process.log = log.name
        self._processes.append(process)
        if counts:
            self.pids.append(process.pid)
        return process

    def ready(self, device):
        def condition():
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended: {Path(process.log).read_text()}")
            return is_block_device(device) and has_size(device)

        wait_for(f"{self.name}: {device}", condition)
        self.device = device

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop()
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)
        self._processes.clear()
        self.pids.clear()

    def start(self):
        raise NotImplementedError

    def stop(self):
        pass


class Runner(Server):
    """ublk-runner with one device per section: a dict of its keys."""

    def __init__(self, name, devices, runner_keys=None):
        super().__init__(name)
        self.sections = devices
        self.runner_keys = runner_keys or {}

    def start(self):
        config = tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False)
        with config:
            if self.runner_keys:
                config.write("[runner]\n" + "".join(f"{k} = {v}\n" for k, v in self.runner_keys.items()))
            for device, keys in self.sections.items():
                config.write(f"[device {device}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()))
        self.spawn(
            str(BUILD_DIR / "runner/ublk-runner"), "--foreground", "--config", config.name,
            "--handler-dir", str(BUILD_DIR / "handlers"), "--log-level", "warning")
        for device in self.sections:
            self.ready(f"/dev/ublk/{device}")
        self.devices = [f"/dev/ublk/{device}" for device in self.sections]


class Kublk(Server):
    """The kernel's own test server, from tools/testing/selftests/ublk."""

    def __init__(self, name, *arguments):
        super().__init__(name)
        self.arguments = arguments

    def start(self):
        subprocess.run(["modprobe", "ublk_drv"], check=True, timeout=30)
        self.id = next(i for i in range(256) if not os.path.exists(f"/dev/ublkc{i}"))
        self.spawn(os.environ["UBLK_KUBLK"], "add", "--foreground", "-n", str(self.id), *self.arguments)
        self.ready(f"/dev/ublkb{self.id}")

    def stop(self):
        if self.device:
            self.run(os.environ["UBLK_KUBLK"], "del", "-n", str(self.id))


class NbdkitNbd(Server):
    """nbdkit under the kernel's nbd client, on a unix socket."""

    def __init__(self, name, *plugin):
        super().__init__(name)
        self.plugin = plugin

    def start(self):
        subprocess.run(["modprobe", "nbd"], check=True, timeout=30)
        socket = tempfile.mktemp(prefix="nbd-", suffix=".sock")
        self.spawn("nbdkit", "--foreground", "--unix", socket, *self.plugin)
        wait_for(socket, lambda: os.path.exists(socket))
        self.run("nbd-client", "-unix", socket, "/dev/nbd0")
        self.ready("/dev/nbd0")

    def stop(self):
        if self.device:
            self.run("nbd-client", "-d", "/dev/nbd0")


class NullBlk(Server):
    """The kernel's null_blk: what fio alone can do."""

    def start(self):
        self.run("modprobe", "null_blk", "nr_devices=1", "gb=64", "queue_mode=2")
        self.ready("/dev/nullb0")

    def stop(self):
        self.run("modprobe", "-r", "null_blk")


class KernelLoop(Server):
    """The kernel's loop driver on a file, buffered or direct."""

    def __init__(self, name, path, direct):
        super().__init__(name)
        self.path, self.direct = path, direct

    def start(self):
        self.run("modprobe", "loop")
        mode = "on" if self.direct else "off"
        result = subprocess.run(["losetup", "--find", "--show", f"--direct-io={mode}", self.path],
                                check=True, timeout=30, capture_output=True, text=True)
        self.ready(result.stdout.strip())

    def stop(self):
        if self.device:
            self.run("losetup", "-d", self.device)


def cpu_time_ns(pids):
    """CPU time of all threads of the processes, io_uring's workers included."""
    total = 0
    for pid in pids:
        for schedstat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            total += int(re.match(r"\d+", schedstat.read_text()).group())
    return total
