"""Time contenders in turn, measure peak memory, describe the machine, and write tables into a page.

Standard library only, so that the parent process stays small: Linux counts the memory of the parent process as the
first peak of a program that it starts.
"""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CORES = len(os.sched_getaffinity(0))
PACKAGES = ("numpy", "numba", "torch", "xarray", "dask", "netCDF4", "h5py", "isal")
PREFACE = """# Speed, growth and memory

Compare the speed and memory of `downscale` with other tools. The script named above each table printed it, in one run
on one machine. Contenders were timed in turn, round by round, so that a slow period affects all equally. A ratio is
that of the medians, followed by its lowest and highest value in a single round.
"""
Cells = Sequence[str]


@dataclass
class Finished:
    """A finished process: wall time, largest resident memory, output, and the error if it failed."""

    seconds: float
    peak: int
    said: str
    fault: str = ""


@dataclass
class Taken:
    """The times of one contender; without seconds it was skipped, for the reason in ``note``."""

    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


Times = dict[str, Taken]


def in_turn(contenders: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Time calls, each once per round, after an untimed round that compiles and fills caches."""
    found = {name: Taken() for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            begin = time.perf_counter()
            kept = call()
            taken = time.perf_counter() - begin
            # Freeing memory is not timed.
            del kept
            if turn:
                found[name].seconds.append(taken)
    return found


def environment() -> dict[str, str]:
    """Return an environment in which Python finds the package of this checkout, installed or not."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def process(line: Sequence[str | Path], **variables: str) -> Finished:
    """Run a program to its end, with additional environment variables."""
    words, pipe = [str(word) for word in line], subprocess.PIPE
    begin = time.perf_counter()
    with subprocess.Popen(words, stdout=pipe, stderr=subprocess.STDOUT, env=environment() | variables) as running:
        assert running.stdout is not None
        said = running.stdout.read().decode(errors="replace")
        _, status, usage = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    last = (said.strip().splitlines() or [f"exit status {running.returncode}"])[-1]
    return Finished(seconds, usage.ru_maxrss * 1024, said, last if running.returncode else "")


# What a page says


def speed(slow: Taken, fast: Taken) -> str:
    """Return the speed-up of the second over the first: of medians, and the range over rounds."""
    if not slow.seconds or not fast.seconds:
        return "-"
    each = [a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)]
    return f"{slow.median / fast.median:.2f} ({min(each):.2f} to {max(each):.2f})"


def verdict(found: str, least: float | None = None, most: float | None = None) -> Cells:
    """Return a ratio with its budget and whether it is within the budget."""
    wanted = f">= {least:g}" if least is not None else f"<= {most:g}" if most is not None else "-"
    if found == "-" or wanted == "-":
        return found, wanted, "-"
    value = float(found.split()[0])
    kept = value >= least if least is not None else value <= (most or 0.0)
    return found, wanted, "yes" if kept else "NO"


def time_cells(taken: Taken) -> Cells:
    """Return the median, the range and the peak memory of a contender."""
    if not taken.seconds:
        return "-", "-", "-", taken.note
    peak = f"{taken.peak / 1e6:,.0f} MB" if taken.peak else "-"
    return _seconds(taken.median), f"{_seconds(min(taken.seconds))} to {_seconds(max(taken.seconds))}", peak, taken.note


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def table(head: Cells, lines: Iterable[Cells]) -> str:
    """Return a Markdown table with columns of even width."""
    rows = [list(head), *map(list, lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("| " + " | ".join(row).rstrip() + " |" for row in padded)


def machine() -> str:
    """Return lines with the machine and the versions of its software."""
    memory = _first(Path("/proc/meminfo"), "MemTotal").split()
    size = f"{int(memory[0]) / 1e6:.0f} GB" if memory else "unknown"
    model = _first(Path("/proc/cpuinfo"), "model name") or platform.machine()
    load = os.getloadavg()[0]
    found = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in PACKAGES), _cdo()]
    return (
        f"Machine: {model}, {CORES} cores, {size} of memory, {platform.system()} {platform.release()}; "
        f"load at the start {load:.1f}.\n{', '.join(found)}."
    )


def _first(path: Path, key: str) -> str:
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _cdo() -> str:
    program = shutil.which("cdo")
    if program is None:
        return "no cdo"
    # It prints its version to the standard error.
    return "cdo " + process([program, "--version"]).said.split("version", 1)[-1].split()[0]


def write_section(page: Path, name: str, command: str, text: str) -> None:
    """Write a text into its section of a page; keep the other sections."""
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = page.read_text() if page.exists() else PREFACE
    section = f"{first}\n\n`{command}`\n\n{text.strip()}\n\n{last}\n"
    if first in whole:
        before, rest = whole.split(first, 1)
        whole = before + section + rest.split(last, 1)[1].lstrip("\n")
    else:
        whole = f"{whole.rstrip()}\n\n{section}"
    # Sections are separated by a blank line.
    page.write_text(whole.replace(f"{last}\n<!--", f"{last}\n\n<!--"))


def command_of(arguments: Sequence[str] | None = None) -> str:
    """Return the command that runs this script, without options specific to this machine."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    for key in ("--write", "--peers-python", "--folder", "--plot"):
        if key in words:
            del words[words.index(key) : words.index(key) + 2]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
