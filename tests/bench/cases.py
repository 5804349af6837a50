"""All cases, in their order. Each is a function of the effort that gives a Report."""

import auto_cases
import file_cases
import nbd_cases
import null_cases
import rbd_cases
import scaling_cases
from data import data
from many_devices import many_devices

CASES = {
    "data": data,
    "null": null_cases.null,
    "null-peers": null_cases.null_peers,
    "workers": null_cases.workers,
    "plugin": null_cases.plugin,
    "devices-16": scaling_cases.devices_16,
    "depth": scaling_cases.depth,
    "queues": scaling_cases.queues,
    "devices": scaling_cases.devices,
    "file-copy": file_cases.file_copy,
    "file-zero-copy": file_cases.file_zero_copy,
    "file-peers": file_cases.file_peers,
    "nbd": nbd_cases.nbd,
    "rbd": rbd_cases.rbd,
    "auto-null": auto_cases.auto_null,
    "auto-memory": auto_cases.auto_memory,
    "auto-file": auto_cases.auto_file,
    "auto-file-direct": auto_cases.auto_file_direct,
    "auto-file-workers": auto_cases.auto_file_workers,
    "many-devices": many_devices,
}
