"""Who serves block devices in a comparison: what all servers have in common, and ours.

A server is a context manager; inside it `devices` are the paths of block devices and `pids` are the
processes whose CPU time counts as the server's, and `folder` is where it may keep files. It leaves
nothing behind.
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


def wait_for(what, condition, seconds=START_SECONDS):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def is_block_device(path):
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def has_size(path):
    name = os.path.basename(os.path.realpath(path))
    try:
        return int(Path(f"/sys/block/{name}/size").read_text()) > 0
    except FileNotFoundError:
        return False  # the node comes a moment before


def kernel_before(version):
    """Whether this kernel is older, as a text for people; None: it is not."""
    release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    return f"needs Linux {version[0]}.{version[1]}" if release < version else None


class Server:
    """Base: keeps processes, ends them in the reverse order."""

    start_seconds = START_SECONDS
    modules = ()

    def __init__(self, name, series=None, x=None, since=(6, 0)):
        """`series` and `x`: its line and its place there, in a plot. `since`: its first kernel."""
        self.name = name
        self.series = series or name
        self.x = x
        self.since = since
        self.devices = []
        self.pids = []
        self.folder = None
        self._processes = []
        self._logs = []

    def unavailable(self):
        """Why this system can't have it; None: it can."""
        for module in self.modules:
            if subprocess.run(["modprobe", "--dry-run", "--quiet", module]).returncode:
                return f"no kernel module {module}"
        return kernel_before(self.since)

    def run(self, *command):
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)

    def spawn(self, *command, counts=True):
        log = self.folder / f"{len(self._processes)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        process.log = log
        self._processes.append(process)
        if counts:
            self.pids.append(process.pid)
        return process

    def wait_for(self, what, condition):
        """As long as its processes live."""
        def condition_or_end():
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended: {process.log.read_text()[-2000:]}")
            return condition()

        wait_for(f"{self.name}: {what}", condition_or_end, self.start_seconds)

    def ready(self, device):
        self.wait_for(device, lambda: is_block_device(device) and has_size(device))
        self.devices.append(device)

    def __enter__(self):
        self._temporary = tempfile.TemporaryDirectory(prefix="server-")
        self.folder = Path(self._temporary.name)
        self._logs.clear()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with self._temporary:
            self.stop()
            self.end()
        self.devices = []

    def end(self):
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)
            self._logs.append(process.log.read_text())  # before the folder goes
        self._processes.clear()
        self.pids.clear()

    def start(self):
        raise NotImplementedError

    def stop(self):
        pass

    def fio_jobs(self):
        """What tells fio's jobs where to read and write, a list of options for each."""
        for device in self.devices:
            # fio would make a plain file of a missing node, and measure the tmpfs.
            if not is_block_device(device):
                raise RuntimeError(f"{device} is no block device")
        return [["--ioengine=io_uring", f"--filename={device}"] for device in self.devices]

    def wakeups_per_io(self):
        """Once it has ended: how often a thread of its had to be woken; None: not known."""
        return None


class Runner(Server):
    """ublk-runner with one device per section: a dict of its keys."""

    modules = ("ublk_drv",)

    def __init__(self, name, sections, runner_keys=None, log_level="warning", **more):
        super().__init__(name, **more)
        # Others' devices may be here, too.
        self.sections = {f"bench-{device}": keys for device, keys in sections.items()}
        self.runner_keys = runner_keys or {}
        self.log_level = log_level

    def start(self):
        path = self.folder / "runner.conf"
        with path.open("w") as config:
            if self.runner_keys:
                config.write("[runner]\n" + "".join(f"{k} = {v}\n" for k, v in self.runner_keys.items()))
            for device, keys in self.sections.items():
                config.write(f"[device {device}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()))
        self.spawn(
            str(BUILD_DIR / "runner/ublk-runner"), "--foreground", "--config", path,
            "--handler-dir", str(BUILD_DIR / "handlers"), "--log-level", self.log_level)
        for device in self.sections:
            self.ready(f"/dev/ublk/{device}")

    def wakeups_per_io(self):
        counts = re.findall(r"(\d+) requests completed by other threads, (\d+) eventfd writes",
                            "".join(self._logs))
        completed, wakeups = (sum(int(count[i]) for count in counts) for i in range(2))
        return wakeups / completed if completed else None


class LinkedNull(Server):
    """What the null handler does, in a program that embeds libublk."""

    modules = ("ublk_drv",)

    def __init__(self, name, *arguments, **more):
        super().__init__(name, **more)
        self.arguments = arguments

    def start(self):
        self.run("modprobe", "ublk_drv")
        process = self.spawn(str(BUILD_DIR / "tests/bench/bench_linked_null"), *self.arguments)
        self.wait_for("its path", lambda: process.log.read_text().startswith("/dev/"))
        self.ready(process.log.read_text().strip())


def cpu_time_ns(pids):
    """CPU time of all threads that the processes have or had, io_uring's workers included."""
    # What clock_getcpuclockid() gives; /proc/PID/task would miss workers that have ended.
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids)


def user_and_system_ns(pids):
    """The same in two parts. The kernel divides it by where its ticks, 250 a second, found the
    threads, and tells it in hundredths of a second."""
    user = system = 0
    for pid in pids:
        # proc(5); the name in brackets may contain blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user += int(fields[11])
        system += int(fields[12])
    unit = 10**9 // os.sysconf("SC_CLK_TCK")
    return user * unit, system * unit


# A command that says what machine_time_ns() wants to know.
MACHINE_TIMES = "cat /proc/uptime /proc/stat"


def machine_time_ns(times):
    """CPU time of the whole machine up to then, by what its CPUs have not been idle: that the kernel
    measures."""
    uptime, cpus, *_ = (line.split() for line in times.splitlines())
    idle, iowait = (int(field) for field in cpus[4:6])
    return round(float(uptime[0]) * 10**9) * os.cpu_count() - (idle + iowait) * 10**9 // os.sysconf("SC_CLK_TCK")
