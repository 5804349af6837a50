"""Pictures of results, by gnuplot."""

import statistics
import subprocess

COLOURS = ("#1f5fa8", "#d2691e", "#2e8b57", "#8b3a8b", "#b8860b", "#708090", "#c04040", "#4682b4",
           "#6b8e23", "#a0522d", "#5f5f9f")
FIGURES = (("cpu_ns", "server CPU ns per I/O"), ("iops", "IOPS"))


def _quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _point(result, what):
    """The median and the extremes."""
    values = [sample[what] for sample in result["samples"]]
    return statistics.median(values), min(values), max(values)


def _gnuplot(path, title, commands, columns=2):
    script = [f"set terminal pngcairo size {750 * columns},560 font 'Sans,11' noenhanced",
              f"set output {_quoted(str(path))}",
              f"set multiplot layout 1,{columns} title {_quoted(title)}",
              "set grid y", "set yrange [0:*]", "set key top left reverse Left", *commands, "unset multiplot"]
    subprocess.run(["gnuplot"], input="\n".join(script) + "\n", text=True, check=True, timeout=60)


def lines(path, title, axis, results):
    """A line for each series along the axis: cost and I/Os per second."""
    series = {}
    for result in results:
        series.setdefault(result["series"], []).append(result)
    commands = [f"set xlabel {_quoted(axis)}", "set logscale x 2", "set offsets graph 0.05, graph 0.05, 0, 0"]
    for what, label in FIGURES:
        commands.append(f"set ylabel {_quoted(label)}")
        for number, (name, points) in enumerate(series.items()):
            commands.append(f"$data{number} << END")
            for result in sorted(points, key=lambda result: result["x"]):
                commands.append(" ".join(map(str, (result["x"], *_point(result, what)))))
            commands.append("END")
        commands.append("plot " + ", ".join(
            f"$data{number} using 1:2:3:4 with yerrorlines lw 2 pt 7 lc rgb '{COLOURS[number % len(COLOURS)]}' "
            f"title {_quoted(name)}" for number, name in enumerate(series)))
    _gnuplot(path, title, commands)


def bars(path, title, results):
    """A bar for each server, in groups by load: cost and I/Os per second."""
    loads = list(dict.fromkeys(result["load"] for result in results))
    servers = list(dict.fromkeys(result["server"] for result in results))
    width = 0.8 / len(servers)
    ticks = ", ".join(f"{_quoted(load)} {number}" for number, load in enumerate(loads))
    commands = ["set style fill solid 0.85 border -1", f"set boxwidth {width}", f"set xtics ({ticks})",
                f"set xrange [-0.6:{len(loads) - 0.4}]", "set key outside bottom center vertical maxrows 6"]
    for what, label in FIGURES:
        commands.append(f"set ylabel {_quoted(label)}")
        for number, server in enumerate(servers):
            commands.append(f"$data{number} << END")
            for result in results:
                if result["server"] == server:
                    x = loads.index(result["load"]) - 0.4 + (number + 0.5) * width
                    commands.append(" ".join(map(str, (x, *_point(result, what)))))
            commands.append("END")
        plots = []
        for number, server in enumerate(servers):
            plots += [f"$data{number} using 1:2 with boxes lc rgb '{COLOURS[number % len(COLOURS)]}' "
                      f"title {_quoted(server)}",
                      f"$data{number} using 1:2:3:4 with yerrorbars ps 0 lc rgb 'black' notitle"]
        commands.append("plot " + ", ".join(plots))
    _gnuplot(path, title, commands)


def plot_case(path, name, case):
    """False: there is nothing to be drawn."""
    if not case.get("results"):
        return False
    if case["axis"]:
        lines(path, name, case["axis"], case["results"])
    else:
        bars(path, name, case["results"])
    return True
