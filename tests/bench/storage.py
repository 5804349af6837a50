"""The files that servers serve."""

import contextlib
import os
import subprocess
import tempfile

TMPFS_FILE = "/dev/shm/ublk-runner-bench"


def _write(path, megabytes):
    # Written, not sparse: reads of holes would flatter everybody.
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(megabytes):
            file.write(block)


def file_on_tmpfs(effort):
    """The same for all cases."""
    if not os.path.exists(TMPFS_FILE):
        _write(TMPFS_FILE, 64 if effort.quick else 1024)
    return TMPFS_FILE


def remove_files():
    with contextlib.suppress(FileNotFoundError):
        os.unlink(TMPFS_FILE)


@contextlib.contextmanager
def file_on_ext4(effort):
    """On a RAM disk: what is read and written directly goes through all of the file system, and
    waits for nothing."""
    megabytes = 64 if effort.quick else 256
    with contextlib.ExitStack() as undo:
        if os.path.exists("/sys/module/brd"):
            raise RuntimeError("the module brd is in use")
        subprocess.run(["modprobe", "brd", "rd_nr=1", f"rd_size={(megabytes + 64) << 10}"], check=True)
        undo.callback(subprocess.run, ["modprobe", "-r", "brd"])
        subprocess.run(["mkfs.ext4", "-q", "/dev/ram0"], check=True)
        folder = undo.enter_context(tempfile.TemporaryDirectory())
        subprocess.run(["mount", "/dev/ram0", folder], check=True)
        undo.callback(subprocess.run, ["umount", folder])
        _write(f"{folder}/disk", megabytes)
        yield f"{folder}/disk"
