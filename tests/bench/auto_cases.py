"""What `buffer = auto` costs, beside each way to the data that can be asked for by name."""

from bounds import NearBest
from measure import comparison
from servers import Runner
from storage import file_on_ext4, file_on_tmpfs

COPY, GET_DATA, USER_COPY, ZERO_COPY = "copy", "get-data", "user-copy", "zero-copy"
AUTO, SMALL = "auto", "auto, small buffer_memory"
# Half of it is less than the buffers of copy mode may need, 64M.
SMALL_MEMORY = "96M"


def auto_case(effort, handler, modes):
    """`handler`: its keys of the section."""
    def server(name, runner_keys=None, **keys):
        return Runner(name, {"disk": {**handler, **keys}}, {"io_threads": 1, **(runner_keys or {})},
                      since=(6, 16) if "zero_copy" in keys else (6, 0))

    servers = [server(AUTO)]
    for mode in modes:
        servers.append(server(mode, **({"zero_copy": "on"} if mode == ZERO_COPY else {"buffer": mode})))
    small = ZERO_COPY not in modes  # else it is zero copy whatever the memory
    if small:
        servers.append(server(SMALL, {"buffer_memory": SMALL_MEMORY}))
    # The writes come first, or reads would find nothing in a sparse disk.
    loads = effort.some([effort.load(rw, size, depth) for size, depth in (("4k", 64), ("64k", 32))
                         for rw in ("randwrite", "randread")])
    claims = []
    for load in loads:
        for what, bound in (("cpu_ns", {"at_most": 1.1}), ("iops", {"at_least": 0.9})):
            claims.append(NearBest(what=what, load=load.name, server=AUTO, rivals=modes, **bound))
            if small:
                without_copy = tuple(mode for mode in modes if mode != COPY)
                claims.append(NearBest(what=what, load=load.name, server=SMALL, rivals=without_copy, **bound))
    return comparison(effort, servers if not effort.quick else servers[:1] + servers[-1:], loads, claims)


def auto_null(effort):
    return auto_case(effort, {"handler": "null", "size": "64G"}, (COPY, GET_DATA, USER_COPY))


def auto_memory(effort):
    return auto_case(effort, {"handler": "memory", "size": "256M"}, (COPY, GET_DATA, USER_COPY))


def auto_file(effort):
    return auto_case(effort, {"handler": "file", "path": file_on_tmpfs(effort)},
                     (ZERO_COPY, COPY, GET_DATA, USER_COPY))


def auto_file_direct(effort):
    with file_on_ext4(effort) as path:
        return auto_case(effort, {"handler": "file", "path": path, "direct": "true"},
                         (ZERO_COPY, COPY, GET_DATA, USER_COPY))


def auto_file_workers(effort):
    return auto_case(effort, {"handler": "file", "path": file_on_tmpfs(effort), "io": "workers"},
                     (COPY, GET_DATA, USER_COPY))
