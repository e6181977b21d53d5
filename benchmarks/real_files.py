"""Test every real file with the command line, the check, CDO, xarray and the compliance checker.

The first fields of each file of the data folder are downscaled by ``downscale apply`` x2 and x4, from the stored bytes
of the file, cropped if it is large. The first table shows the largest relative error of a coarse cell in the written
file, the largest relative difference between the coarse field and the result of ``cdo remapcon`` on the file
(relative to the largest coarse value if the field has zeros or changes sign), and the result of compliance-checker
(cf:1.11). The second table shows further steps: the result of ``downscale check``, regridding to a target grid, reading
after ``cdo copy`` and with plain xarray, and writing once more.

Run from the root of the repository, with the package, cdo and compliance-checker installed:

    python benchmarks/real_files.py [--data DIR] [--factors 2 4] [--only PATTERN] [--write docs/real_files.md]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 1 if a file fails, 2 if there is no data folder.
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
from downscale.cf.coordinates import horizontal_variables, select
from downscale.cf.horizontal import horizontal
from downscale.cf.kinds import is_categorical
from downscale.errors import DownscaleError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# Larger grids are cut to their middle: CDO takes minutes for a million cells with corners.
MOST_CELLS = 70_000
SAME_CELLS = 1e-9
UNREAD = "cdo does not read the input"
# CDO uses the steps of a forecast as its time axis, and writes days with the units hours.
STEPS = "refused: its steps are days, labelled hours"
# CF defines azimuth_of_central_line, the checker requires "azimuth"; CF has no name for oblique stereographic axes.
KNOWN = ("azimuth is a required attribute for grid mapping oblique_mercator", "None is not a valid grid_mapping_name")
PREFACE = """# Real files

Look up how `downscale` handles real files. `python benchmarks/real_files.py` downscales the first fields (two steps) of
each file by `sobolev` with `downscale apply`. It cuts grids of more than 70 000 cells to their middle, without changing
the stored bytes.

- *cell error in the file*: largest relative error of a coarse cell in the written file (float32: half a
  unit in the last place is 6e-8; float64: 1e-16).
- *cdo remapcon*: largest relative difference between the coarse field and CDO's mean of the written file. It is
  relative to the largest coarse value if a field has zeros or changes sign. CDO treats the sides of rotated and
  projected cells as great circles, which causes its differences of 1e-7 to 1e-5. Its *gaps filled* are missing cells
  that overlap slightly with a neighbour.
- *cf:1.11*: result of compliance-checker; a *note* is a recommendation (units_metadata of temperatures and times).
  (*) The checker requires an attribute "azimuth" for oblique Mercator, but CF defines azimuth_of_central_line. CF has
  no name for oblique stereographic.
"""
AFTER = """
## Checked, regridded and read back

