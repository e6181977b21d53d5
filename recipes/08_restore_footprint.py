"""Remove the blur of an antenna from a field, or downscale with the footprint, and compare the errors.

    python recipes/08_restore_footprint.py --demo                  (a blurred sample; --out FOLDER, --dry-run)
    python recipes/08_restore_footprint.py tb_25km.nc --psf gaussian:25km --factor 4
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import downscale

WIDTH = "gaussian:400km"     # for the demonstration: about one and a half coarse cells


def blurred() -> tuple[xr.Dataset, xr.Dataset]:
    """Return a reference field (one year of a model), and its footprint averages on cells twice as large."""
    truth = downscale.sample.open("north_america").isel(time=[0], lat=slice(0, 28), lon=slice(0, 40)).astype("f8")
    return truth, downscale.coarsen(downscale.blur(truth, WIDTH), 2)


def rmse(made: xr.Dataset, truth: xr.Dataset) -> float:
    """Return the root mean square error by area, in units of the first variable."""
    name = next(iter(truth.data_vars))
    area = downscale.cell_area(truth)
    errors = (made[name].astype("f8") - truth[name].assign_coords(made[name].coords)) ** 2
    return float(np.sqrt(errors.weighted(area).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("seen", nargs="?", help="blurred field, a file or a quoted pattern")
    parser.add_argument("--demo", action="store_true", help="blur the embedded sample and deconvolve it")
    parser.add_argument("--dry-run", action="store_true", help="print the plan without writing")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the outputs")
    parser.add_argument("--psf", default=WIDTH, help='footprint, such as "gaussian:25km" (full width at half maximum)')
    parser.add_argument("--factor", type=int, default=2, help="refinement factor (2)")
    asked = parser.parse_args()
    if not asked.demo and not asked.seen:
        parser.error("expected SEEN, or --demo")

    truth, seen = blurred() if asked.demo else (None, downscale.open_dataset(asked.seen))
    if asked.dry_run:
        print(seen.downscale.plan(asked.factor, footprint=asked.psf))
        return
    asked.out.mkdir(parents=True, exist_ok=True)
    sharp = seen.downscale.deconvolve(asked.psf, "tikhonov")                # same cells; conserves flux
    sharp_file, fine_file = asked.out / "restored.nc", asked.out / "finer.nc"
    print(downscale.to_netcdf(sharp, sharp_file, coarse=seen, law="total", overwrite=True))
    fine = seen.downscale(asked.factor, footprint=asked.psf)                # refined with the footprint in one solve
    print(downscale.to_netcdf(fine, fine_file, coarse=seen, footprint=asked.psf, overwrite=True))
    seen.downscale.plot(fine, path=asked.out / "finer.png")
    if truth is not None:
        for words, made in (
            ("ignoring the footprint", seen.downscale(asked.factor)),
            ("deconvolved, then downscaled", sharp.downscale(asked.factor)),
            ("one solve", fine),
        ):
            print(f"RMSE {rmse(made, truth):.3f} K: {words}")


if __name__ == "__main__":
    try:
        main()
    except downscale.DownscaleError as error:          # one line and exit status 2, as on the command line
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
