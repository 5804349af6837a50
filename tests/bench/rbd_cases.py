"""A disk in a Ceph cluster: our handler, Ceph's own rbd-nbd, and fio as a client without a device."""

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path

from bounds import Ratio
from measure import comparison
from rivals import FioOnRbd, RbdNbd
from servers import Runner


@contextlib.contextmanager
def ceph_cluster(megabytes):
    """With an image rbd/bench of that size. Gives its configuration, which Ceph's programs find by
    themselves."""
    script = Path(os.environ["SOURCE_DIR"]) / "tests/bench/ceph_cluster"
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder:
        with subprocess.Popen([script, folder, str(megabytes)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as cluster:
            try:
                if not cluster.stdout.readline():
                    raise RuntimeError("there is no Ceph cluster")
                os.environ["CEPH_CONF"] = f"{folder}/ceph.conf"
                yield os.environ["CEPH_CONF"]
            finally:
                os.environ.pop("CEPH_CONF", None)
                cluster.stdin.close()


def rbd(effort):
    """fio's own client does without the kernel and without a copy; where the cluster's CPU time is on
    the same machine, it is the most that a device can come near."""
    loads = effort.some([effort.load("randwrite", "4k", 32), effort.load("randread", "4k", 32),
                         effort.load("randread", "4k", 1)])
    ours, engine, nbd = "rbd handler", "fio's rbd engine", "rbd-nbd"
    claims = []
    for load in loads:
        deep = load.depth == 32
        claims += [Ratio(what="iops", load=load.name, server=ours, rival=engine, at_least=0.85 if deep else None),
                   Ratio(what="iops", load=load.name, server=ours, rival=nbd, at_least=1.2 if deep else None),
                   Ratio(what="p99_us", load=load.name, server=ours, rival=engine),
                   Ratio(what="machine_ns", load=load.name, server=ours, rival=nbd)]
    with ceph_cluster(64 if effort.quick else 256) as conf:
        section = {"handler": "rbd", "pool": "rbd", "image": "bench", "conf": conf}
        servers = [Runner(ours, {"rbd": section}), FioOnRbd(engine, "rbd", "bench"), RbdNbd(nbd, "rbd/bench")]
        return comparison(effort, servers, loads, claims, shares=True)
