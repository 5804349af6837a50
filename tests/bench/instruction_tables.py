#!/usr/bin/env python3
"""Makes the tables of instruction_counts.py's figures, from what QEMU's plugin has written.

  instruction_tables.py RESULTS.json FOLDER      puts them into RESULTS.json

FOLDER is the plugin's; the guest's kallsyms lie beside RESULTS.json.
"""

import bisect
import collections
import json
import sys
from pathlib import Path

ROWS = 14
USER, COPY = "user space", "copies of data"
# Each step of a string instruction counts as one, and a copy of 4096 bytes as 4096: a real CPU does
# it in some 64 cycles.
COPIES = ("rep_movs_alternative", "rep_stos_alternative", "copy_user_generic", "memcpy", "memset", "clear_page_rep")
EXPLANATION = (
    "Instructions for each I/O on the server's CPU, all processes and interrupts there, counted, not "
    "sampled: of one run, whose turns and batches differ a little from the next one's. A step of a "
    "string instruction counts as one.")


class Kernel:
    def __init__(self, kallsyms):
        symbols = []
        for line in kallsyms.read_text().splitlines():
            address, kind, name = line.split()[:3]
            if kind in "tTwW":
                symbols.append((int(address, 16), name))
        symbols.sort()
        self.addresses = [address for address, _ in symbols]
        self.names = [name for _, name in symbols]

    def function(self, address):
        if address < 1 << 63:
            return USER
        name = self.names[max(0, bisect.bisect(self.addresses, address) - 1)]
        return COPY if name in COPIES else name.split(".")[0]


def per_io(side, folder, kernel):
    """Instructions of each function."""
    counts = collections.Counter()
    for line in (folder / str(side["number"])).read_text().splitlines():
        address, instructions, *runs = line.split()
        counts[kernel.function(int(address, 16))] += int(instructions) * int(runs[side["cpu"]])
    return collections.Counter({function: count / side["ios"] for function, count in counts.items()})


def table(figure, folder, kernel):
    """First the whole, then what differs most."""
    sides = figure["sides"]
    counts = [per_io(side, folder, kernel) for side in sides]
    totals = [sum(count.values()) for count in counts]
    kernels = [total - count[USER] - count[COPY] for total, count in zip(totals, counts)]
    rows = [("all", totals), *((what, [count[what] for count in counts]) for what in (USER, COPY)),
            ("the rest of the kernel", kernels)]
    others = sorted({f for count in counts for f in count} - {USER, COPY},
                    key=lambda f: -abs(counts[0][f] - counts[1][f]))
    rows += [(f"`{function}`", [count[function] for count in counts]) for function in others[:ROWS]]
    ratio = (kernels[0] + counts[0][USER]) / (kernels[1] + counts[1][USER])
    lines = [f"{figure['load']}, {totals[0] / totals[1]:.2f} x in all, {ratio:.2f} x without the copies:", "",
             f"| | {sides[0]['server']} | {sides[1]['server']} |", "|---|--:|--:|"]
    lines += [f"| {what} | {values[0]:.0f} | {values[1]:.0f} |" for what, values in rows]
    return "\n".join(lines)


def main():
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    results = json.loads(path.read_text())
    kernel = Kernel(path.parent / "kallsyms")
    for case in results["cases"].values():
        if case["figures"]:
            case["text"] = "\n\n".join([EXPLANATION, *(table(figure, folder, kernel) for figure in case["figures"])])
            print(case["text"])
    path.write_text(json.dumps(results, indent=1))


main()
