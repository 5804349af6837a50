"""A disk on an NBD server: our client and the kernel's, on the same server."""

from bounds import Ratio
from measure import comparison
from rivals import Nbdkit
from servers import Runner

PLUGIN = ("memory", "1G")


class NbdRunner(Runner):
    """ublk-runner on a server of its own, whose CPU time counts, too."""

    def __init__(self, name, connections, spin=0, **keys):
        # The kernel's client asks for no structured replies either, which cost nbdkit a system call more.
        self.section = {"handler": "nbd", "queues": connections, "connections": connections,
                        "structured_replies": "false", **keys}
        super().__init__(name, {"nbd": self.section}, {"io_threads": connections, "spin": spin})

    def start(self):
        socket = self.folder / "nbd.sock"
        self.section["uri"] = f"nbd+unix:///?socket={socket}"
        self.spawn("nbdkit", "--foreground", "--unix", socket, *PLUGIN)
        self.wait_for(socket, socket.exists)
        super().start()


def nbd(effort):
    """What each I/O costs the machine is told by all of its CPU time: the kernel's client has no process
    of its own. That has fio's and nbdkit's share in it, which is the greater one on both sides."""
    loads = effort.some([effort.load("randwrite", "4k", 64), effort.load("randread", "4k", 64),
                         effort.load("randread", "64k", 32), effort.load("randread", "4k", 1)])
    servers, claims = [], []
    for connections in (1, 2):
        ours, theirs = f"nbd handler, {connections}", f"kernel nbd, {connections}"
        spinning = f"{ours}, spin"  # for about as long as this server takes
        servers += [NbdRunner(ours, connections), NbdRunner(spinning, connections, spin=500),
                    Nbdkit(theirs, *PLUGIN, connections=connections)]
        for load in loads:
            deep = load.depth == 64 and load.rw == "randread"
            claims.append(Ratio(what="iops", load=load.name, server=ours, rival=theirs,
                                at_least=1.5 if deep else 1 if load.depth == 1 else None))
            claims.append(Ratio(what="machine_ns", load=load.name, server=ours, rival=theirs,
                                at_most=0.8 if deep else None))
            if load.depth == 1:
                claims.append(Ratio(what="iops", load=load.name, server=spinning, rival=theirs, at_least=1))
    return comparison(effort, servers, loads, claims, shares=True)
