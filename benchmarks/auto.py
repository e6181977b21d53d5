"""Error of ``method="auto"`` compared with ``sobolev`` on every gridded file of a folder.

Each field is coarsened by area and refined again at 2x, 4x and 8x. Settings are chosen from the coarse maps of the
first half of the steps; the scores are those of the second half, or of the same map if there is only one. The
orography is that of the file, or else ETOPO5 on latitude and longitude. Each number is the area-weighted RMSE as a
ratio to ``sobolev``; lower is better.

Run from the root of the repository, with the package installed:

    python benchmarks/auto.py [--data DIR] [--only PATTERN] [--steps 12] [--all] [--markdown]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository. Rows with another
choice than ``sobolev`` are printed; ``--all`` prints all rows. Exit status 1 if auto degrades any field by more than
1 %, 2 if the data are absent.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from terrain import SHARED, table

import downscale
from downscale.cf.coordinates import select
from downscale.cf.horizontal import horizontal
from downscale.cf.kinds import is_categorical
from downscale.check.self_validation import weighted_rmse
from downscale.errors import DownscaleError
from downscale.grid.latlon import RectilinearGrid
from downscale.request import Request
from downscale.steps.choice import settle_request
from downscale.steps.prepare import pick_variables

FACTORS = (2, 4, 8)
LARGEST = 1.01
# A coarse grid with fewer cells per side consists mostly of edge cells.
FEWEST_CELLS = 4
STATICS = ("orog", "orog_sd", "sftlf")
# Orography of files that have none: of the same cells, or global.
COMPANIONS = {"temperature_wind_precip_era5_global_1deg.nc": "orography_global_era5_1deg.nc"}
RELIEF, RELIEF_NAME = "orography_etopo5_global_5arcmin.nc", "elevation"


@dataclass(frozen=True)
class Field:
    """One variable of a file: steps to choose on and to score, in float64, and the orography if there is one."""

    label: str
    name: str
    chosen: xr.Dataset
    scored: xr.Dataset
    orog: xr.Dataset | None


def open_file(path: Path) -> xr.Dataset | None:
    """Return the content of a file, or None if it has no horizontal grid of cells."""
    try:
        ds = downscale.open_dataset(path, chunks=None)
        horizontal(ds)
    except DownscaleError:
        return None
    return ds


def orography_for(folder: Path, path: Path, ds: xr.Dataset) -> xr.Dataset | None:
    """Return the orography of a file: its own, that of its companion, or a global one for latitude and longitude."""
    source = ds if "orog" in ds else None
    if path.name in COMPANIONS:
        source = downscale.open_dataset(folder / COMPANIONS[path.name], chunks=None)
    if source is not None:
        return select(source, "orog").load()
    grid: Any = horizontal(ds).grid
    if not isinstance(grid, RectilinearGrid) or grid.y.kind != "latitude" or not (folder / RELIEF).exists():
        return None
    relief = select(downscale.open_dataset(folder / RELIEF, chunks=None), RELIEF_NAME)
    land = relief[RELIEF_NAME].clip(0).assign_attrs(units="m", standard_name="surface_altitude")
    return relief.drop_vars(RELIEF_NAME).assign(orog=land).load()


def fields_of(folder: Path, path: Path, steps: int) -> Iterator[Field]:
    """Return the fields of a file that vary along another dimension or are no static field."""
    ds = open_file(path)
    if ds is None:
        return
    axes = horizontal(ds)
    orog = None
    for name in pick_variables(ds, axes, None):
        if is_categorical(ds[name]) or name in (*STATICS, RELIEF_NAME) or "surface_altitude" in str(name):
            continue
        orog = orography_for(folder, path, ds) if orog is None else orog
        field = select(ds, name)
        dim = next((dim for dim in field[name].dims if dim not in axes.dims and field.sizes[dim] > 1), None)
        halves = [field, field]
        if dim is not None:
            middle = field.sizes[dim] // 2
            ranges = range(middle), range(middle, field.sizes[dim])
            halves = [_thin(field, dim, one, steps) for one in ranges]
        loaded = [half.load().assign({name: half[name].astype("f8")}) for half in halves]
        yield Field(f"{path.stem} {name}", name, *loaded, orog)


def _thin(field: xr.Dataset, dim: Any, steps: range, count: int) -> xr.Dataset:
    which = np.unique(np.linspace(steps[0], steps[-1], min(count, len(steps))).round().astype(int))
    return field.isel({dim: which})


def score(field: Field, factor: int) -> tuple[float, str] | None:
    """Return the ratio of auto to ``sobolev`` and the choice, or None if the coarse grid is too small."""
    dims = horizontal(field.scored).dims
    if min(field.scored.sizes[dim] for dim in dims) // factor < FEWEST_CELLS:
        return None
    whole = {dim: slice(0, field.scored.sizes[dim] // factor * factor) for dim in dims}
    fine = field.scored.isel(whole)
    options = {} if field.orog is None else {"orog": field.orog}
    request = Request(factor=factor, method="auto", check="skip", **options)
    settled = settle_request(downscale.coarsen(field.chosen.isel(whole), factor), request)
    plain = Request(factor=factor, method="sobolev", check="skip", **options)
    words = str(settled.choices[field.name]).split(";")[0]
    if settled.choices[field.name].candidates[0].is_chosen:
        return 1.0, words
    coarse, area = downscale.coarsen(fine, factor), downscale.cell_area(fine)
    errors = [weighted_rmse(made[field.name], fine[field.name], area) for made in _both(coarse, settled.request, plain)]
    return errors[0] / errors[1], words


def _both(coarse: xr.Dataset, *requests: Request) -> Iterator[xr.Dataset]:
    from downscale.api import downscale_request

    return (downscale_request(coarse, request) for request in requests)


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--only", default="", help="regular expression of file names")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    paths = [path for path in sorted(options.data.glob("*.nc")) if re.search(options.only, path.name)]
    if not paths:
        print(f"expected NetCDF files in {options.data}, received none; pass --data", file=sys.stderr)
        return 2
    rows, ratios = [("field", "factor", "auto / sobolev", "choice")], []
    for path in paths:
        for field in fields_of(options.data, path, options.steps):
            for factor in FACTORS:
                found = score(field, factor)
                if found is None:
                    continue
                ratios.append(found[0])
                if options.all or found[0] != 1:
                    rows.append((field.label, f"{factor}x", f"{found[0]:.3f}", found[1]))
    print(table(rows, options.markdown))
    changed = [ratio for ratio in ratios if ratio != 1]
    mean = float(np.exp(np.mean(np.log(changed)))) if changed else 1.0
    print(f"\n{len(ratios)} scores, {len(changed)} of other settings than sobolev: geometric mean {mean:.3f}")
    print(f"largest ratio: {max(ratios):.3f} (limit {LARGEST:g})")
    return 0 if max(ratios) <= LARGEST else 1


if __name__ == "__main__":
    sys.exit(main())
