"""Time whole commands from file to file, as processes in turn: downscale, CDO, xarray, xarray-regrid, the disk.

A part of speed.py (standard library only: see measure.py). Each contender starts with no pending writes,
and its output is removed before the next one starts.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from measure import Finished, Taken, Times, process

HERE = Path(__file__).resolve().parent
ROWS, COLUMNS, FACTOR = 180, 360, 4
# The modules that the command has loaded before it starts to compute.
IMPORTS = "import numpy, dask.array, netCDF4, xarray, h5py, numba"


@dataclass(frozen=True)
class Work:
    """One contender: a command line that writes a file or prints its own seconds."""

    line: tuple[str, ...]
    made: Path | None = None
    prints_seconds: bool = False
    program: str = ""

    @property
    def absent(self) -> str:
        """Return the reason if the contender cannot run here."""
        return f"skipped: {self.program} is not installed" if self.program and not shutil.which(self.program) else ""


def contenders(folder: Path, given: Path, fine: Path, peers_python: str) -> dict[str, Work]:
    """Return all commands; ``fine`` is a result without deflate that is kept."""
    new, own = folder / "made.nc", (sys.executable, "-m", "downscale")
    apply = (*own, "apply", str(given), str(new), "--factor", str(FACTOR), "--overwrite", "--complevel")
    grid = folder / "grid.txt"
    grid.write_text(grid_description())

    def cdo(operator: str, *options: str) -> Work:
        line = ("cdo", "-s", "-f", "nc4", *options, f"{operator},{grid}", str(given), str(new))
        return Work(line, new, program="cdo")

    def other(work: str, python: str, source: Path = given, seconds: bool = False) -> Work:
        return Work((python, str(HERE / "others.py"), work, str(source), str(new)), new, seconds)

    return {
        "downscale apply": Work((*apply, "0"), new),
        "cdo remapbil": cdo("remapbil"),
        "cdo remapcon": cdo("remapcon"),
        "xr.interp, to_netcdf": other("interp", sys.executable),
        "xarray-regrid linear, to_netcdf": other("linear", peers_python),
        "xarray-regrid conservative, to_netcdf": other("conservative", peers_python),
        "the bytes alone": other("plain", sys.executable, fine, seconds=True),
        "the bytes alone, until they lie on the disk": other("flushed", sys.executable, fine, seconds=True),
        "downscale apply, deflate 1": Work((*apply, "1"), new),
        "cdo remapbil, deflate 1": cdo("remapbil", "-z", "zip_1"),
        "to_netcdf(zlib=True, complevel=1) alone": other("deflate", sys.executable, fine, seconds=True),
        "downscale check": Work((*own, "check", str(given), str(fine))),
        "downscale apply --dry-run": Work((*apply, "0", "--dry-run")),
        "imports alone": Work((sys.executable, "-c", IMPORTS)),
    }


def grid_description() -> str:
    """Return the fine grid as a CDO grid description."""
    step = 1 / FACTOR
    first = -0.5 + 0.5 * step
    return (
        f"gridtype = lonlat\nxsize = {COLUMNS * FACTOR}\nysize = {ROWS * FACTOR}\nxfirst = {first}\nxinc = {step}\n"
        f"yfirst = {-90 + 0.5 * step}\nyinc = {step}\n"
    )


def prepared(folder: Path, steps: int) -> tuple[Path, Path]:
    """Write the coarse file, and a fine file to time reading and writing."""
    given, fine = folder / "coarse.nc", folder / "fine.nc"
    for line in (
        [sys.executable, HERE / "series.py", given, "tas", str(steps)],
        [sys.executable, "-m", "downscale", "apply", given, fine, "--factor", str(FACTOR), "--complevel", "0"],
    ):
        done = process(line)
        if done.fault:
            raise SystemExit(f"could not prepare the files: {done.fault}")
    return given, fine


def timed(works: dict[str, Work], rounds: int) -> Times:
    """Run all commands in turn; leave failed commands out of later rounds, with the reason."""
    found = {name: Taken(note=work.absent) for name, work in works.items()}
    for turn in range(rounds):
        for name, work in works.items():
            taken = found[name]
            if not taken.note:
                done = _once(work)
                _note(taken, work, done)
                said = done.fault or f"{done.seconds:.2f} s"
                print(f"  round {turn + 1}, {name}: {said}", file=sys.stderr, flush=True)
    return found


def _once(work: Work) -> Finished:
    os.sync()
    try:
        return process(work.line)
    finally:
        if work.made is not None:
            work.made.unlink(missing_ok=True)


def _note(taken: Taken, work: Work, done: Finished) -> None:
    if done.fault:
        word = "skipped" if done.fault.startswith("ModuleNotFoundError") else "failed"
        taken.seconds, taken.note = [], f"{word}: {done.fault[:90]}"
        return
    taken.seconds.append(float(done.said.split()[-1]) if work.prints_seconds else done.seconds)
    taken.peak = max(taken.peak, done.peak)