The result of the first factor, in typical further steps. *Check*: `downscale check IN OUT`. *Target*: the coarse
file on a target grid of its own kind (`--target`) that does not nest. *After cdo copy* and *by xarray*: the file copied
by CDO, and opened with plain `xr.open_dataset`, has the same cells (to 1e-9 of a cell) and passes the check. *Written
again*: opened and written once more, it has the same variables, values and attributes.
"""
AGAIN = ("file", "check", "target", "after cdo copy", "by xarray", "written again")
# Attributes with the time, the method and the check of a file.
DATED = {
    "conservation",
    "conservation_certificate",
    "history",
    "date_created",
    "date_modified",
    "date_metadata_modified",
    "CDO",
    "CDI",
    "NCO",
}
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
    again: tuple[str, ...] = ()

    def columns(self) -> tuple[str, ...]:
        """Return the cells of the printed line."""
        return self.file, self.variables, self.grid, self.cells, self.factor, self.error, self.cdo, self.checker


def part_of(ds: xr.Dataset) -> tuple[list[str], dict[str, slice]]:
    """Return the first two fields of a file, and the selection by dimension: two steps, the middle of the map."""
    where = horizontal(ds)
    names = [n for n in horizontal_variables(ds, where) if not is_categorical(ds[n])][:2]
    names = names or [n for n in horizontal_variables(ds, where) if is_categorical(ds[n])][:1]
    used = {str(d) for n in names for d in ds[n].dims}
    # CDO supports two other dimensions, time and level.
    picks = {d: slice(0, 2 if d == "time" else 1) for d in map(str, ds.dims) if d in used and d not in where.dims}
    rows, columns = where.grid.shape
    if rows * columns > MOST_CELLS:
        side = int(MOST_CELLS**0.5)
        # A closed circle of longitudes is kept; a band of latitudes is enough.
        closed = where.grid.x.periodic
        sizes = (min(rows, MOST_CELLS // columns), columns) if closed else (min(rows, side), min(columns, side))
        first = [(whole - part) // 2 for whole, part in zip(where.grid.shape, sizes, strict=True)]
        picks |= {d: slice(a, a + part) for d, a, part in zip(where.dims, first, sizes, strict=True)}
    return names, picks


def cut(path: Path, target: Path, picks: dict[str, slice]) -> Path:
    """Copy a part of a NetCDF file as stored, including packing and attributes."""
    with netCDF4.Dataset(path) as source, netCDF4.Dataset(target, "w", format=source.data_model) as made:
        source.set_auto_maskandscale(False)
        made.setncatts({key: source.getncattr(key) for key in source.ncattrs()})
        for name, dim in source.dimensions.items():
            size = len(range(*picks.get(name, slice(None)).indices(len(dim))))
            made.createDimension(name, None if dim.isunlimited() else size)
        for name, variable in source.variables.items():
            attributes = {key: variable.getncattr(key) for key in variable.ncattrs()}
            fill = attributes.pop("_FillValue", None)
            copy = made.createVariable(name, variable.dtype, variable.dimensions, fill_value=fill)
            copy.set_auto_maskandscale(False)
            copy.setncatts(attributes)
            copy[...] = variable[tuple(picks.get(dim, slice(None)) for dim in variable.dimensions)]
    return target


def referee(folder: Path, coarse: xr.Dataset, name: str) -> str:
    """Return the largest difference between the coarse field and CDO's mean of the written file."""
    if shutil.which("cdo") is None:
        return "no cdo"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A selection by name loses the bounds of the axes.
        alone = coarse.drop_vars([n for n in coarse.data_vars if n != name]).astype("f8")
        same = alone.downscale(1, method="conservative", bounds=None)
        downscale.to_netcdf(same, folder / "all.nc", overwrite=True)
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
    """Return the result of compliance-checker, and whether it found no error."""
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


def cdo_reads(path: Path) -> bool:
    """Return whether CDO finds fields in a file: it skips fields of four dimensions without time."""
    return not subprocess.run(["cdo", "-s", "sinfon", path], capture_output=True, check=False).returncode


