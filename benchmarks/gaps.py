"""RMSE of the bundled rain models as a ratio to the kernel, near gaps of the coarse field, on unseen radars.

    python benchmarks/gaps.py ../shared/data

There are two kinds of gaps: *coasts*, half of the coarse cells in patches; *gauges*, 30 % of the cells at random.
Complete cells next to a gap are scored separately from cells farther away.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.ndimage import binary_dilation, gaussian_filter

import downscale

FILES = {
    "MCH 2016": ("precipitation_mch_20160711_1km_5min.nc", slice(0, 40, 10)),
    "BOM": ("precipitation_bom66_20201031_500m_10min.nc", slice(0, 144, 36)),
}
COAST_CELLS, GAUGE_SHARE = 3, 0.3


def gaps(kind: str, shape: tuple[int, int]) -> np.ndarray:
    """Return the mask of missing coarse cells."""
    rng = np.random.default_rng(0)
    if kind == "gauges":
        return rng.random(shape) < GAUGE_SHARE
    smooth = gaussian_filter(rng.normal(size=shape), COAST_CELLS)
    return smooth > np.median(smooth)


def errors(fine: xr.DataArray, made: xr.DataArray, factor: int) -> np.ndarray:
    """Return the mean square error of each coarse cell over all maps, NaN where there are no values."""
    rows, columns = (size // factor for size in made.shape[-2:])
    squares = ((made.values - fine.values) ** 2).reshape(-1, rows, factor, columns, factor)
    return squares.mean(axis=(0, 2, 4))


def row(fine: xr.Dataset, factor: int, kind: str) -> tuple[float, float]:
    """Return the RMSE of the model as a ratio to the kernel, next to gaps and elsewhere."""
    dims = fine.precip.dims[-2:]
    whole = fine.isel({dim: slice(0, fine.sizes[dim] // factor * factor) for dim in dims})
    coarse = downscale.coarsen(whole, dict.fromkeys(dims, factor))
    missing = gaps(kind, coarse.precip.shape[-2:])
    holed = coarse.assign(precip=coarse.precip.where(~xr.DataArray(missing, dims=dims)))
    beside = binary_dilation(missing, np.ones((3, 3))) & ~missing
    made = (holed.downscale(factor, method=method, transform=None).precip for method in ("rain", "sobolev"))
    found = [errors(whole.precip, each, factor) for each in made]
    known = np.isfinite(found[0]) & np.isfinite(found[1])
    model, kernel = ([each[known & place].mean() for place in (beside, ~beside & ~missing)] for each in found)
    return (model[0] / kernel[0]) ** 0.5, (model[1] / kernel[1]) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the radar files")
    folder = parser.parse_args().folder
    warnings.simplefilter("ignore")
    print("| radar | factor | gaps | next to a gap | elsewhere |\n|---|---|---|---|---|")
    for name, (file, times) in FILES.items():
        fine = downscale.open_dataset(folder / file)[["precip"]].isel(time=times).load().clip(min=0, keep_attrs=True)
        for factor in (2, 4, 8):
            for kind in ("coasts", "gauges"):
                beside, elsewhere = row(fine, factor, kind)
                print(f"| {name} | x{factor} | {kind} | {beside:.2f} | {elsewhere:.2f} |", flush=True)


if __name__ == "__main__":
    main()
