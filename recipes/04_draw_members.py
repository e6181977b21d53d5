"""Generate ten fine rain fields per coarse field; each member conserves every cell mean and is non-negative.

    python recipes/04_draw_members.py --demo                       (synthetic showers; --out FOLDER, --dry-run)
    python recipes/04_draw_members.py "pr_day_*.nc" --members 20 --seed 1
    python recipes/04_draw_members.py "pr_day_*.nc" --method rain_ensemble_x4.safetensors
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import downscale


def showers() -> xr.Dataset:
    """Return three days of synthetic showers on the grid of the embedded sample."""
    like = downscale.sample.open("north_america").isel(time=slice(0, 3))
    noise = np.random.default_rng(0).normal(size=like.tas.shape)
    for axis in (1, 2):
        for _ in range(3):
            noise = (np.roll(noise, 1, axis) + 2 * noise + np.roll(noise, -1, axis)) / 4
    wet = np.clip(noise / noise.std() - 0.6, 0, None) ** 2 * 1e-4
    attrs = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1", "long_name": "synthetic precipitation"}
    return like.assign(pr=(like.tas.dims, wet.astype("f4"), attrs)).drop_vars("tas")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("coarse", nargs="?", help="coarse precipitation, a file or a quoted pattern")
    parser.add_argument("--demo", action="store_true", help="run on synthetic showers")
    parser.add_argument("--dry-run", action="store_true", help="print grids, chunks and memory without writing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    parser.add_argument("--members", type=int, default=10, help="number of members (10)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the ensemble (0)")
    parser.add_argument("--method", default="cascade", help="cascade, or a model trained as an ensemble")
    asked = parser.parse_args()
    if not asked.demo and not asked.coarse:
        parser.error("expected COARSE, or --demo")

    coarse = showers() if asked.demo else downscale.open_dataset(asked.coarse)
    if asked.dry_run:
        print(coarse.downscale.plan(4, asked.method, members=asked.members, seed=asked.seed))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    fine = coarse.downscale(4, asked.method, members=asked.members, seed=asked.seed)
    name = next(name for name in coarse.data_vars if name in fine and fine[name].ndim > 1)       # pr, tp, prate, ...
    report = downscale.to_netcdf(fine, asked.out / f"{name}_members_x4.nc", coarse=coarse, overwrite=True)
    print(report)                                     # the written file, all members
    spread = float(fine[name].std("realization").mean() / fine[name].mean())
    print(f"least value {float(fine[name].min()):g}, mean spread of the members {spread:.2f} of the mean rain")
    for member in (0, 1):
        picture = asked.out / f"{name}_member_{member}.png"
        coarse.downscale.plot(fine.isel(realization=member), path=picture)


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
