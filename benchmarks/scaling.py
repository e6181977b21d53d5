"""Time per fine value for results of size 1 to 100, and with one and two workers, threads and processes.

Run from anywhere, with the package's Python:

    python benchmarks/scaling.py [--quick] [--write docs/speed.md] [--plot docs/images/speed_scaling.png]

Results grow in three ways: more maps (5 to 500 of 720 x 1440; from a file to a checked file, and computed only),
larger maps (72 x 144 to 720 x 1440, computed only) and larger factors (x2 to x20, computed only). The script takes
about ten minutes (``--quick``: one). A temporary folder (3 GB; ``--folder`` for another disk) is removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import Cells, Finished, Taken, command_of, machine, process, speed, table, write_section

HERE = Path(__file__).resolve().parent
LARGEST = 100
Curve = list[tuple[int, Taken]]
Curves = dict[tuple[str, str], Curve]


def main() -> int:
    """Print the tables and draw the plot; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to x2, one round, to test the script")
    parser.add_argument("--largest", type=int, help="largest result in units of the smallest (100)")
    parser.add_argument("--rounds", type=int, help="(3)")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--plot", type=Path)
    chosen: Any = parser.parse_args()
    largest, rounds = chosen.largest or (2 if chosen.quick else LARGEST), chosen.rounds or (1 if chosen.quick else 3)
    facts = machine()
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="downscale-scaling-") as name:
        curves = {}
        for setup in ("threads", "processes"):
            for workers in (1, 2):
                curves |= grown(setup, workers, rounds, largest, Path(name))
        commands = whole_commands(Path(name))
    text = page(facts, curves, commands)
    print(text)
    if chosen.plot is not None:
        draw(curves, chosen.plot)
        text = f"{text}\n\n![Nanoseconds per fine value against fine values]({link(chosen.plot, chosen.write)})"
    if chosen.write is not None:
        write_section(chosen.write, "scaling", command_of(), text)
    return 0


def link(plot: Path, page: Path | None) -> str:
    """Return the relative path from a page to a picture."""
    return plot.name if page is None else os.path.relpath(plot, page.parent)


def grown(setup: str, workers: int, rounds: int, largest: int, folder: Path) -> Curves:
    """Return the curves with one set of workers."""
    label = f"{workers} {setup if workers > 1 else setup.removesuffix('es' if setup == 'processes' else 's')}"
    done = process([sys.executable, HERE / "grow.py", setup, str(workers), str(rounds), str(largest), folder])
    if done.fault:
        raise SystemExit(f"grow.py failed with {label}: {done.fault}")
    said = json.loads(done.said.strip().splitlines()[-1])
    print(f"  {label}: {done.seconds:.0f} s", file=sys.stderr, flush=True)
    return {(name, label): [(values, Taken(s)) for values, s in curve] for name, curve in said.items()}


# Label, options of the command, and threads of a process (a cluster sets the threads of its workers).
SETUPS = (
    ("one process, one thread", ("--workers", "1"), 1),
    ("one process, two threads", ("--workers", "1"), 2),
    ("local cluster, one process", ("--cluster", "local", "--workers", "1"), 1),
    ("local cluster, two processes", ("--cluster", "local", "--workers", "2"), 1),
)


def whole_commands(folder: Path) -> list[Cells]:
    """Return the times of the command in blocks, deflated, merged and checked, with one and two workers."""
    apply = [sys.executable, "-m", "downscale", "apply"]
    given, made = max(folder.glob("coarse*.nc"), key=lambda path: path.stat().st_size), folder / "fine.nc"
    lines = []
    for label, chosen, threads in SETUPS:
        line = [*apply, given, made, "--factor", "4", "--complevel", "1", "--overwrite", *chosen]
        lines.append((label, *_said(process(line, DASK_NUM_WORKERS=str(threads)))))
    return lines


def _said(done: Finished) -> Cells:
    if done.fault:
        return "-", "-", f"failed: {done.fault[:80]}"
    return f"{done.seconds:.2f} s", f"{done.peak / 1e6:,.0f} MB", ""


# Tables and plot


def page(facts: str, curves: Curves, commands: list[Cells]) -> str:
    """Return all tables."""
    parts = [facts, growth_table(curves), workers_table(curves)]
    what = "the command on the longest series, deflated, in blocks, merged, once"
    head = (what, "time", "peak of its largest process", "note")
    parts.append(table(head, commands))
    return "\n\n".join(parts)


def growth_table(curves: Curves) -> str:
    """Return the time per value at each size, and the deviation from a fixed time plus a time per value."""
    head = ("what grows", "workers", "fine values", "ns a value, smallest to largest", "line through", "off by at most")
    lines = []
    for (name, label), curve in curves.items():
        costs = " ".join(f"{1e9 * taken.median / values:.2f}" for values, taken in curve)
        fixed, each = line_through(curve)
        off = max(abs(taken.median / (fixed + each * values) - 1) for values, taken in curve)
        extent = f"{curve[0][0]:.2g} to {curve[-1][0]:.2g}"
        lines.append((name, label, extent, costs, f"{fixed:.2f} s + {1e9 * each:.2f} ns", f"{100 * off:.0f} %"))
    return table(head, lines)


def line_through(curve: Curve) -> tuple[float, float]:
    """Return the fixed time and the time per value, by a least-squares fit of relative errors."""
    points = [(values, taken.median, taken.median**-2) for values, taken in curve]
    total = sum(w for _, _, w in points)
    n0, t0 = sum(w * n for n, _, w in points) / total, sum(w * t for _, t, w in points) / total
    each = sum(w * (n - n0) * (t - t0) for n, t, w in points) / sum(w * (n - n0) ** 2 for n, _, w in points)
    return t0 - each * n0, each


def workers_table(curves: Curves) -> str:
    """Return the speed-up with two workers on the largest result."""
    lines = []
    for name, label in curves:
        pair = {"2 threads": "1 thread", "2 processes": "1 process"}.get(label)
        if pair is not None and (name, pair) in curves:
            lines.append((f"{name}, {label}", speed(curves[name, pair][-1][1], curves[name, label][-1][1])))
    return table(("largest result", "times faster than with one"), lines)


def draw(curves: Curves, path: Path) -> None:
    """Plot the time per value against the size of the result, both on logarithmic axes."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for (name, label), curve in curves.items():
        sizes = [values for values, _ in curve]
        style = "--" if label.startswith("1") else "-"
        axes.loglog(sizes, [1e9 * t.median / n for n, t in curve], style, marker="o", ms=3, label=f"{name}, {label}")
    axes.set(xlabel="fine values of the result", ylabel="nanoseconds per fine value")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
