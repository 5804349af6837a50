"""Who serves a block device in a comparison: ours and the rivals.

A server is a context manager; inside it `device` is the path of a block device
and `pids` are the processes whose CPU time counts as the server's. Everything
runs in the guest and leaves nothing behind.
"""

import contextlib
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
    return int(Path(f"/sys/block/{name}/size").read_text()) > 0


class Server:
    """Base: keeps processes, ends them in the reverse order."""

    start_seconds = START_SECONDS

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
                    raise RuntimeError(f"{self.name} ended: {Path(process.log).read_text()[-2000:]}")
            return is_block_device(device) and has_size(device)

        wait_for(f"{self.name}: {device}", condition, self.start_seconds)
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
        self.end()

    def end(self):
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

    def wakeups_per_io(self):
        """Once it has ended: how often a thread of its had to be woken; None: not known."""
        return None


class Runner(Server):
    """ublk-runner with one device per section: a dict of its keys."""

    def __init__(self, name, devices, runner_keys=None, log_level="warning"):
        super().__init__(name)
        self.sections = devices
        self.runner_keys = runner_keys or {}
        self.log_level = log_level

    def start(self):
        config = tempfile.NamedTemporaryFile("w", suffix=".conf", delete=False)
        with config:
            if self.runner_keys:
                config.write("[runner]\n" + "".join(f"{k} = {v}\n" for k, v in self.runner_keys.items()))
            for device, keys in self.sections.items():
                config.write(f"[device {device}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()))
        process = self.spawn(
            str(BUILD_DIR / "runner/ublk-runner"), "--foreground", "--config", config.name,
            "--handler-dir", str(BUILD_DIR / "handlers"), "--log-level", self.log_level)
        self.log = Path(process.log)
        for device in self.sections:
            self.ready(f"/dev/ublk/{device}")
        self.devices = [f"/dev/ublk/{device}" for device in self.sections]

    def wakeups_per_io(self):
        counts = re.findall(r"(\d+) requests completed by other threads, (\d+) eventfd writes",
                            self.log.read_text())
        completed, wakeups = (sum(int(count[i]) for count in counts) for i in range(2))
        return wakeups / completed if completed else None


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


class TcmuRunner(Server):
    """tcmu-runner's file handler as a SCSI disk, by the kernel's tcm_loop."""

    TARGET = Path("/sys/kernel/config/target")
    NAA = "naa.5001405000000001"

    def __init__(self, name, path):
        super().__init__(name)
        self.path = path
        self.undo = contextlib.ExitStack()

    def make_folder(self, path):
        path.mkdir()
        self.undo.callback(path.rmdir)
        return path

    def start(self):
        self.run("modprobe", "-a", "target_core_user", "tcm_loop", "sd_mod")
        bus = Path("/run/dbus/system_bus_socket")
        bus.parent.mkdir(exist_ok=True)
        bus.unlink(missing_ok=True)
        self.spawn("dbus-daemon", "--system", "--nofork", "--nopidfile", counts=False)
        wait_for("the system bus", bus.exists)
        self.spawn("tcmu-runner", "--handler-path", os.environ["UBLK_TCMU_HANDLERS"])
        self.run("gdbus", "wait", "--system", "--timeout", str(START_SECONDS), "org.kernel.TCMUService1")

        self.make_folder(self.TARGET / "core/user_0")
        backstore = self.make_folder(self.TARGET / "core/user_0/bench")
        (backstore / "control").write_text(
            f"dev_config=file/{self.path},dev_size={os.path.getsize(self.path)},hw_block_size=512,async=1")
        (backstore / "enable").write_text("1")

        self.make_folder(self.TARGET / "loopback")
        self.make_folder(self.TARGET / "loopback" / self.NAA)
        port = self.make_folder(self.TARGET / "loopback" / self.NAA / "tpgt_1")
        (port / "nexus").write_text(self.NAA)
        unit = self.make_folder(port / "lun/lun_0")
        (unit / "bench").symlink_to(backstore)
        self.undo.callback((unit / "bench").unlink)

        disk = Path(f"/sys/class/scsi_device/{(port / 'address').read_text().strip()}:0/device/block")
        wait_for(str(disk), disk.is_dir)
        self.ready(f"/dev/{next(disk.iterdir()).name}")

    def stop(self):
        self.undo.close()


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
    """CPU time of all threads that the processes have or had, io_uring's workers included."""
    # What clock_getcpuclockid() gives; /proc/PID/task would miss workers that have ended.
    return sum(time.clock_gettime_ns(~pid << 3 | 2) for pid in pids)
