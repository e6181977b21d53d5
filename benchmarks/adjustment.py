"""Time and memory of the bias adjustment in bands, against xsdba called directly on the same cells.

A grid is filled with the four coarse cells of the Berlin record (36 years, daily), to which small noise is added. The
adjustment of ``downscale project`` reads files, works in bands within --max-memory, and writes files; xsdba has all
cells in memory, in one call. Both take windows of 31 days and 50 quantiles. Times are those of the processor, after a
first call that compiles; the peak is that of a process of its own.

Columns: seconds of xsdba, seconds of the adjustment in bands, their ratio, the peak of memory (MB), the number of
bands, and the largest difference of the results over the standard deviation of the adjusted record. It is that of the
random numbers of the frequency adaptation for precipitation.

Run from the root of the repository, with the package and the extra "project" installed:

    python benchmarks/adjustment.py [--cells 256] [--names tas pr] [--max-memory 2GB] [--data DIR]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 1 if the ratio is above 1.2 or the peak above --max-memory; 2 if the data are absent.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from measure import table

import downscale
from downscale.options import bytes_of
from downscale.projections.adjustment import break_ties, train
from downscale.projections.bands import adjust_records
from downscale.projections.settings import settings_for, threshold_in

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = {
    "observed": "projection_berlin_obs_0p5deg_daily_1979-2014.nc",
    "historical": "projection_berlin_model_1deg_daily_1979-2014.nc",
    "future": "projection_berlin_model_1deg_daily_2065-2100.nc",
}
YEARS = 1979, 2014
MOST_RATIO = 1.2


def write_records(folder: Path, data: Path, name: str, cells: int) -> None:
    """Write the three records of a variable on a grid of about as many cells."""
    width = max(1, round(cells**0.5))
    height = -(-cells // width)
    for number, (key, file) in enumerate(FILES.items()):
        with xr.open_dataset(data / file) as ds:
            field = ds[name].load()
        values = field.values.reshape(field.sizes["time"], -1)
        values = np.resize(values.T, (height * width, len(values))).T
        noise = np.random.default_rng(number).normal(1, 1e-4, values.shape)
        grid = {"lat": np.linspace(45, 55, height), "lon": np.linspace(5, 15, width)}
        made = xr.DataArray((values * noise).astype(np.float32).reshape(-1, height, width),
                            {"time": field.time, **grid}, ("time", "lat", "lon"), name, field.attrs)  # fmt: skip
        made.to_netcdf(folder / f"{key}.nc")


def open_records(folder: Path, **options: object) -> dict[str, xr.Dataset]:
    return {key: xr.open_dataset(folder / f"{key}.nc", **options) for key in FILES}


def warm_up(folder: Path, name: str) -> None:
    """Compile what both use."""
    few = {key: ds[name].isel(lat=[0], lon=[0]).load() for key, ds in open_records(folder).items()}
    settings = settings_for(name, few["observed"], {"group": "month"})
    train(few["observed"], few["historical"], settings).adjust(few["future"])


def run_bands(folder: Path, name: str, limit: str) -> None:
    """Adjust in bands, and print the seconds, the peak of memory and the number of bands."""
    warm_up(folder, name)
    start = time.process_time()
    ds = open_records(folder, chunks={"time": 1000})
    with downscale.set_options(max_memory=limit):
        made = adjust_records(
            ds["observed"], ds["historical"], {"future": ds["future"]}, None, folder / "out", reference=YEARS
        )
    seconds = time.process_time() - start
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, made.tasks]))


def run_xsdba(folder: Path, name: str) -> tuple[float, xr.DataArray]:
    """Return the seconds of xsdba in one call for all cells, and its result."""
    import xsdba

    warm_up(folder, name)
    fields = {key: ds[name].load() for key, ds in open_records(folder).items()}
    settings = settings_for(name, fields["observed"])
    units = fields["observed"].attrs["units"]
    flat = [field.stack(cell=("lat", "lon")).reset_index("cell", drop=True).assign_attrs(units="1")
            for field in fields.values()]  # fmt: skip
    options: dict[str, object] = {"nquantiles": settings.quantiles, "group": xsdba.Grouper("time.dayofyear", 31)}
    options["kind"] = {"additive": "+", "multiplicative": "*"}[str(settings.kind)]
    if settings.wet_threshold is not None:
        threshold = repr(threshold_in(settings.wet_threshold, units))
        options |= {"adapt_freq_thresh": threshold, "jitter_under_thresh_value": threshold}
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained = xsdba.QuantileDeltaMapping.train(flat[0], flat[1], **options)
        result = trained.adjust(break_ties(flat[2], settings), interp=settings.interp, rank_window=True)
    seconds = time.process_time() - start
    return seconds, result.transpose("time", "cell")


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--cells", type=int, default=256)
    parser.add_argument("--names", nargs="+", default=["tas", "pr"])
    parser.add_argument("--max-memory", default="2GB")
    parser.add_argument("--bands", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bands is not None:
        run_bands(options.bands, options.names[0], options.max_memory)
        return 0
    lacking = [str(options.data / file) for file in FILES.values() if not (options.data / file).exists()]
    if lacking:
        print(f"expected {', '.join(lacking)}, received nothing; pass --data", file=sys.stderr)
        return 2
    rows, good = [], True
    for name in options.names:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_records(folder, options.data, name, options.cells)
            command = [
                sys.executable,
                __file__,
                "--bands",
                temporary,
                "--names",
                name,
                "--max-memory",
                options.max_memory,
            ]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            seconds, peak, bands = json.loads(found)
            own, expected = run_xsdba(folder, name)
            with xr.open_dataset(folder / "out" / "model_future.nc") as ds:
                made = ds[name].values.reshape(expected.shape)
            difference = float(np.abs(made - expected.values).max() / expected.values.std())
        ratio = seconds / own
        good &= ratio <= MOST_RATIO and peak <= bytes_of(options.max_memory)
        rows.append((name, str(options.cells), f"{own:.1f}", f"{seconds:.1f}", f"{ratio:.2f}", f"{peak / 1e6:,.0f}",
                     str(bands), f"{difference:.1e}"))  # fmt: skip
    heads = ("variable", "cells", "xsdba, s", "in bands, s", "ratio", "peak, MB", "bands", "difference")
    print(table(heads, rows))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
