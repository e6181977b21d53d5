"""Every real file through the whole program: written, judged in the file, by CDO and by the compliance checker.

For each file of the data folder its first fields are downscaled by ``sobolev`` x2 and x4 and written with
``downscale.to_netcdf``. The table shows the largest relative error of a coarse cell found in the written file, the
largest relative difference between the coarse field and what ``cdo remapcon`` makes of the written file (relative to
the largest coarse value where the field has zeros or changes sign), and what compliance-checker says (cf:1.11).

Run from the root of the repository, with the package, cdo and compliance-checker installed:

    python benchmarks/real_files.py [--data DIR] [--factors 2 4] [--only PATTERN] [--write docs/real_files.md]

The data folder may also be named by DOWNSCALE_TEST_DATA; by default it is ../shared/data beside the repository.
Exit status 1 where a file fails, 2 where there is no data folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

import downscale
from downscale.cf.horizontal import horizontal, horizontal_variables, is_categorical
from downscale.errors import DownscaleError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# Larger grids are cut to their middle: the referee takes minutes for a million cells with corners.
MOST_CELLS = 70_000
# CF asks for azimuth_of_central_line, the checker for "azimuth"; and CF has no name for oblique stereographic axes.
KNOWN = ("azimuth is a required attribute for grid mapping oblique_mercator", "None is not a valid grid_mapping_name")
PREFACE = """# What became of real files

Each file's first fields (two steps), downscaled by `sobolev` and written by `downscale.to_netcdf`; grids of more than
70 000 cells are cut to their middle. Printed by `python benchmarks/real_files.py`.

- *cell error in the file*: largest relative error of a coarse cell, found in the file as written (float32: half a
  unit in the last place is 6e-8; float64: 1e-16).
- *cdo remapcon*: largest relative difference between the coarse field and CDO's mean of the written file, to the
  largest coarse value where a field has zeros or changes sign. CDO takes the sides of rotated and projected cells for
  great circles, which they are not; that is its 1e-7 to 1e-5 there, and its *gaps filled* are missing cells that get
  a sliver of a neighbour.
- *cf:1.11*: compliance-checker; a *note* is a recommendation (units_metadata of temperatures and times). (*) The
  checker asks oblique Mercator for an attribute "azimuth" where CF has azimuth_of_central_line, and CF has no name
  for oblique stereographic.
"""
HEAD = ("file", "variables", "grid", "coarse cells", "factor", "cell error in the file", "cdo remapcon", "cf:1.11")


@dataclass
class Row:
    """One line of the table."""

    file: str
    variables: str
    grid: str
    cells: str
    factor: str
    error: str = "-"
    cdo: str = "-"
    checker: str = "-"
    passed: bool = True

    def columns(self) -> tuple[str, ...]:
        """Return what is printed."""
        return self.file, self.variables, self.grid, self.cells, self.factor, self.error, self.cdo, self.checker


def coarse_field(path: Path) -> xr.Dataset:
    """Return two steps of the first two fields of a file, cut to its middle where the grid is large."""
    ds = downscale.open_dataset(path, chunks=None)
    where = horizontal(ds)
    names = [n for n in horizontal_variables(ds, where) if not is_categorical(ds[n])][:2]
    codes = [n for n in horizontal_variables(ds, where) if is_categorical(ds[n])][:1]
    ds = ds.drop_vars([n for n in ds.data_vars if n not in (names or codes)])
    used = {d for v in ds.data_vars.values() for d in v.dims}
    # The referee knows two other dimensions, time and level.
    others = [d for d in ds.dims if d in used and d not in where.dims]
    known = {d: slice(0, 2) if d == "time" else slice(0, 1) for d in others if d in ("time", *others[-1:])}
    ds = ds.isel(known).isel({d: 0 for d in others if d not in known}, drop=True)
    rows, columns = where.grid.shape
    if rows * columns > MOST_CELLS:
        side = int(MOST_CELLS**0.5)
        closed = where.grid.x.periodic
        # A closed circle stays one; a band of it is enough.
        sizes = (min(rows, MOST_CELLS // columns), columns) if closed else (min(rows, side), min(columns, side))
        first = [(whole - part) // 2 for whole, part in zip(where.grid.shape, sizes, strict=True)]
        ds = ds.isel({d: slice(a, a + part) for d, a, part in zip(where.dims, first, sizes, strict=True)})
    return ds.load()


def referee(folder: Path, coarse: xr.Dataset, name: str) -> str:
    """Return the largest difference between the coarse field and CDO's mean of the written file."""
    if shutil.which("cdo") is None:
        return "no cdo"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A selection by name would lose the bounds of the axes.
        alone = coarse.drop_vars([n for n in coarse.data_vars if n != name]).astype("f8")
        same = alone.downscale(1, method="conservative", bounds=None)
        downscale.to_netcdf(same, folder / "all.nc")
        subprocess.run(["cdo", "-s", f"selname,{name}", folder / "all.nc", folder / "same.nc"], capture_output=True)
    line = ["cdo", "-L", "-s", "-b", "F64", f"remapcon,{folder / 'same.nc'}", f"-selname,{name}", folder / "fine.nc"]
    done = subprocess.run([*map(str, line), str(folder / "back.nc")], capture_output=True, text=True, errors="replace")
    if done.returncode:
        return "refused: " + done.stderr.strip().splitlines()[-1][:60]
    with netCDF4.Dataset(folder / "back.nc") as file:
        back = np.ma.filled(file[name][:].astype("f8"), np.nan).reshape(coarse[name].shape)
    wanted = same[name].transpose(*coarse[name].dims).values
    gap, size = np.abs(back - wanted), np.abs(wanted)
    signed = np.nanmin(wanted) <= 0 <= np.nanmax(wanted)
    error = np.nanmax(gap) / np.nanmax(size) if signed else np.nanmax(gap / size)
    lost = int((np.isnan(back) != np.isnan(wanted)).sum())
    return f"{error:.1e}" + (f", {lost} gaps filled" if lost else "")


