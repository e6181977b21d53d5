"""Refine temperature with fine observations, x4: the climatological detail below coarse cells is added.

    python recipes/11_add_observations.py --demo                   (the embedded sample; --out FOLDER, --dry-run)
    python recipes/11_add_observations.py "tas_*.nc" observations.nc --by month
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import downscale


def demo() -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Return coarse fields of the embedded sample, earlier fine fields as observations, and the fine fields to find."""
    ds = downscale.sample.open("north_america", chunks=None)[["tas"]].isel(lat=slice(0, 36), lon=slice(0, 48)).load()
    known, held_out = ds.isel(time=slice(0, 16)), ds.isel(time=slice(16, None))
    return downscale.coarsen(held_out, 4), known, held_out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("coarse", nargs="?", help="coarse fields, a file or a quoted pattern")
    parser.add_argument("observations", nargs="?", help="fine observations, a file or a quoted pattern")
    parser.add_argument("--factor", type=int, default=4, help="refinement factor")
    parser.add_argument("--by", default="auto", help="calendar labels: auto, none, month, dayofyear, hour, month-hour")
    parser.add_argument("--demo", action="store_true", help="run on the embedded sample")
    parser.add_argument("--dry-run", action="store_true", help="print grids, chunks and memory without writing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    asked = parser.parse_args()
    if not asked.demo and not (asked.coarse and asked.observations):
        parser.error("expected COARSE and OBSERVATIONS, or --demo")

    if asked.demo:
        coarse, observations, held_out = demo()
        by = "none"                                   # annual means have no season
    else:
        coarse, observations = (downscale.open_dataset(name) for name in (asked.coarse, asked.observations))
        by, held_out = asked.by, None
    if asked.dry_run:
        print(coarse.downscale.plan(asked.factor, climatology=observations, climatology_by=by))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    fine = coarse.downscale(asked.factor, climatology=observations, climatology_by=by)
    name = next(name for name in coarse.data_vars if name in fine and fine[name].ndim > 1)
    print(downscale.to_netcdf(fine, asked.out / f"{name}_x{asked.factor}.nc", coarse=coarse, overwrite=True))
    coarse.downscale.plot(fine, path=asked.out / f"{name}_x{asked.factor}.png")
    if held_out is not None:
        plain = coarse.downscale(asked.factor)
        errors = [float(np.sqrt(((one[name] - held_out[name].values) ** 2).mean())) for one in (fine, plain)]
        print(f"RMSE on later decades {errors[0]:.2f} K with observations, {errors[1]:.2f} K without")


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
