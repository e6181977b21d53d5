"""Speed of ``downscale.hourly`` in millions of hourly values per second, compared with copying the same bytes.

The fields are synthetic daily values in float32: temperature with mean, minimum and maximum, and with the mean alone;
solar radiation; rain on half of the days; wind speed with and without its maximum; dew point and relative humidity next
to temperature (whose hours are computed, too, and count). The copy reads and writes an array as large as the hours.

Run from the root of the repository, with the package installed:

    python benchmarks/hourly_speed.py [--days 365] [--side 200] [--rounds 3] [--write docs/guide/hourly.md]

Exit status 1 if temperature with mean, minimum and maximum is slower than 20 million values per second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from measure import CORES, command_of, table, write_section

import downscale

LEAST = 20.0
ATTRS = {
    "tas": ("air_temperature", "K", "mean"), "tasmin": ("air_temperature", "K", "minimum"),
    "tasmax": ("air_temperature", "K", "maximum"), "tdps": ("dew_point_temperature", "K", "mean"),
    "hurs": ("relative_humidity", "%", "mean"), "pr": ("precipitation_flux", "kg m-2 s-1", "mean"),
    "rsds": ("surface_downwelling_shortwave_flux_in_air", "W m-2", "mean"), "sfcWind": ("wind_speed", "m s-1", "mean"),
    "sfcWindmax": ("wind_speed", "m s-1", "maximum"),
}  # fmt: skip
AIR = ("tas", "tasmin", "tasmax")
REQUESTS = {
    "temperature: mean, minimum, maximum": AIR, "temperature: mean": ("tas",), "solar radiation": ("rsds",),
    "rain on half of the days": ("pr",), "wind speed: mean": ("sfcWind",),
    "wind speed: mean, maximum": ("sfcWind", "sfcWindmax"), "temperature and dew point": (*AIR, "tdps"),
    "temperature and relative humidity": (*AIR, "hurs"),
}  # fmt: skip


def fields(names: tuple[str, ...], days: int, side: int) -> xr.Dataset:
    """Return daily fields on cells of 0.1 degrees."""
    rng = np.random.default_rng(0)
    shape = (days, side, side)
    times = np.datetime64("2001-01-01T12", "ns") + np.arange(days) * np.timedelta64(1, "D")
    coords = {"time": times, "lat": 45 + 0.1 * np.arange(side), "lon": 5 + 0.1 * np.arange(side)}
    low = 280 + 5 * rng.standard_normal(shape, "f4")
    size = 4 + 12 * rng.random(shape, "f4")
    values = {
        "tas": low + (0.3 + 0.3 * rng.random(shape, "f4")) * size, "tasmin": low, "tasmax": low + size,
        "tdps": low - 4 * rng.random(shape, "f4"), "hurs": 40 + 55 * rng.random(shape, "f4"),
        "rsds": 150 * rng.random(shape, "f4"), "sfcWind": 1 + 8 * rng.random(shape, "f4"),
        "pr": (rng.gamma(0.5, 1e-4, shape) * (rng.random(shape) < 0.5)).astype("f4"),
    }  # fmt: skip
    values["sfcWindmax"] = values["sfcWind"] * (1.3 + rng.random(shape, "f4"))
    ds = xr.Dataset(coords=coords)
    for name in names:
        standard, units, method = ATTRS[name]
        attrs = {"standard_name": standard, "units": units, "cell_methods": f"time: {method}"}
        ds[name] = (("time", "lat", "lon"), values[name], attrs)
    return ds


def timed(names: tuple[str, ...], days: int, side: int, rounds: int) -> tuple[float, float]:
    """Return millions of hourly values per second of a request, and of a copy of as many bytes."""
    ds = fields(names, days, side)
    downscale.hourly(ds.isel(time=slice(3)))
    taken, copied, count = [], [], 0
    for _ in range(rounds):
        begin = time.perf_counter()
        fine = downscale.hourly(ds)
        taken.append(time.perf_counter() - begin)
        arrays = [field.values for field in fine.data_vars.values() if field.ndim == 3]
        count = sum(one.size for one in arrays)
        begin = time.perf_counter()
        copies = [one.copy() for one in arrays]
        copied.append(time.perf_counter() - begin)
        del fine, arrays, copies
    return count / statistics.median(taken) / 1e6, count / statistics.median(copied) / 1e6


def main() -> int:
    """Print the speeds; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--side", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="page to write the table into")
    options = parser.parse_args()
    rows = {}
    with warnings.catch_warnings():
        # Days whose extreme cannot be attained.
        warnings.simplefilter("ignore", UserWarning)
        for label, names in REQUESTS.items():
            rows[label] = timed(names, options.days, options.side, options.rounds)
            print(label, *(f"{one:.0f}" for one in rows[label]), file=sys.stderr)
    lines = [[name, f"{made:.0f}", f"{made / copied:.2f}"] for name, (made, copied) in rows.items()]
    text = table((f"{CORES} cores", "million hourly values per second", "to a copy"), lines)
    print(text)
    if options.write:
        write_section(options.write, "hourly speed", command_of(), text)
    return 0 if next(iter(rows.values()))[0] >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
