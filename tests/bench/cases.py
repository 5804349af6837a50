"""What is compared with what. Each case: the servers, the loads, and what it is to show."""

import os

from measure import Load
from servers import Kublk, NbdkitNbd, NullBlk, Runner

FILE = "/dev/shm/bench-disk"
FILE_BYTES = 1 << 30


def make_file():
    # Written, not sparse: reads of holes would flatter everybody.
    if not os.path.exists(FILE):
        block = os.urandom(1 << 20)
        with open(FILE, "wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(block)
    return FILE


def null_case(seconds):
    servers = [
        Runner("ublk-runner null", {"null": {"handler": "null", "size": "64G", "queues": 1}},
               {"io_threads": 1}),
        Kublk("kublk null", "-t", "null", "-q", "1", "-d", "128"),
        NullBlk("kernel null_blk"),
    ]
    loads = [Load("randread", "4k", 64, seconds), Load("randread", "4k", 1, seconds)]
    return servers, loads


def file_case(seconds):
    path = make_file()
    servers = [
        Runner("ublk-runner file", {"file": {"handler": "file", "path": path, "queues": 1}},
               {"io_threads": 1}),
        NbdkitNbd("nbdkit file + nbd", "file", path),
    ]
    loads = [Load("randread", "4k", 64, seconds), Load("randwrite", "4k", 64, seconds)]
    return servers, loads


CASES = {"null": null_case, "file": file_case}
