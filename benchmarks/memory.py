"""Resident memory over time of one long command, compared with its plan.

Run from anywhere, with the package's Python:

    python benchmarks/memory.py [--gigabytes 20] [--max-memory 2GB]
        [--write docs/speed.md] [--plot docs/images/memory.png]
    python benchmarks/memory.py --maps [--write docs/speed.md]

A series of 180 x 360 maps is downscaled to 720 x 1440, from NetCDF to NetCDF without deflate. The resident memory of
the command and of its children is read ten times per second. Without ``--gigabytes`` the result has 4 GB.
``--maps`` measures runs of many kinds instead, each compared with its plan: many small maps, a large one, orography
and a mask, curvilinear cells, projections, a target that does not nest, blocks of time, a report.
The temporary folder (the result and a sixteenth of it; ``--folder`` for another disk) is removed. Exit status 1 if
the command failed or exceeded the limit.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import psutil
from measure import command_of, environment, machine, process, table, write_section
from scaling import link

HERE = Path(__file__).resolve().parent
FINE_BYTES = 720 * 1440 * 4
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
SECONDS = 0.1
RELIEF = ("--orog", "FOLDER/relief.nc", "--lapse-rate", "-0.0065")
# Inputs and options of the runs of many kinds.
KINDS = {
    "480 maps of 180 x 360, x4": ("many", "--factor", "4"),
    "480 maps of 180 x 360, x4, limit 1 GB": ("many", "--factor", "4", "--max-memory", "1GB"),
    "480 maps of 180 x 360, x4, four blocks": ("many", "--factor", "4", "--blocks", "120"),
    "one map of 3500 x 7000, x2": ("large", "--factor", "2"),
    "one map of 3500 x 7000, x2, limit 1 GB": ("large", "--factor", "2", "--max-memory", "1GB"),
    "two maps of 1500 x 3000, x2": ("middle", "--factor", "2"),
    "the same with a mask": ("middle", "--factor", "2", "--mask", "FOLDER/mask.nc"),
    "the same with orography and a mask": ("middle", "--factor", "2", *RELIEF, "--mask", "FOLDER/mask.nc"),
    "6 curvilinear maps of 600 x 800, x4": ("curvilinear", "--factor", "4"),
    "two conformal maps of 1200 x 1500, x3": ("conformal", "--factor", "3"),
    "8 maps of 720 x 1440 to 0.1 degrees": ("quarter", "--target", "0.1x0.1"),
}


@dataclass
class Watched:
    """The measurements of a process: seconds since its start, resident bytes, bytes of its output file."""

    seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    fault: str = ""


def main() -> int:
    """Print the measurements; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a result of 0.1 GB, to test the script")
    parser.add_argument("--maps", action="store_true", help="runs of many kinds, each compared with its plan")
    parser.add_argument("--gigabytes", type=float, help="size of the result (4)")
    parser.add_argument("--max-memory", default="2GB", help="memory limit of the command (2GB)")
    parser.add_argument("--complevel", default="0", help="deflate level (0)")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--plot", type=Path)
    chosen: Any = parser.parse_args()
    if chosen.maps:
        return kinds(chosen.folder, chosen.write, 0.25 if chosen.quick else 1.0)
    steps = max(round(1e9 * (chosen.gigabytes or (0.1 if chosen.quick else 4)) / FINE_BYTES), 1)
    limit, facts = bytes_of(chosen.max_memory), machine()
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="downscale-memory-") as name:
        line, notes = command(Path(name), chosen.max_memory, chosen.complevel)
        made = process([sys.executable, HERE / "series.py", line[4], "tas", str(steps)])
        plan = process([*line, "--dry-run"])
        if made.fault or plan.fault:
            print(f"could not begin: {made.fault or plan.fault}", file=sys.stderr)
            return 1
        seen = watched(line, Path(name))
    if seen.fault:
        print(f"the command failed: {seen.fault}", file=sys.stderr)
        return 1
    text = page(facts, seen, planned(plan.said), limit, steps * FINE_BYTES, notes)
    print(text)
    if chosen.plot is not None:
        draw(seen, limit, chosen.plot)
        text = f"{text}\n\n![Resident memory over time]({link(chosen.plot, chosen.write)})"
    if chosen.write is not None:
        write_section(chosen.write, "memory", command_of(), text)
    # A command without a limit cannot exceed one.
    return 1 if not notes and max(seen.resident) > limit else 0


def kinds(folder: Path | None, page: Path | None, scale: float) -> int:
    """Print plan and peak of runs of many kinds; return the exit status."""
    # Imported in a child process, so that the parent stays small.
    code = "import sys; sys.path.insert(0, sys.argv[1]); import memory_maps; memory_maps.write(*sys.argv[2:])"
    lines, facts = [], machine()
    with tempfile.TemporaryDirectory(dir=folder, prefix="downscale-memory-") as name:
        made = process([sys.executable, "-c", code, HERE, name, str(scale)])
        if made.fault:
            print(f"could not begin: {made.fault}", file=sys.stderr)
            return 1
        for kind, (given, *options) in KINDS.items():
            files = [option.replace("FOLDER", name) for option in options]
            line = [sys.executable, "-m", "downscale", "apply", f"{name}/{given}.nc", f"{name}/fine.nc", "--overwrite"]
            plan = planned(process([*line, *files, "--dry-run"]).said)
            seen = watched([*line, *files], Path(name))
            if seen.fault:
                lines.append((kind, _mega(plan), seen.fault, "-"))
                continue
            most = max(seen.resident)
            lines.append((kind, _mega(plan), _mega(most), f"{plan / most:.2f}"))
    text = f"{facts}\n\n{table(('run', 'plan', 'measured', 'plan / measured'), lines)}"
    print(text)
    if page is not None:
        write_section(page, "memory of many kinds of runs", command_of(), text)
    return int(any(cells[-1] == "-" for cells in lines))


