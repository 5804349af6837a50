"""Where a server's CPU time goes: perf's samples of its threads while fio runs."""

import collections
import os
import signal
import subprocess
import tempfile

from load import fio

SAMPLES_A_SECOND = 1999
ROWS = 16


def profile(server, load):
    """The share of each function in the server's CPU time, by (where, name); `where` is "kernel" or
    the file that the function is in. By the clock, so what runs with interrupts off is booked on
    whoever lets them in again."""
    with tempfile.TemporaryDirectory(prefix="perf-") as folder:
        data, control, answer = (f"{folder}/{name}" for name in ("data", "control", "answer"))
        os.mkfifo(control)
        os.mkfifo(answer)
        perf = subprocess.Popen(
            ["perf", "record", "--quiet", "--all-cpus", "--event=cpu-clock", f"--freq={SAMPLES_A_SECOND}",
             "--delay=-1", f"--control=fifo:{control},{answer}", "--output", data],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            # It takes seconds to begin, and longer if there were a load meanwhile.
            with open(control, "w") as commands, open(answer) as answers:
                commands.write("enable\n")
                commands.flush()
                answers.readline()
            fio(server.devices, load)
        finally:
            perf.send_signal(signal.SIGINT)
            _, errors = perf.communicate(timeout=120)  # it writes when it ends
        return shares(data, server.pids, errors)


def shares(data, pids, errors):
    output = subprocess.run(
        ["perf", "report", "--input", data, "--stdio", "--quiet", "--no-children", "--show-nr-samples",
         "--sort=dso,symbol", "--field-separator=|", f"--pid={','.join(map(str, pids))}"], check=True, timeout=300, capture_output=True, text=True)
    samples = collections.Counter()
    for line in output.stdout.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 4 or not fields[1].isdigit():
            continue
        space, name = fields[3][:3], fields[3][4:]  # "[k] function"
        samples["kernel" if space == "[k]" else os.path.basename(fields[2]), name] += int(fields[1])
    total = sum(samples.values())
    if not total:
        raise RuntimeError(f"perf has taken no samples: {errors}{output.stderr}")
    return {function: count / total for function, count in samples.items()}


def table(load, sides):
    """`sides`: (result, its shares), ours and perhaps a rival's. In ns of each I/O, since shares of
    different wholes can't be compared; what differs most comes first."""
    costs = [{function: share * result.median("cpu_ns") for function, share in parts.items()}
             for result, parts in sides]
    for cost in costs:
        cost["", "all in user space"] = sum(ns for (where, _), ns in cost.items() if where not in ("kernel", ""))

    def difference(function):
        values = [cost.get(function, 0) for cost in costs]
        return abs(values[0] - values[1]) if len(values) > 1 else values[0]

    functions = sorted({function for cost in costs for function in cost}, key=difference, reverse=True)
    names = [result.server for result, _ in sides]
    lines = [f"Where the CPU time of an I/O goes, in ns, {load}:", "",
             f"| function | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
    for where, name in functions[:ROWS]:
        values = " | ".join(f"{cost.get((where, name), 0):.0f}" for cost in costs)
        lines.append(f"| {f'{where}: {name}' if where else name} | {values} |")
    return "\n".join(lines)


def profiles(servers, loads, results, claims):
    """A table for each bound on CPU time that is missed."""
    missed = [claim for claim in claims
              if claim.what == "cpu_ns" and (verdict := claim.judge(results)) and "missed" in verdict.says]
    wanted = {(name, claim.load) for claim in missed for name in sides_of(claim)}
    parts = {}
    for server in servers:
        if mine := [load for load in loads if (server.name, load.name) in wanted]:
            with server:
                parts |= {(server.name, load.name): profile(server, load) for load in mine}
    tables = {(claim.load, sides_of(claim)): table(claim.load, [
        (results[name, claim.load], parts[name, claim.load]) for name in sides_of(claim)]) for claim in missed}
    return "\n\n".join(tables.values())


def sides_of(claim):
    return tuple(name for name in (claim.server, getattr(claim, "rival", None)) if name)
