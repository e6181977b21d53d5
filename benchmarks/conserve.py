"""Error of other tools' fine fields before and after ``downscale.conserve``, on real fields.

Each field is averaged over coarse cells with ``downscale.coarsen`` and interpolated to the fine cells by three tools:
``cdo remapbil``, ``xr.interp`` (linear) and the bicubic ``torch.nn.functional.interpolate``. ``downscale.conserve``
then gives their result the coarse means. The score is the area-weighted root mean square error over all fine cells, as
a ratio to ``xr.interp``; the cell error is the largest relative error of a coarse cell. The last lines use target cells
that cross the coarse ones; their reference is the mean of the finest field over these cells.

Run from the root of the repository, with the package installed:

    python benchmarks/conserve.py [--data DIR] [--factor 4] [--steps 24] [--markdown]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 2 if it is absent. The column of CDO is empty if it is not installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from accuracy import rendered, rmse
from fields import FIELDS, Field, crop, files_of, open_field
from numpy.typing import NDArray
from peers import ATTRS, Case, around, on_cells

import downscale

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NAMES = (
    "era5-uk t2m 0.25 deg", "arpege t2m 0.1 deg", "arpege r 0.1 deg", "itu p1510 tas 0.75 deg", "era5 t2m 1 deg",
    "era5 u10 1 deg", "arome pr 0.025 deg", "itu p837 pr 0.25 deg", "era5 tp 1 deg",
)  # fmt: skip
# Fields on target cells that cross coarse ones, with the steps of these in degrees.
CROSSING = {"era5-uk t2m 0.25 deg": 0.3, "arpege t2m 0.1 deg": 0.13}
# Bounds that the quantity has; fields of the benchmark have no names to find them by.
BOUNDS = {"rain": (0.0, None), "arpege r 0.1 deg": (0.0, None)}

Floats = NDArray[np.float64]
Tool = Callable[[xr.Dataset, xr.Dataset], xr.Dataset | None]


def remapbil(coarse: xr.Dataset, cells: xr.Dataset) -> xr.Dataset | None:
    """Run ``cdo remapbil`` on files; None without CDO."""
    if shutil.which("cdo") is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        given, grid, made = (Path(name) / file for file in ("in.nc", "grid.nc", "out.nc"))
        plain = coarse.drop_vars("areacella", errors="ignore")
        plain.rename(map="time").assign_coords(time=np.arange(coarse.sizes["map"])).to_netcdf(given)
        shape = cells.sizes["lat"], cells.sizes["lon"]
        cells.drop_vars("areacella", errors="ignore").assign(field=(("lat", "lon"), np.zeros(shape))).to_netcdf(grid)
        line = ["cdo", "-L", "-s", "-b", "F64", f"remapbil,{grid}", "-selname,field", str(given), str(made)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"expected CDO to remap, received {done.stderr.strip()}")
        with xr.open_dataset(made, decode_times=False) as ds:
            return on(cells, ds["field"].values)


def interp(coarse: xr.Dataset, cells: xr.Dataset) -> xr.Dataset:
    """Run linear ``xr.interp`` with extrapolation by half a cell at the border."""
    plain = coarse["field"].drop_vars(set(coarse["field"].coords) - {"lat", "lon"})
    values = plain.interp(lat=cells.lat.values, lon=cells.lon.values, kwargs={"fill_value": "extrapolate"})
    return on(cells, values.transpose("map", "lat", "lon").values)


def bicubic(coarse: xr.Dataset, cells: xr.Dataset) -> xr.Dataset | None:
    """Run torch's bicubic interpolation; None if the cells are not equal parts of the coarse ones."""
    shape = cells.sizes["lat"], cells.sizes["lon"]
    if shape[0] % coarse.sizes["lat"] or shape[1] % coarse.sizes["lon"]:
        return None
    maps = torch.from_numpy(coarse["field"].transpose("map", "lat", "lon").values)[:, None]
    values = torch.nn.functional.interpolate(maps, size=shape, mode="bicubic", align_corners=False)
    return on(cells, values[:, 0].numpy())


TOOLS: dict[str, Tool] = {"xr.interp": interp, "cdo remapbil": remapbil, "torch bicubic": bicubic}


def on(cells: xr.Dataset, values: Floats) -> xr.Dataset:
    """Return maps on the given cells."""
    return cells[["lat", "lon", "lat_bnds", "lon_bnds"]].assign(field=(("map", "lat", "lon"), values))


@dataclass(frozen=True)
class Row:
    """The scores of one field: for each tool, error before and after as ratios, and the cell errors."""

    name: str
    base: float
    units: str
    scores: dict[str, tuple[float, float, float, float, float]]
    kernel: float


