"""Measure every speed budget in one run: arithmetic and memory copies; whole commands, CDO, xarray and the disk.

Run from anywhere, with the package's Python:

    python benchmarks/speed.py [--quick] [--write docs/speed.md] [--peers-python PYTHON]

The script takes a quarter of an hour (``--quick``: a minute, on few maps, without meaningful ratios). Programs that are
not installed are left out with a note: CDO is the Debian package cdo, xarray-regrid is on PyPI and runs in the Python
of ``--peers-python``. A temporary folder (6 GB; ``--folder`` for another disk) is removed at the end. Exit
status 1 if a command of this package fails.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands import contenders, prepared, timed
from measure import (
    Cells,
    Taken,
    Times,
    command_of,
    machine,
    process,
    speed,
    table,
    time_cells,
    verdict,
    write_section,
)

HERE = Path(__file__).resolve().parent
BUDGET_HEAD = ("what", "measured", "budget", "kept")
TIME_HEAD = ("contender", "median", "range", "peak memory", "note")
NOTES = """Commands of `downscale` also wait until the file is on the disk, read it back and check every coarse cell;
the others do not. Linear interpolation of xarray and xarray-regrid runs in Dask chunks of 24 maps, conservative
regridding on all maps at once: each in its faster mode. `F.interpolate` and the operator write into reused memory, and
`ds.downscale` into that of the result before the latest. Without an earlier result it uses fresh memory, which the
package returns to the system with the last result, and takes two thirds as long again; clone and copy always do.
`F.conv_transpose2d` has the 28 x 28 kernel of the middle row, and equals the operator there. Peak memory is that of a
whole process; for contenders marked "alone", only that part is timed."""


def main() -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few maps, one round, to test the script")
    parser.add_argument("--maps", type=int, help="maps in memory (48)")
    parser.add_argument("--steps", type=int, help="maps in files (480)")
    parser.add_argument("--rounds", type=int, help="rounds of whole commands (3); three times as many in memory")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument("--write", type=Path)
    chosen: Any = parser.parse_args()
    maps, steps = chosen.maps or (4 if chosen.quick else 48), chosen.steps or (4 if chosen.quick else 480)
    rounds = chosen.rounds or (1 if chosen.quick else 3)
    facts = machine()
    kernels, source, peak = arithmetic(maps, 3 * rounds)
    with tempfile.TemporaryDirectory(dir=chosen.folder, prefix="downscale-speed-") as name:
        given, fine = prepared(Path(name), steps)
        size = fine.stat().st_size
        files = timed(contenders(Path(name), given, fine, chosen.peers_python), rounds)
    text = page(facts, kernels, files, f"{maps} maps", f"{steps} maps ({size / 1e9:.2f} GB)", source, peak)
    print(text)
    if chosen.write is not None:
        write_section(chosen.write, "speed", command_of(), text)
    broken = [name for name, taken in files.items() if name.startswith("downscale ") and taken.note]
    for name in broken:
        print(f"{name}: {files[name].note}", file=sys.stderr)
    return 1 if broken else 0


def arithmetic(maps: int, rounds: int) -> tuple[dict[str, Times], str, int]:
    """Return the times of kernels.py, the source of its maps, and its peak memory."""
    done = process([sys.executable, HERE / "kernels.py", str(maps), str(rounds)])
    if done.fault:
        raise SystemExit(f"kernels.py failed: {done.fault}")
    said = json.loads(done.said.strip().splitlines()[-1])
    groups = {
        group: {name: Taken(seconds, note=_rate(said["bytes"], name, seconds)) for name, seconds in each.items()}
        for group, each in said["times"].items()
    }
    return groups, said["source"], done.peak


def _rate(size: int, name: str, seconds: list[float]) -> str:
    return "" if "one map" in name else f"{size / Taken(seconds).median / 1e9:.2f} GB/s written"


def page(facts: str, kernels: dict[str, Times], files: Times, in_memory: str, in_files: str, source: str,
         peak: int) -> str:  # fmt: skip
    """Return all tables."""
    grids = "180 x 360 to 720 x 1440, float32, 7 taps"
    parts = [facts, table(BUDGET_HEAD, [*kernel_budgets(kernels), *file_budgets(files)]), NOTES]
    titles = {
        "operator": f"Into reused memory: {in_memory}, {grids} ({source})",
        "engine": "The same with constraint, check and bounds; lazy: with Dask threads, results discarded",
        "accessor": "From arrays to arrays",
    }
    parts += [f"### {titles[group]}\n\n{times(each)}" for group, each in kernels.items()]
    parts.append(f"Peak memory of this process: {peak / 1e6:,.0f} MB.")
    parts.append(f"### NetCDF to NetCDF: {in_files}, {grids}\n\n{times(files)}")
    return "\n\n".join(parts)


def times(found: Times) -> str:
    """Return the times of each contender."""
    return table(TIME_HEAD, [(name, *time_cells(taken)) for name, taken in found.items()])


def kernel_budgets(kernels: dict[str, Times]) -> Iterator[Cells]:
    """Yield the ratios of the arithmetic."""
    each, engine, call = kernels["operator"], kernels["engine"], kernels["accessor"]
    ours, copies = each["operator"], [taken for name, taken in each.items() if name.startswith("copy")]
    copy = min(copies, key=lambda taken: taken.median)
    yield "operator: speed to copying its output", *verdict(speed(copy, ours), least=0.8)
    yield "operator: times faster than F.conv_transpose2d", *verdict(speed(each["F.conv_transpose2d"], ours), least=50)
    for name in ("bicubic", "bilinear"):
        yield f"operator: times faster than F.interpolate {name}", *verdict(speed(each[f"F.interpolate {name}"], ours))
    law, rain, bounded = (engine[n] for n in ("law and check", "rain, law and check", "rain, law, check and bounds"))
    yield "law and check: time to that of the operator", *verdict(speed(law, engine["operator"]))
    projection = Taken([a - b for a, b in zip(bounded.seconds, rain.seconds, strict=True)])
    yield "bounds on rain: time they add to that of the operator", *verdict(
        speed(projection, engine["rain, operator"]), most=2
    )
    yield "bounds on rain: time they add to that without", *verdict(speed(projection, rain))
    clone = call["torch.clone of the result"]
    yield "ds.downscale: speed to torch.clone of its result", *verdict(speed(clone, call["ds.downscale(4)"]), least=0.7)


def file_budgets(files: Times) -> Iterator[Cells]:
    """Yield the ratios of whole commands."""
    ours, deflated = files["downscale apply"], files["downscale apply, deflate 1"]
    budgets = {"cdo remapbil": 0.5, "cdo remapcon": 0.5, "xr.interp, to_netcdf": None}
    budgets |= {name: 0.3 for name in files if name.startswith("xarray-regrid")}
    for name, most in budgets.items():
        yield f"command: time to {name}", *verdict(speed(ours, files[name]), most=most)
    for name in (name for name in files if name.startswith("the bytes")):
        yield f"command: time to {name}", *verdict(speed(ours, files[name]))
    zlib = files["to_netcdf(zlib=True, complevel=1) alone"]
    yield "command, deflate 1: times faster than to_netcdf(zlib) alone", *verdict(speed(zlib, deflated), least=4)
    name = "cdo remapbil, deflate 1"
    yield f"command, deflate 1: time to {name}", *verdict(speed(deflated, files[name]))


if __name__ == "__main__":
    sys.exit(main())
