"""Devices that do nothing: what the way to a server and back costs."""

from bounds import Ratio, UserShare, Wakeups
from measure import comparison
from rivals import Kublk, Nbdkit, NullBlk, QemuStorageDaemon
from servers import LinkedNull, Runner

SECTION = {"handler": "null", "size": "64G"}


def one_null(name, log_level="warning", **keys):
    since = (7, 0) if keys.get("batch_io") == "on" else (6, 0)
    return Runner(name, {"null": {**SECTION, **keys}}, {"io_threads": 1}, log_level, since=since)


def one_kublk(name, *flags, **more):
    return Kublk(name, "-t", "null", "-q", "1", "-d", "128", *flags, since=(7, 0) if "-b" in flags else (6, 0),
                 **more)


def deep_and_single(effort):
    return effort.some([effort.load("randread", "4k", 64), effort.load("randread", "4k", 1)])


# Of both servers: the name, ours, theirs. kublk fails when it is asked for batches and user copy.
MODES = (
    ("copy", {"buffer": "copy", "batch_io": "off"}, ()),
    ("get-data", {"buffer": "get-data", "batch_io": "off"}, ("-g",)),
    ("user-copy", {"buffer": "user-copy", "batch_io": "off"}, ("-u",)),
    ("copy + batch", {"buffer": "copy", "batch_io": "on"}, ("-b",)),
    ("user-copy + batch", {"buffer": "user-copy", "batch_io": "on"}, None),
)


def null(effort):
    """Ours and the kernel's own test server in the same mode."""
    loads = deep_and_single(effort)
    servers, claims = [], []
    for mode, keys, flags in MODES:
        ours, theirs = f"null {mode}", f"kublk {mode}"
        servers.append(one_null(ours, **keys))
        claims += [UserShare(load=load.name, server=ours, at_most=0.05) for load in loads]
        if flags is not None:
            servers.append(one_kublk(theirs, *flags))
            claims += [Ratio(what="cpu_ns", load=load.name, server=ours, rival=theirs, at_most=1.05)
                       for load in loads]
    servers.append(NullBlk("kernel null_blk"))
    return comparison(effort, servers, loads, claims)


def null_peers(effort):
    """What else a null device can be had from."""
    servers = [
        one_null("null"),
        one_null("null io=workers", io="workers"),
        Nbdkit("nbdkit null + nbd", "null", "64G"),
        QemuStorageDaemon("qemu-storage-daemon null-co + nbd", f"driver=null-co,size={64 << 30}"),
        NullBlk("kernel null_blk"),
    ]
    return comparison(effort, servers, deep_and_single(effort))


def workers(effort):
    """What it costs to serve requests on other threads: nothing but that differs."""
    workers, inline = "null io=workers", "null io=inline"
    # Both log what the workers' figures are taken from.
    servers = [one_null(workers, "debug", io="workers"), one_null(inline, "debug", io="inline")]
    loads = deep_and_single(effort)
    deep, single = loads[0].name, loads[-1].name
    return comparison(effort, servers, loads, [
        Ratio(what="cpu_ns", load=deep, server=workers, rival=inline, at_most=1.35),
        Ratio(what="iops", load=deep, server=workers, rival=inline, at_least=0.85),
        Wakeups(load=deep, server=workers, at_most=0.2),
        Ratio(what="iops", load=single, server=workers, rival=inline, at_least=0.5),
    ])


def plugin(effort):
    """A handler behind the plugin interface, and the same code linked with the library."""
    servers, claims = [], []
    loads = deep_and_single(effort)
    for suffix, keys, arguments in (("", {"batch_io": "off"}, ()), (" + batch", {"batch_io": "on"}, ("batch",))):
        handler, linked = f"handler{suffix}", f"linked{suffix}"
        servers += [one_null(handler, buffer="copy", **keys),
                    LinkedNull(linked, *arguments, since=(7, 0) if arguments else (6, 0))]
        claims += [Ratio(what="cpu_ns", load=load.name, server=handler, rival=linked, at_most=1) for load in loads]
    return comparison(effort, servers, loads, claims)
