"""What the models that come with the package make of real files: area-weighted RMSE over that of ``sobolev``.

Run from anywhere, with the package's Python and a folder that holds the files named here:

    python benchmarks/models.py FOLDER [--every 1]

Each file is averaged over 4 x 4 cells by area and made finer again; coarse cells with a gap are left out. Files that
are not there are skipped. ``--every`` takes fewer maps (those given here, times so many).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import downscale

FACTOR = 4
# File, variable, every so many maps.
RAIN = (
    ("precipitation_mch_20160711_1km_5min.nc", "precip", 8),
    ("precipitation_mch_20150515_1km_5min.nc", "precip", 8),
    ("precipitation_bom66_20201031_500m_10min.nc", "precip", 12),
    ("temperature_wind_precip_era5_global_1deg.nc", "tp", 2),
    ("precipitation_itu_p837_monthly_0p25deg.nc", "pr", 4),
    ("precipitation_fraser_daily_1986-2018_0p1deg.nc", "pr", 10),
    ("precipitation_fmi_20160928_1km_5min.nc", "precip", 8),
    ("precipitation_opera_20180824_2km_15min.nc", "precip", 8),
    ("precipitation_arome_nw_20180501_0p025deg.nc", "pr", 2),
    ("temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc", "pr", 1),
)
TEMPERATURE = (
    ("temperature_humidity_wind_arpege_nw_20180501_0p1deg.nc", "t2m", 1),
    ("temperature_itu_p1510_monthly_0p75deg.nc", "tas", 3),
)


def main() -> int:
    """Print one line a file; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    for method, files, bounds in (("rain", RAIN, (0.0, None)), ("temperature", TEMPERATURE, None)):
        for name, variable, every in files:
            path = chosen.folder / name
            if not path.exists():
                print(f"{method:12s} {name}: not there, skipped")
                continue
            relief = downscale.open_dataset(path, chunks=None) if method == "temperature" else None
            ratios = ratios_of(path, variable, every * chosen.every, method, bounds, relief)
            words = "  ".join(f"{label} {value:.3f}" for label, value in ratios.items())
            print(f"{method:12s} {name}: {words}", flush=True)
    return 0


def ratios_of(path: Path, variable: str, every: int, method: str, bounds: Any, relief: Any) -> dict[str, float]:
    """Return errors beside the kernel's: of the model and, where there is relief, of the kernel with a lapse rate."""
    fine, judged = truth_of(path, variable, every)
    coarse = downscale.coarsen(fine, FACTOR)
    area = np.broadcast_to(downscale.cell_area(fine).values, fine[variable].shape)[judged]

    def error(**how: Any) -> float:
        made = coarse.downscale(FACTOR, data_vars=variable, bounds=bounds, check="skip", **how)
        wrong = (made[variable].values - fine[variable].values)[judged].astype("f8")
        return float(np.sqrt(np.average(wrong**2, weights=area)))

    kernel = error(method="sobolev")
    found = {method: error(method=method, orog=relief) / kernel}
    if relief is not None:
        found["-6.5 K/km"] = error(method="sobolev", orog=relief, lapse_rate=-6.5e-3) / kernel
    return found


def truth_of(path: Path, variable: str, every: int) -> tuple[xr.Dataset, np.ndarray]:
    """Return the truth, cropped to whole coarse cells, and where it is judged."""
    ds = downscale.open_dataset(path, chunks=None)
    rows, columns = ds[variable].dims[-2:]
    whole = {dim: slice(0, ds.sizes[dim] // FACTOR * FACTOR) for dim in (rows, columns)}
    ds = ds.isel({ds[variable].dims[0]: slice(0, None, every), **whole})
    ds = ds.drop_vars([n for n, v in ds.data_vars.items() if n != variable and v.ndim > 1 and "bnds" not in str(n)])
    if variable not in ("t2m", "tas"):
        # Leaked codes below zero are no rain.
        ds[variable] = ds[variable].clip(min=0)
    ds[variable] = ds[variable].astype("f4")
    known = ds[variable].notnull().coarsen({rows: FACTOR, columns: FACTOR}).min().values
    return ds, known.repeat(FACTOR, axis=-2).repeat(FACTOR, axis=-1)


if __name__ == "__main__":
    sys.exit(main())
