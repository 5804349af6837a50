"""Who else serves block devices: servers that ours is compared with."""

import contextlib
import os
import subprocess
from pathlib import Path

from servers import START_SECONDS, Server


class Kublk(Server):
    """The kernel's own test server, from tools/testing/selftests/ublk: a process for each device."""

    modules = ("ublk_drv",)

    def __init__(self, name, *arguments, count=1, **more):
        super().__init__(name, **more)
        self.arguments = arguments
        self.count = count
        self.ids = []

    def start(self):
        self.run("modprobe", "ublk_drv")
        unused = (i for i in range(256) if not os.path.exists(f"/dev/ublkc{i}"))
        self.ids = [next(unused) for _ in range(self.count)]
        for number in self.ids:
            self.spawn(os.environ["UBLK_KUBLK"], "add", "--foreground", "-n", str(number), *self.arguments)
        for number in self.ids:
            self.ready(f"/dev/ublkb{number}")

    def stop(self):
        for number in self.ids:
            if os.path.exists(f"/dev/ublkc{number}"):
                self.run(os.environ["UBLK_KUBLK"], "del", "-n", str(number))


def unused_nbd():
    """A device of the kernel's client that is not connected: the others have a pid."""
    return next(f"/dev/{disk.name}" for disk in sorted(Path("/sys/block").glob("nbd*"))
                if not (disk / "pid").exists())


class Nbd(Server):
    """A server of the NBD protocol on a unix socket, and the kernel's client."""

    modules = ("nbd",)
    export = None  # its name
    connections = 1

    def serve(self, socket):
        """Starts the server."""
        raise NotImplementedError

    def start(self):
        self.run("modprobe", "nbd")
        self.client = unused_nbd()
        socket = self.folder / "nbd.sock"
        self.serve(socket)
        self.wait_for(socket, socket.exists)
        name = ["-name", self.export] if self.export else []
        self.run("nbd-client", "-unix", socket, self.client, "-connections", str(self.connections), *name)
        self.ready(self.client)

    def stop(self):
        if self.devices:
            self.run("nbd-client", "-d", self.client)


class Nbdkit(Nbd):
    def __init__(self, name, *plugin, connections=1, **more):
        super().__init__(name, **more)
        self.plugin = plugin
        self.connections = connections

    def serve(self, socket):
        self.spawn("nbdkit", "--foreground", "--unix", socket, *self.plugin)


class RbdNbd(Server):
    """Ceph's own: librbd in user space, served to the kernel's client of NBD."""

    modules = ("nbd",)

    def __init__(self, name, image, **more):
        super().__init__(name, **more)
        self.image = image

    def start(self):
        self.run("modprobe", "nbd")
        self.client = unused_nbd()
        self.spawn("rbd-nbd", "map", "-f", "--device", self.client, self.image)
        self.ready(self.client)

    def stop(self):
        if self.devices:
            self.run("rbd-nbd", "unmap", self.client)


class FioOnRbd(Server):
    """No device: fio is itself the client, with its rbd engine."""

    def __init__(self, name, pool, image, **more):
        super().__init__(name, **more)
        self.engine = ["--ioengine=rbd", "--clientname=admin", f"--pool={pool}", f"--rbdname={image}"]

    def start(self):
        pass

    def fio_jobs(self):
        return [self.engine]


class QemuStorageDaemon(Nbd):
    """`blockdev`: the options of its block backend but the name."""

    export = "disk"

    def __init__(self, name, blockdev, **more):
        super().__init__(name, **more)
        self.blockdev = blockdev

    def serve(self, socket):
        self.spawn("qemu-storage-daemon", "--blockdev", f"{self.blockdev},node-name=disk",
                   "--nbd-server", f"addr.type=unix,addr.path={socket}",
                   "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on")


class TcmuRunner(Server):
    """tcmu-runner's file handler as a SCSI disk, by the kernel's tcm_loop."""

    modules = ("target_core_user", "tcm_loop", "sd_mod")
    TARGET = Path("/sys/kernel/config/target")
    NAA = "naa.5001405000000001"
    BUS = Path("/run/dbus/system_bus_socket")

    def __init__(self, name, path, **more):
        super().__init__(name, **more)
        self.path = path
        self.undo = contextlib.ExitStack()

    def make_folder(self, path):
        path.mkdir()
        self.undo.callback(path.rmdir)
        return path

    def start(self):
        self.run("modprobe", "-a", *self.modules)
        if not self.BUS.exists():
            self.BUS.parent.mkdir(exist_ok=True)
            self.undo.callback(self.BUS.unlink, missing_ok=True)
            self.spawn("dbus-daemon", "--system", "--nofork", "--nopidfile", counts=False)
            self.wait_for("the system bus", self.BUS.exists)
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
        self.wait_for(disk, disk.is_dir)
        self.ready(f"/dev/{next(disk.iterdir()).name}")

    def stop(self):
        self.undo.close()


class NullBlk(Server):
    """The kernel's null_blk: what fio alone can do."""

    modules = ("null_blk",)
    FOLDER = Path("/sys/kernel/config/nullb/bench")

    def start(self):
        self.run("modprobe", "null_blk", "nr_devices=0")
        self.FOLDER.mkdir()
        (self.FOLDER / "size").write_text(str(64 << 10))  # MB
        (self.FOLDER / "queue_mode").write_text("2")
        (self.FOLDER / "power").write_text("1")
        self.ready("/dev/bench")

    def stop(self):
        if self.FOLDER.exists():
            self.FOLDER.rmdir()


class KernelLoop(Server):
    """The kernel's loop driver on a file, buffered or direct."""

    modules = ("loop",)

    def __init__(self, name, path, direct, **more):
        super().__init__(name, **more)
        self.path, self.direct = path, direct

    def start(self):
        self.run("modprobe", "loop")
        mode = "on" if self.direct else "off"
        result = subprocess.run(["losetup", "--find", "--show", f"--direct-io={mode}", self.path],
                                check=True, timeout=30, capture_output=True, text=True)
        device = result.stdout.strip()
        self.ready(device)
        is_direct = Path(f"/sys/block/{Path(device).name}/loop/dio").read_text().strip() == "1"
        if is_direct != self.direct:
            raise RuntimeError(f"{self.name}: the file system has no direct I/O")

    def stop(self):
        for device in self.devices:
            self.run("losetup", "-d", device)
