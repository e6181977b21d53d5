"""Area-weighted RMSE of the bundled models on real files, as a ratio to ``sobolev`` without transform.

Run from anywhere, with the package's Python and a folder with the files named here:

    python benchmarks/models.py FOLDER [--every 1] [--factor 2] [--rain MODEL.safetensors]

Each file is coarsened by area and refined again, by every factor of a bundled model. Coarse cells with a gap are left
out, and so are times of the training data, which the checkpoint lists; a file without other times gets no score.
Missing files are skipped. ``--every`` multiplies the step between maps, and ``--rain`` replaces the bundled model.
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
from downscale.cf.horizontal import horizontal
from downscale.models import factors, path_of
from downscale.models.checkpoint import load_record
from downscale.training.origin import find_trained_times

# File, variable, step between maps, file of the orography.
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
    ("temperature_wind_precip_era5_global_1deg.nc", "t2m", 1, "orography_global_era5_1deg.nc"),
    ("temperature_era5_uk_0p25deg_201903_d01-20.nc", "t2m", 2),
    ("temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc", "tas", 1),
)


def main() -> int:
    """Print one line per file; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--factor", type=int, help="this factor only")
    parser.add_argument("--rain", default="rain", metavar="MODEL", help="a model instead of the bundled one")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    for factor in [chosen.factor] if chosen.factor else factors("rain"):
        for row in RAIN:
            judged(chosen.folder, row, factor, chosen.rain, (0.0, None), chosen.every)
    for factor in factors("temperature") if chosen.factor is None else ():
        for row in TEMPERATURE:
            judged(chosen.folder, row, factor, "temperature", None, chosen.every)
    return 0


def judged(folder: Path, row: tuple[Any, ...], factor: int, method: str, bounds: Any, thinned: int) -> None:
    """Print the line of a file."""
    name, variable, every, *relief_name = row
    label, path = f"{Path(method).stem:12s} x{factor} {name}", folder / name
    if not path.exists():
        print(f"{label}: not there, skipped")
        return
    kept, seen = unseen_times(path, variable, factor, method)
    if not kept.size:
        print(f"{label}: all times are training data, no score", flush=True)
        return
    relief = None
    if method == "temperature":
        relief = downscale.open_dataset(folder / relief_name[0] if relief_name else path, chunks=None)
    ratios = ratios_of(path, variable, kept[:: every * thinned], factor, method, bounds, relief)
    words = "unseen" if not seen else f"{kept.size} times not seen in training, {seen} seen"
    told = "  ".join(f"{word} {value:.3f}" for word, value in ratios.items())
    print(f"{label}: {told}  ({words})", flush=True)


def unseen_times(path: Path, variable: str, factor: int, method: str) -> tuple[np.ndarray, int]:
    """Return the times of a file that did not train a model, and the number of training times."""
    record = load_record(path_of(method, (factor, factor)))[1]
    ds = downscale.open_dataset(path, chunks=None)
    dim = ds[variable].dims[0]
    dates = ds[dim].values if ds[dim].dtype.kind in "MO" else None
    seen = find_trained_times(record, horizontal(ds).grid, dates, ds.sizes[dim], [str(path)])
    return np.flatnonzero(~seen), int(seen.sum())


def ratios_of(
    path: Path, variable: str, times: np.ndarray, factor: int, method: str, bounds: Any, relief: Any
) -> dict[str, float]:
    """Return errors as ratios to the kernel: of the model, and of the kernel with its transform or a lapse rate."""
    fine, judged = truth_of(path, variable, times, factor)
    coarse = downscale.coarsen(fine, factor)
    area = np.broadcast_to(downscale.cell_area(fine).values, fine[variable].shape)[judged]

    def error(**how: Any) -> float:
        made = coarse.downscale(factor, data_vars=variable, bounds=bounds, check="skip", **how)
        wrong = (made[variable].values - fine[variable].values)[judged].astype("f8")
        return float(np.sqrt(np.average(wrong**2, weights=area)))

    kernel = error(method="sobolev", transform=None)
    found = {Path(method).stem: error(method=method, orog=relief) / kernel}
    if bounds is not None:
        found["sobolev"] = error(method="sobolev") / kernel
    if relief is not None:
        term = {"orog": relief, "lapse_rate": -6.5e-3, "relief_smoothing": 0}
        found["-6.5 K/km"] = error(method="sobolev", **term) / kernel
    return found


def truth_of(path: Path, variable: str, times: np.ndarray, factor: int) -> tuple[xr.Dataset, np.ndarray]:
    """Return the reference, cropped to whole coarse cells, and the mask of scored cells."""
    ds = downscale.open_dataset(path, chunks=None)
    rows, columns = ds[variable].dims[-2:]
    whole = {dim: slice(0, ds.sizes[dim] // factor * factor) for dim in (rows, columns)}
    ds = ds.isel({ds[variable].dims[0]: times, **whole})
    ds = ds.drop_vars([n for n, v in ds.data_vars.items() if n != variable and v.ndim > 1 and "bnds" not in str(n)])
    if variable not in ("t2m", "tas"):
        # Negative values are codes.
        ds[variable] = ds[variable].clip(min=0)
    ds[variable] = ds[variable].astype("f4")
    known = ds[variable].notnull().coarsen({rows: factor, columns: factor}).min().values
    return ds, known.repeat(factor, axis=-2).repeat(factor, axis=-1)


if __name__ == "__main__":
    sys.exit(main())