def command(*words: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line of this environment."""
    line = [sys.executable, "-m", "downscale", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of a failed command, shortened for a table."""
    line = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
    return line.removeprefix("downscale: ")[:110].replace("|", "/")


def edges_of(ds: xr.Dataset) -> list[np.ndarray]:
    """Return the numbers that define the cells."""
    grid = horizontal(ds).grid
    return [grid.base_corners.ravel()] if hasattr(grid, "base_corners") else [grid.y.edges, grid.x.edges]


def same_cells(one: xr.Dataset, other: xr.Dataset) -> str:
    """Return "same", or the distance between the cells of two files."""
    for here, there in zip(edges_of(one), edges_of(other), strict=True):
        if here.shape != there.shape:
            return f"DIFFERENT: {here.shape}, {there.shape}"
        apart = float(np.abs(here - there).max() / np.abs(np.diff(here)).max())
        if not apart <= SAME_CELLS:
            return f"DIFFERENT by {apart:.0e} of a cell"
    return "same"


def read_back(coarse: xr.Dataset, fine: xr.Dataset, other: xr.Dataset) -> str:
    """Return whether a file changed by another program has the same cells, and whether it passes the check."""
    try:
        found = same_cells(fine, other)
        report = downscale.check_conservation(coarse, other)
    except DownscaleError as error:
        return "REFUSED: " + str(error)[:90].replace("|", "/")
    return found if report.passed else f"{found}, FAILED"


def written_again(path: Path, folder: Path) -> str:
    """Write a result once more, and return "same" or the first difference."""
    with downscale.open_dataset(path, chunks=None) as once:
        downscale.to_netcdf(once.load(), folder / "again.nc")
    with netCDF4.Dataset(path) as one, netCDF4.Dataset(folder / "again.nc") as two:
        if set(one.variables) != set(two.variables):
            return f"DIFFERENT: {sorted(set(one.variables) ^ set(two.variables))}"
        for name in [None, *one.variables]:
            here, there = (file if name is None else file[name] for file in (one, two))
            texts = [{k: str(each.getncattr(k)) for k in each.ncattrs() if k not in DATED} for each in (here, there)]
            wrong = sorted(k for k in texts[0].keys() | texts[1].keys() if texts[0].get(k) != texts[1].get(k))
            if wrong:
                return f"DIFFERENT: {name or 'global'} {wrong[0]}"
            if name is not None and not np.array_equal(
                *(np.ma.filled(each[...], 0) for each in (here, there)), equal_nan=here.dtype.kind == "f"
            ):
                return f"DIFFERENT: values of {name}"
    return "same"


def target_words(where: Any) -> str | None:
    """Return a target of about two thirds of a cell as an option value, None without one."""
    if not hasattr(where.grid, "y") or where.grid.y.kind == "index":
        return None
    steps = [abs(float(np.median(np.diff(axis.edges)))) * 0.7 / where.unit for axis in (where.grid.y, where.grid.x)]
    if where.grid.x.periodic:
        steps[1] = 360.0 / round(360.0 / steps[1])
    return f"{steps[0]:.6g}x{steps[1]:.12g}"


def afterwards(source: Path, made: Path, names: list[str], folder: Path, codes: bool) -> tuple[str, ...]:
    """Return the columns of the second table after the name of the file."""
    with downscale.open_dataset(source, chunks=None) as coarse, downscale.open_dataset(made, chunks=None) as fine:
        done = command("check", source, made, "--vars", ",".join(names))
        check = "codes" if codes else "passed" if done.returncode == 0 else "FAILED: " + complaint(done)
        words, target = target_words(horizontal(coarse)), "no words for it"
        if words is not None and not codes:
            done = command("apply", source, folder / "target.nc", "--target", words, "--vars", ",".join(names))
            target = "passed" if done.returncode == 0 else "refused: " + complaint(done)
        copied, plain = "no cdo", "-"
        if shutil.which("cdo") is not None and not cdo_reads(source):
            copied = UNREAD
        elif shutil.which("cdo") is not None:
            done = subprocess.run(["cdo", "-s", "copy", made, folder / "copy.nc"], capture_output=True, text=True)
            copied = "cdo: " + done.stderr.strip()[:60]
            if not done.returncode:
                with downscale.open_dataset(folder / "copy.nc", chunks=None) as other:
                    copied = same_cells(fine, other) if codes else read_back(coarse, fine, other)
                if copied.startswith("REFUSED") and "'step'" in copied:
                    copied = STEPS
        with xr.open_dataset(made) as other:
            plain = same_cells(fine, other) if codes else read_back(coarse, fine, other)
    return check, target, copied, plain, written_again(made, folder)


def rows(path: Path, factors: list[int]) -> Iterator[Row]:
    """Yield the lines of one file."""
    try:
        with downscale.open_dataset(path, chunks=None) as ds:
            names, picks = part_of(ds)
            where = horizontal(ds.isel(picks))
            codes = all(is_categorical(ds[n]) for n in names)
    except DownscaleError as error:
        yield Row(path.name, "refused: " + str(error)[:110].replace("|", "/"), "-", "-", "-")
        return
    grid = type(where.grid).__name__.removesuffix("Grid").lower()
    if where.mapping is not None:
        grid = str(where.mapping.name)
    cells = " x ".join(map(str, where.grid.shape))
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(temporary)
        source = path if path.suffix != ".nc" else cut(path, folder / "in.nc", picks)
        readable = shutil.which("cdo") is None or cdo_reads(source)
        for factor in factors:
            row = Row(path.name, ", ".join(names), grid, cells, f"x{factor}")
            made = folder / f"x{factor}.nc"
            done = command("apply", source, made, "--factor", factor, "--vars", ",".join(names))
            if done.returncode:
                row.error, row.passed = complaint(done), False
                yield row
                continue
            with downscale.open_dataset(source, chunks=None) as coarse, downscale.open_dataset(made) as fine:
                row.error = "codes, repeated"
                if not codes:
                    report = downscale.check_conservation(coarse, fine, data_vars=names)
                    row.error, row.passed = f"{report.max_relative_error:.1e}", report.passed
                    shutil.copy(made, folder / "fine.nc")
                    row.cdo = referee(folder, select(coarse, names).load(), names[0]) if readable else UNREAD
            row.checker, fits = checked(made)
            row.passed = row.passed and fits
            if factor == factors[0]:
                row.again = afterwards(source, made, names, folder, codes)
                row.passed = row.passed and not any(word.isupper() for each in row.again for word in each.split()[:1])
            yield row


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return lines as a Markdown table."""
    every = [head, tuple("---" for _ in head), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in every)


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
                print("  ".join(row.columns() + row.again), flush=True)
    text = table(HEAD, [row.columns() for row in found])
    text += f"\n{AFTER}\n" + table(AGAIN, [(row.file, *row.again) for row in found if row.again])
    print("\n" + text)
    print(f"\n{sum(r.passed for r in found)} of {len(found)} passed, {time.perf_counter() - begin:.0f} s")
    if options.write is not None:
        options.write.write_text(f"{PREFACE}\n{text}\n")
    return 0 if all(row.passed for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
