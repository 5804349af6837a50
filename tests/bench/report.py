#!/usr/bin/env python3
"""Makes the report of one or more results.json: Markdown, and a PNG a case.

  report.py [--report FILE] RESULTS.json...

report.md and CASE.png lie beside the first of them. Cases of several are put together; the later
one wins. With --report the Markdown is written there, too, without the pictures.
"""

import argparse
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from plots import plot_case  # noqa: E402

INTRODUCTION = """\
Written by `tests/bench/run --report`. "CPU" is the CPU time of the server's processes, all their
threads, for each I/O; what a kernel driver does for others is not counted. "Spread" is half the
distance between the extremes of the rounds. A difference below it is no result. The share of user
space is by the kernel's ticks."""

COUNTED = """\
Written by `tests/bench/run --profile --report`: no times, but the instructions that the server's CPU
executes for each I/O, counted by a plugin of QEMU's."""


def machine_text(results):
    machine = results["machine"]
    lines = [f"- commit {results['commit']}", f"- Linux {machine['kernel']}, {machine['cpus']} CPUs: {machine['cpu']}"]
    if machine["emulated"]:
        lines.append(f"- emulated on {machine['host_cpu']}: only ratios within a case mean something")
    if "others" in machine:
        lines.append(f"- others had {machine['others']:.1f} of the machine's CPUs meanwhile")
    if results.get("profile"):
        return "\n".join(lines)
    if results["quick"]:
        lines.append("- a quick look: the figures mean nothing")
    else:
        lines.append(f"- {results['rounds']} rounds of {results['seconds']} s for each load, all servers of a case "
                     "in one boot")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", type=Path)
    parser.add_argument("results", type=Path, nargs="+")
    arguments = parser.parse_args()

    cases, machines, introduction = {}, [], INTRODUCTION
    for path in arguments.results:
        results = json.loads(path.read_text())
        if results.get("profile"):
            introduction = COUNTED
        if "machine" in results and (text := machine_text(results)) not in machines:
            machines.append(text)
        cases.update(results["cases"])

    folder = arguments.results[0].parent
    head = "\n\n".join(["# Results of tests/bench", introduction, *machines])
    plain, illustrated = [head], [head]
    for name, case in cases.items():
        section = "\n\n".join(filter(None, (f"## {name}", case["title"], case["text"])))
        plain.append(section)
        picture = f"\n\n![{name}]({name}.png)" if plot_case(folder / f"{name}.png", name, case) else ""
        illustrated.append(section + picture)
    (folder / "report.md").write_text("\n\n".join(illustrated) + "\n")
    if arguments.report:
        arguments.report.write_text("\n\n".join(plain) + "\n")
    print(f"{folder}: results.json, report.md and a PNG a case", file=sys.stderr)


main()