def command(folder: Path, limit: str, complevel: str) -> tuple[list[str], str]:
    """Return the command to measure, and a note if it accepts no limit."""
    line = [sys.executable, "-m", "downscale", "apply", str(folder / "coarse.nc"), str(folder / "fine.nc")]
    options = process([*line[:4], "--help"]).said
    known = "--max-memory" in options
    line += ["--factor", "4", "--complevel", complevel, *(["--max-memory", limit] if known else [])]
    return line, "" if known else "the command has no --max-memory: it ran without a limit"


def watched(line: Sequence[str], folder: Path) -> Watched:
    """Run a command and measure its memory until it ends."""
    seen, begin = Watched(), time.perf_counter()
    before = {path: path.stat().st_size for path in folder.iterdir()}
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(line, stdout=said, stderr=subprocess.STDOUT, env=environment()) as running:
            root = psutil.Process(running.pid)
            while running.poll() is None:
                now = resident(root)
                if not now:
                    # The process has just ended.
                    break
                seen.resident.append(now)
                seen.seconds.append(time.perf_counter() - begin)
                seen.written.append(_new_bytes(folder, before))
                time.sleep(SECONDS)
        if running.returncode:
            said.seek(0)
            seen.fault = (said.read().decode(errors="replace").strip().splitlines() or ["no word"])[-1]
    return seen


def resident(root: psutil.Process) -> int:
    """Return the resident memory of a process and of its children."""
    total = 0
    try:
        for one in [root, *root.children(recursive=True)]:
            total += one.memory_info().rss
    except psutil.Error:
        # A child has just ended.
        pass
    return total


def _new_bytes(folder: Path, before: dict[Path, int]) -> int:
    total = 0
    for path in folder.iterdir():
        if path not in before:
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                # The file was renamed meanwhile.
                pass
    return total


def planned(said: str) -> float:
    """Return the peak memory of a plan in bytes, NaN without one."""
    found = re.search(r"peak memory\W+about ([0-9.e+]+ [A-Za-z]+)", said)
    return bytes_of(found.group(1)) if found else float("nan")


def bytes_of(size: str) -> float:
    """Return a size such as "2GB" as a number of bytes."""
    found = re.fullmatch(r"([0-9.e+]+)\s*([A-Za-z]*)", size.strip())
    if found is None or (found.group(2) or "B") not in UNITS:
        raise SystemExit(f"expected a size such as 2GB, received {size!r}")
    return float(found.group(1)) * UNITS[found.group(2) or "B"]


def growth(seen: Watched) -> float:
    """Return the growth of resident memory while the middle of the file is written, bytes per byte."""
    last = max(seen.written)
    points = [(w, r) for w, r in zip(seen.written, seen.resident, strict=True) if 0.25 * last <= w <= 0.95 * last]
    if len({w for w, _ in points}) < 2:
        return float("nan")
    mean_w, mean_r = (sum(each) / len(points) for each in zip(*points, strict=True))
    return sum((w - mean_w) * (r - mean_r) for w, r in points) / sum((w - mean_w) ** 2 for w, _ in points)


def page(facts: str, seen: Watched, plan: float, limit: float, size: int, note: str) -> str:
    """Return the measurements as a table."""
    most, slope = max(seen.resident), growth(seen)
    lines = [
        ("result", f"{size / 1e9:.2f} GB in {seen.seconds[-1]:.0f} s"),
        ("limit", note or _mega(limit)),
        ("largest resident memory", f"{_mega(most)}, {'within' if most <= limit else 'BEYOND'} {_mega(limit)}"),
        ("the plan's peak", f"{_mega(plan)} ({plan / max(most, 1):.2f} of what was)"),
        ("growth along the file, 25 to 95 % of it", "-" if isnan(slope) else f"{1e3 * slope:.1f} MB per GB written"),
    ]
    return f"{facts}\n\n{table(('what', 'seen'), lines)}"


def _mega(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


def draw(seen: Watched, limit: float, path: Path) -> None:
    """Plot resident memory over time."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(seen.seconds, [r / 1e9 for r in seen.resident], lw=1.2, label="resident memory")
    axes.axhline(limit / 1e9, color="firebrick", ls="--", lw=1, label="limit")
    axes.set(xlabel="seconds", ylabel="GB", ylim=(0, 1.1 * max(limit, max(seen.resident)) / 1e9))
    beside = axes.twinx()
    beside.plot(seen.seconds, [w / 1e9 for w in seen.written], color="gray", lw=1)
    beside.set_ylabel("GB written (gray)")
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
