"""A disk in a file: ours and the rivals."""

from bounds import Ratio
from measure import comparison
from rivals import KernelLoop, Kublk, Nbdkit, QemuStorageDaemon, TcmuRunner
from servers import Runner
from storage import file_on_tmpfs


def one_file(name, path, log_level="warning", **keys):
    since = (7, 0) if keys.get("batch_io") == "on" else (6, 16) if keys.get("zero_copy") == "on" else (6, 0)
    return Runner(name, {"file": {"handler": "file", "path": path, **keys}}, {"io_threads": 1}, log_level,
                  since=since)


def kublk_loop(name, path, *flags):
    since = (7, 0) if "-b" in flags else (6, 16) if "--auto_zc" in flags else (6, 0)
    return Kublk(name, "-t", "loop", "-q", "1", "-d", "128", *flags, path, since=since)


def loads_of_file(effort):
    return effort.some([effort.load(rw, size, 64) for size in ("4k", "64k") for rw in ("randread", "randwrite")])


def file_copy(effort):
    """Against the loop target of the kernel's own test server, both copying."""
    path = file_on_tmpfs(effort)
    loads = loads_of_file(effort)
    servers, claims = [], []
    for suffix, batch, flags in ("", "off", ()), (" + batch", "on", ("-b",)):
        ours, theirs = f"file copy{suffix}", f"kublk loop copy{suffix}"
        servers += [one_file(ours, path, buffer="copy", batch_io=batch), kublk_loop(theirs, path, *flags)]
        claims += [Ratio(what="cpu_ns", load=load.name, server=ours, rival=theirs, at_most=0.8) for load in loads]
    return comparison(effort, servers, loads, claims)


def file_zero_copy(effort):
    """The same without a copy, and the kernel's loop."""
    path = file_on_tmpfs(effort)
    loads = loads_of_file(effort)
    servers, claims = [], []
    kernel = "kernel loop"
    for suffix, batch, flags in ("", "off", ()), (" + batch", "on", ("-b",)):
        ours, theirs = f"file zero-copy{suffix}", f"kublk loop zero-copy{suffix}"
        servers += [one_file(ours, path, zero_copy="on", batch_io=batch),
                    kublk_loop(theirs, path, "--auto_zc", *flags)]
        claims += [Ratio(what="cpu_ns", load=load.name, server=ours, rival=theirs, at_most=0.95) for load in loads]
        claims += [Ratio(what="iops", load=load.name, server=ours, rival=kernel,
                         at_least=1.2 if load.block_size == "4k" else None) for load in loads]
    servers += [KernelLoop(kernel, path, direct=False), KernelLoop(f"{kernel}, direct", path, direct=True)]
    return comparison(effort, servers, loads, claims)


def file_peers(effort):
    """Other servers of files in user space; the third is the model of our workers."""
    path = file_on_tmpfs(effort)
    ours, rival = "file io=workers", "tcmu-runner file"
    servers = [
        one_file("file", path),
        one_file(ours, path, "debug", io="workers"),
        TcmuRunner(rival, path),
        Nbdkit("nbdkit file + nbd", "file", path),
        QemuStorageDaemon("qemu-storage-daemon + nbd", f"driver=file,filename={path}"),
    ]
    loads = effort.some([effort.load("randread", "4k", 64), effort.load("randwrite", "4k", 64),
                         effort.load("randread", "64k", 32), effort.load("randread", "4k", 1)])
    claims = []
    for load in loads:
        at_least = 2.5 if load.depth > 1 else 2
        if load.block_size == "4k":
            claims += [Ratio(what="iops", load=load.name, server=ours, rival=rival, at_least=at_least),
                       Ratio(what="cpu_ns", load=load.name, server=ours, rival=rival, at_most=0.5)]
    return comparison(effort, servers, loads, claims)
