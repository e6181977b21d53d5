"""Refine monthly sea surface temperature to daily values whose monthly means are exact.

    python recipes/03_refine_months.py --demo                      (a synthetic year; --out FOLDER, --dry-run)
    python recipes/03_refine_months.py tos_Omon.nc
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import downscale


def months() -> xr.Dataset:
    """Return twelve months: the seas of the embedded sample, with a synthetic annual cycle."""
    like, relief = downscale.sample.open("north_america"), downscale.sample.open("north_america_relief")
    land = downscale.coarsen(relief.sftlf, 4).values > 50
    edges = xr.date_range("2001-01-01", periods=13, freq="MS", calendar="noleap", use_cftime=True)
    middles = edges[:-1] + (edges[1:] - edges[:-1]) / 2
    season = -8 * np.cos(2 * np.pi * (np.arange(12) - 0.5) / 12)[:, None, None]
    values = np.where(land, np.nan, like.tas.values[-1] + season).astype("f4")
    made = like.isel(time=0).drop_vars(["time", "time_bnds", "tas"], errors="ignore")
    attrs = {"standard_name": "sea_surface_temperature", "units": "K", "long_name": "synthetic sea surface temperature"}
    time = {"standard_name": "time", "bounds": "time_bnds", "axis": "T"}
    cells = ("time", "bnds"), np.stack([edges[:-1], edges[1:]], 1)
    made = made.assign_coords(time=("time", middles, time), time_bnds=cells)
    return made.assign(tos=(("time", "lat", "lon"), values, attrs))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("coarse", nargs="?", help="monthly means with time bounds, a file or a quoted pattern")
    parser.add_argument("--demo", action="store_true", help="run on a synthetic year")
    parser.add_argument("--dry-run", action="store_true", help="print grids, chunks and memory without writing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    asked = parser.parse_args()
    if not asked.demo and not asked.coarse:
        parser.error("expected COARSE, or --demo")

    coarse = months() if asked.demo else downscale.open_dataset(asked.coarse)
    if asked.dry_run:
        print(coarse.downscale.plan(target_grid={"time": "D"}))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    daily = coarse.downscale(target_grid={"time": "D"})
    name = next(name for name in coarse.data_vars if name in daily and daily[name].ndim > 1)     # tos, tas, ...
    report = downscale.to_netcdf(daily, asked.out / f"{name}_daily.nc", coarse=coarse, overwrite=True)
    print(report)
    print(f"{coarse.sizes['time']} months -> {daily.sizes['time']} days")


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
