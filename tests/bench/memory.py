"""What memory and threads a process has, and the machine's."""

import os
import re
from pathlib import Path

MB = 1 << 20


def _field(path, name):
    """In bytes, of a file of lines such as "Pss:   12 kB"."""
    return int(re.search(rf"^{name}:\s+(\d+) kB", Path(path).read_text(), re.M)[1]) << 10


def pss(pid):
    return _field(f"/proc/{pid}/smaps_rollup", "Pss")


def reset_peak_rss(pid):
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss(pid):
    """Since reset_peak_rss(). The kernel's own figure: sampling would miss the peak."""
    return _field(f"/proc/{pid}/status", "VmHWM")


def available():
    return _field("/proc/meminfo", "MemAvailable")


def threads(pid):
    """All of them, io_uring's workers too."""
    return len(os.listdir(f"/proc/{pid}/task"))