def measure(item: Field, coarse: xr.Dataset, cells: xr.Dataset, truth: Floats, weights: Floats, label: str) -> Row:
    """Interpolate by each tool, project, and compare."""
    bounds = BOUNDS.get(item.name, BOUNDS.get(item.group))
    scores, base = {}, 0.0
    for name, tool in TOOLS.items():
        fine = tool(coarse, cells)
        if fine is None:
            continue
        exact: Any = downscale.conserve(fine, coarse, bounds=bounds)
        scaled = None
        if bounds is not None:
            scaled = downscale.conserve(fine.clip(min=0.0), coarse, "multiplicative")
        before, after = (rmse(ds["field"].values, truth, weights) for ds in (fine, exact))
        other = float("nan") if scaled is None else rmse(scaled["field"].values, truth, weights)
        base = base or before
        errors = [_cell_error(coarse, ds) for ds in (fine, exact)]
        scores[name] = (before / base, after / base, other / base, *errors)
    where: Any = {"target_grid": cells} if "cross" in label else {"factor": _factor(coarse, cells)}
    kernel = downscale.downscale(coarse, bounds=bounds, check="skip", **where)
    return Row(label, base, item.units, scores, rmse(kernel["field"].values, truth, weights) / base)


def _factor(coarse: xr.Dataset, cells: xr.Dataset) -> dict[str, int]:
    return {name: cells.sizes[name] // coarse.sizes[name] for name in ("lat", "lon")}


def _cell_error(coarse: xr.Dataset, fine: xr.Dataset) -> float:
    marked = fine.assign_attrs(downscale_settings="conserve")  # coarse cells one by one, on all grids
    report = downscale.check_conservation(coarse, marked, bounds=None)
    return report.variables["field"].max_relative_error


def nested(item: Field, folder: Path, steps: int, factor: int) -> Row:
    """Measure a field on cells that are parts of the coarse ones."""
    truth = crop(on_cells(open_field(item, folder, steps), "field"), factor)
    coarse: Any = downscale.coarsen(truth, factor)
    return measure(item, coarse, truth, truth["field"].values, downscale.cell_area(truth).values, item.name)


def crossing(item: Field, folder: Path, steps: int, factor: int, step: float) -> Row:
    """Measure a field on cells that cross the coarse ones, all inside its domain."""
    truth = crop(on_cells(open_field(item, folder, steps), "field"), factor)
    coarse: Any = downscale.coarsen(truth, factor)
    cells = around(truth, step, step)
    case = Case(truth, cells)
    inside = (case.valid > (1 - 1e-6) * case.whole).all(axis=0)
    wanted = np.where(inside, case.means, np.nan)
    for name, attrs in ATTRS.items():
        cells[name].attrs = attrs
    return measure(item, coarse, cells, wanted, case.whole, f"{item.name}, crossing {step:g}")


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the lines of the table."""
    head = ["RMSE / xr.interp", "xr.interp", "sobolev"]
    for name in TOOLS:
        head += [name, "conserved", "scaled", "cell error", "conserved"]
    lines = [head]
    for row in rows:
        line = [row.name, f"{row.base:.3g} {row.units}", f"{row.kernel:.3f}"]
        for name in TOOLS:
            score = row.scores.get(name)
            if score is None:
                line += ["-"] * 5
                continue
            ratios = ["-" if np.isnan(value) else f"{value:.3f}" for value in score[:3]]
            line += [*ratios, *(f"{value:.1e}" for value in score[3:])]
        lines.append(line)
    return lines


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Error of other tools' fields before and after downscale.conserve.")
    data = Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED))
    parser.add_argument("--data", type=Path, default=data, help="folder of the real fields")
    parser.add_argument("--factor", type=int, default=4, help="refinement")
    parser.add_argument("--steps", type=int, default=24, help="largest number of maps of a field")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    items = {item.name: item for item in FIELDS if item.name in NAMES}
    missing = [name for name in files_of(items.values()) if not (options.data / name).exists()]
    if missing:
        received = f"expected the real fields in {options.data}, received no {missing[0]}"
        print(f"{received}; set --data or DOWNSCALE_TEST_DATA", file=sys.stderr)
        return 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [nested(items[name], options.data, options.steps, options.factor) for name in NAMES]
        rows += [crossing(items[name], options.data, options.steps, options.factor, step)
                 for name, step in CROSSING.items()]  # fmt: skip
    print(rendered(table(rows), options.markdown))
    return 0


if __name__ == "__main__":
    sys.exit(main())
