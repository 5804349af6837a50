"""What is compared with what. Each case: the servers, the loads, and what it is to show."""

import os

from bounds import Limit, Ratio
from many_devices import many_devices
from measure import Load, comparison
from servers import KernelLoop, Kublk, NbdkitNbd, NullBlk, Runner, TcmuRunner

FILE = "/dev/shm/bench-disk"


def make_file(effort):
    # Written, not sparse: reads of holes would flatter everybody.
    if not os.path.exists(FILE):
        block = os.urandom(1 << 20)
        with open(FILE, "wb") as file:
            for _ in range(64 if effort.quick else 1024):
                file.write(block)
    return FILE


def one_null(name, log_level="warning", **keys):
    return Runner(name, {"null": {"handler": "null", "size": "64G", "queues": 1, **keys}},
                  {"io_threads": 1}, log_level)


def one_file(name, effort, log_level="warning", **keys):
    return Runner(name, {"file": {"handler": "file", "path": make_file(effort), "queues": 1, **keys}},
                  {"io_threads": 1}, log_level)


def null_case(effort):
    servers = [
        one_null("ublk-runner null"),
        Kublk("kublk null", "-t", "null", "-q", "1", "-d", "128"),
        NullBlk("kernel null_blk"),
    ]
    loads = [Load("randread", "4k", 64, effort.seconds), Load("randread", "4k", 1, effort.seconds)]
    return comparison(effort, servers, loads)


def file_case(effort):
    servers = [
        one_file("ublk-runner file", effort),
        NbdkitNbd("nbdkit file + nbd", "file", make_file(effort)),
    ]
    loads = [Load("randread", "4k", 64, effort.seconds), Load("randwrite", "4k", 64, effort.seconds)]
    return comparison(effort, servers, loads)


def workers_null_case(effort):
    """What it costs to serve requests on other threads: nothing but that differs."""
    workers, inline = "null io=workers", "null io=inline"
    # Both log what the workers' figures are taken from.
    servers = [one_null(workers, "debug", io="workers"), one_null(inline, "debug", io="inline")]
    deep, single = Load("randread", "4k", 64, effort.seconds), Load("randread", "4k", 1, effort.seconds)
    return comparison(effort, servers, [deep, single], [
        Ratio(what="cpu_ns", load=deep.name, server=workers, rival=inline, at_most=1.35),
        Ratio(what="iops", load=deep.name, server=workers, rival=inline, at_least=0.85),
        Limit(what="wakeups", load=deep.name, server=workers, at_most=0.2),
        Ratio(what="iops", load=single.name, server=workers, rival=inline, at_least=0.5),
    ])


def workers_file_case(effort):
    """The same model, worker threads that block, in the program that ours is modelled on."""
    ours, rival = "file io=workers", "tcmu-runner file"
    servers = [one_file(ours, effort, "debug", io="workers"), TcmuRunner(rival, make_file(effort))]
    loads = [Load(rw, "4k", depth, effort.seconds)
             for rw, depth in (("randread", 64), ("randwrite", 64), ("randread", 1))]
    bounds = []
    for load in loads:
        bounds += [
            Ratio(what="iops", load=load.name, server=ours, rival=rival, at_least=2.5 if load.depth > 1 else 2),
            Ratio(what="cpu_ns", load=load.name, server=ours, rival=rival, at_most=0.5),
        ]
    return comparison(effort, servers, loads, bounds)


def buffers_case(effort):
    """What each way to the data costs, against copy mode."""
    modes = ("copy", "get-data", "user-copy")
    servers, bounds = [], []
    loads = [Load(rw, size, depth, effort.seconds)
             for size, depth in (("4k", 64), ("64k", 32)) for rw in ("randread", "randwrite")]
    if effort.quick:
        loads = loads[1:3]
    for mode in modes:
        servers.append(one_file(f"file {mode}", effort, buffer=mode))
    for mode in modes:
        servers.append(one_null(f"null {mode}", buffer=mode))
    for load in loads:
        for handler in "file", "null":
            for mode in modes[1:]:
                sides = {"load": load.name, "server": f"{handler} {mode}", "rival": f"{handler} copy"}
                bounds += [Ratio(what="iops", **sides), Ratio(what="cpu_ns", **sides)]
    return comparison(effort, servers, loads, bounds)


def zero_copy_case(effort):
    """The file handler against the loop targets of others, with and without a copy."""
    path = make_file(effort)
    kublk = ("-t", "loop", "-q", "1", "-d", "128")
    ours, ours_copy = "file zero-copy", "file copy"
    theirs, theirs_copy, kernel = "kublk loop zero-copy", "kublk loop copy", "kernel loop"
    servers = [
        one_file(ours, effort, zero_copy="on"),
        Kublk(theirs, *kublk, "--auto_zc", path),
        one_file(ours_copy, effort, buffer="copy"),
        Kublk(theirs_copy, *kublk, path),
        KernelLoop(kernel, path, direct=False),
    ]
    loads = [Load("randread", "4k", 64, effort.seconds), Load("randread", "64k", 64, effort.seconds)]
    if not effort.quick:
        loads.append(Load("randwrite", "4k", 64, effort.seconds))
    bounds = []
    for load in loads:
        bounds += [
            Ratio(what="cpu_ns", load=load.name, server=ours, rival=theirs, at_most=0.95),
            Ratio(what="cpu_ns", load=load.name, server=ours_copy, rival=theirs_copy, at_most=0.8),
            Ratio(what="iops", load=load.name, server=ours, rival=kernel, at_least=1.2),
        ]
    return comparison(effort, servers, loads, bounds)


CASES = {
    "null": null_case,
    "file": file_case,
    "workers-null": workers_null_case,
    "workers-file": workers_file_case,
    "buffers": buffers_case,
    "zero-copy": zero_copy_case,
    "many-devices": many_devices,
}
