"""How the cost grows with the depth, the queues and the devices."""

import os

from bounds import Ratio
from measure import comparison
from null_cases import SECTION, one_kublk, one_null
from servers import Runner

OURS, THEIRS = "null", "kublk"


def null_devices(name, count, keys=None, runner_keys=None, **more):
    return Runner(name, {f"null{number}": {**SECTION, **(keys or {})} for number in range(count)}, runner_keys, **more)


def devices_16(effort):
    """Many devices on few CPUs, each with little to do at once."""
    ours = {
        "16 null devices": {},
        "16 null devices, copy": {"buffer": "copy", "batch_io": "off"},
        "16 null devices, copy + batch": {"buffer": "copy", "batch_io": "on"},
    }
    theirs, theirs_batch = "16 kublk", "16 kublk + batch"
    # Twice what 16 devices' buffers may need, so that the first one, too, is in copy mode as the rival is.
    memory = {"buffer_memory": "2G"}
    servers = [null_devices(name, 16, keys, memory, since=(7, 0) if keys.get("batch_io") == "on" else (6, 0))
               for name, keys in ours.items()]
    servers += [one_kublk(theirs, count=16), one_kublk(theirs_batch, "-b", count=16)]
    # What both gain or lose if each CPU has a queue of its own: our threads stay as many.
    queue_a_cpu = "16 null devices, a queue a CPU"
    servers += [null_devices(queue_a_cpu, 16, {"queues": os.cpu_count()}, memory),
                one_kublk("16 kublk, a queue a CPU", "-q", str(os.cpu_count()), count=16)]
    if effort.quick:
        servers = [servers[0], servers[4]]
    loads = effort.some([effort.load("randread", "4k", depth) for depth in (4, 1)])
    claims = [Ratio(what=what, load=load.name, server=name, rival=rival, at_most=0.5)
              for load in loads for name in [*ours, queue_a_cpu] for what in ("cpu_ns", "p99_us")
              for rival in ([theirs_batch] if "batch" in name else [theirs])]
    return comparison(effort, servers, loads, claims)


def depth(effort):
    servers = [
        one_null(f"{OURS} + batch", buffer="copy", batch_io="on"),
        one_kublk(f"{THEIRS} + batch", "-b"),
        one_null(OURS, buffer="copy", batch_io="off"),
        one_kublk(THEIRS),
    ]
    loads = [effort.load("randread", "4k", depth, x=depth) for depth in effort.some((1, 4, 16, 64, 128))]
    return comparison(effort, effort.some(servers, 2), loads, axis="queue depth")


def queues(effort):
    """Each queue is used by a job of its own. The kernel makes no more of them than there are CPUs."""
    reports = []
    for count in effort.some([count for count in (1, 2, 4, 8, 16) if count <= os.cpu_count()]):
        servers = [
            Runner(OURS, {"null": {**SECTION, "queues": count}}, {"io_threads": count}, x=count),
            one_kublk(THEIRS, "-q", str(count), x=count),
        ]
        loads = [effort.load("randread", "4k", 32, jobs=count)]
        reports.append(comparison(effort, servers, loads))
    reports[0].text = "\n\n".join(report.text for report in reports)
    reports[0].results = [result for report in reports for result in report.results]
    reports[0].axis = "queues"
    return reports[0]


def devices(effort):
    servers = []
    for count in effort.some((1, 2, 4, 8, 16, 32)):
        servers += [
            null_devices(f"{OURS}, {count} devices", count, series=OURS, x=count),
            one_kublk(f"{THEIRS}, {count} devices", count=count, series=THEIRS, x=count),
        ]
    return comparison(effort, servers, [effort.load("randread", "4k", 4)], axis="devices")