def checked(path: Path) -> tuple[str, bool]:
    """Return what compliance-checker says, and whether it found no error."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("compliance-checker", path=places)
    if program is None:
        return "no checker", True
    line = [program, "--test=cf:1.11", "--criteria=normal", "--format=json_new", "--output=-", str(path)]
    said = subprocess.run(line, capture_output=True, text=True).stdout
    found = next(iter(json.loads(said[said.index("{") :]).values()))["cf:1.11"]
    high, medium = ([m for e in found[f"{k}_priorities"] for m in e["msgs"]] for k in ("high", "medium"))
    errors = [message for message in high if not any(known in message for known in KNOWN)]
    said = f"{len(errors)} errors" if errors else "passed"
    return said + (" (*)" if len(errors) < len(high) else "") + (f", {len(medium)} notes" if medium else ""), not errors


def rows(path: Path, factors: list[int]) -> Iterator[Row]:
    """Yield the lines of one file."""
    try:
        coarse = coarse_field(path)
        where = horizontal(coarse)
    except DownscaleError as error:
        yield Row(path.name, str(error)[:90], "-", "-", "-", passed="cfgrib" in str(error))
        return
    names = [str(n) for n in coarse.data_vars]
    grid = type(where.grid).__name__.removesuffix("Grid").lower()
    if where.mapping is not None:
        grid = str(where.mapping.name)
    cells = " x ".join(map(str, where.grid.shape))
    for factor in factors:
        row = Row(path.name, ", ".join(names), grid, cells, f"x{factor}")
        with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(temporary)
            codes = all(is_categorical(coarse[n]) for n in names)
            try:
                fine = coarse.downscale(factor)
                report = downscale.to_netcdf(fine, folder / "fine.nc", coarse=None if codes else coarse)
            except DownscaleError as error:
                yield Row(path.name, ", ".join(names), grid, cells, f"x{factor}", str(error)[:80], passed=False)
                continue
            row.error = "codes, repeated" if report is None else f"{report.max_relative_error:.1e}"
            row.cdo = "-" if codes else referee(folder, coarse, names[0])
            row.checker, row.passed = checked(folder / "fine.nc")
            row.passed = row.passed and (report is None or report.passed)
        yield row


def table(found: list[Row]) -> str:
    """Return the lines as a Markdown table."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.columns() for row in found)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--only", default="*")
    parser.add_argument("--write", type=Path)
    options: Any = parser.parse_args()
    if not options.data.is_dir():
        print(f"expected a folder of real files, received {options.data}; pass --data", file=sys.stderr)
        return 2
    begin, found = time.perf_counter(), []
    for path in sorted([*options.data.glob("*.nc"), *options.data.glob("*.grib")]):
        if fnmatch(path.name, options.only):
            for row in rows(path, options.factors):
                found.append(row)
                print("  ".join(row.columns()), flush=True)
    text = table(found)
    print("\n" + text)
    print(f"\n{sum(r.passed for r in found)} of {len(found)} passed, {time.perf_counter() - begin:.0f} s")
    if options.write is not None:
        options.write.write_text(f"{PREFACE}\n{text}\n")
    return 0 if all(row.passed for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
