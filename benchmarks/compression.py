"""Error of compressed real fields, compared with other files of similar size.

    downscale train recipes/train_rain_code.yml
    python benchmarks/compression.py FILE.nc --var precip --model rain_code_x4.safetensors --every 12

Each method writes a file with the same deflation, and its decoded fields are compared with the originals. Scores are
bytes per fine cell, area-weighted RMSE as a ratio to that of means alone, the largest error of a coarse mean, and the
checkerboard index with that of the original. Cells whose coarse cell has a gap are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import downscale
from downscale.methods.learned import load_method
from downscale.metrics.checkerboard import checkerboard


@dataclass(frozen=True)
class Way:
    """A method to write fine fields to a file and to read them back."""

    name: str
    write: Callable[[xr.Dataset, Path], Any]
    read: Callable[[Path], xr.Dataset]


def main() -> int:
    """Print one line per method; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--var", required=True)
    parser.add_argument("--model", required=True, help="a compressor")
    parser.add_argument("--every", type=int, default=12, help="maps to skip")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    factor = load_method(chosen.model).spec.factor[0]
    truth = fields(chosen.file, chosen.var, chosen.every, 2 * factor)
    y, x = truth[chosen.var].dims[-2:]
    print(f"{chosen.file.name}: {truth.sizes['time']} maps of {truth.sizes[y]} x {truth.sizes[x]}, factor {factor}")
    print("| | bytes per fine cell | RMSE | RMSE / means alone | error of a mean | checkerboard, dB (original) |")
    print("|---|---|---|---|---|---|")
    first = None
    for way in ways(chosen.var, chosen.model, factor):
        found = judged(way, truth, chosen.var, factor)
        first = first or found["rmse"]
        print(f"| {way.name} | {found['bytes']:.3f} | {found['rmse']:.4f} | {found['rmse'] / first:.3f} | "
              f"{found['mean']:.0e} | {found['board']:.1f} ({found['true_board']:.1f}) |", flush=True)  # fmt: skip
    return 0


def fields(file: Path, name: str, every: int, multiple: int) -> xr.Dataset:
    """Return some maps, cropped to whole coarse cells, without coarse cells that contain a gap."""
    ds = downscale.open_dataset(file, chunks=None)[[name]].isel(time=slice(None, None, every))
    sizes = {dim: ds.sizes[dim] // multiple * multiple for dim in ds[name].dims[-2:]}
    ds = ds.isel({dim: slice(0, size) for dim, size in sizes.items()}).astype("f4").load()
    whole = ds[name].coarsen(dict.fromkeys(sizes, multiple)).construct({d: (f"{d}_0", f"{d}_1") for d in sizes})
    kept = whole.where(whole.notnull().all([f"{d}_1" for d in sizes])).values.reshape(ds[name].shape)
    return ds.assign({name: ds[name].copy(data=kept)})


def ways(name: str, model: str, factor: int) -> list[Way]:
    """Return the methods: means alone, the compressor, and alternatives of similar size."""

    def means(by: int, packing: Any) -> Callable[[xr.Dataset, Path], Any]:
        return lambda ds, path: downscale.to_netcdf(downscale.coarsen(ds, by), path, packing=packing)

    def finer(by: int) -> Callable[[Path], xr.Dataset]:
        return lambda path: downscale.downscale(loaded(path)[[name]], by, bounds=(0, None), check="skip")

    return [
        Way(f"means of {factor} x {factor}, sobolev bounded", means(factor, None), finer(factor)),
        Way("the compressor", lambda ds, path: downscale.to_netcdf(downscale.encode(ds, model), path),
            lambda path: downscale.downscale(loaded(path), method=model, check="skip")),
        Way("means of 2 x 2 in 16 bits, sobolev bounded", means(2, {name: "int16"}), finer(2)),
        Way("means of 2 x 2, 6 bits of the mantissa, sobolev bounded", means(2, {name: 6}), finer(2)),
        Way("the field in 16 bits", lambda ds, path: downscale.to_netcdf(ds, path, packing={name: "int16"}),
            lambda path: loaded(path)[[name]]),
        Way("the field, 3 bits of the mantissa", lambda ds, path: downscale.to_netcdf(ds, path, packing={name: 3}),
            lambda path: loaded(path)[[name]]),
    ]  # fmt: skip


def loaded(path: Path) -> xr.Dataset:
    """Return a file in memory."""
    with downscale.open_dataset(path, chunks=None) as ds:
        return ds.load()


def judged(way: Way, truth: xr.Dataset, name: str, factor: int) -> dict[str, float]:
    """Return size and errors of one method; bytes exclude coordinates."""
    with tempfile.TemporaryDirectory() as folder:
        path, bare = Path(folder) / "file.nc", Path(folder) / "bare.nc"
        way.write(truth, path)
        way.write(truth.where(False), bare)
        made = way.read(path)[name].transpose(*truth[name].dims)
        size = path.stat().st_size - bare.stat().st_size
    true, weight = truth[name], downscale.cell_area(truth).values
    error = made.values.astype("f8") - true.values
    known = np.isfinite(true.values)
    weight = np.broadcast_to(weight, error.shape)[known]
    made = true.copy(data=made.values)
    a, b = (downscale.coarsen(each.to_dataset(name=name).astype("f8"), factor)[name].values for each in (made, true))
    off = np.nanmax(np.abs(a - b) / np.maximum(np.abs(b), np.nanmax(np.abs(b)) * 1e-6))
    boards = [checkerboard(each.values, factor).to_dict()["checkerboard_index_db"] for each in (made, true)]
    return {"bytes": size / known.sum(), "rmse": float((weight * error[known] ** 2).sum() / weight.sum()) ** 0.5,
            "mean": float(off), "board": boards[0], "true_board": boards[1]}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
