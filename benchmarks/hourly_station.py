"""Hourly radiation, wind speed and humidity of a station from daily values, compared with the real hours.

Hours of Rosenthal-Willershausen in Germany, 2014 to 2016 (the example data of MELODIST, Foerster et al. 2016,
``testdata.csv.gz``), are averaged over days, with the minimum and the maximum of temperature and the maximum of wind
speed. ``downscale.hourly`` divides them again. Dew point is computed from temperature and relative humidity. Rows are
the root mean square error of equal hours, of the result, their ratio, and the largest relative error of a daily mean.

Nothing was fitted to these data. The amplitude of the daily cycle of wind speed, 0.2, was chosen with them in view:
here it is 0.7, over sea close to zero.

Run from the root of the repository, with the package installed:

    python benchmarks/hourly_station.py FILE [--markdown]

Exit status 1 if a daily mean differs by more than 1e-6 or a result is not better than equal hours, 2 without the data.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import downscale

# The names of columns, and standard names and units.
COLUMNS = {
    "tas": (1, "air_temperature", "degC"), "hurs": (3, "relative_humidity", "%"),
    "rsds": (4, "surface_downwelling_shortwave_flux_in_air", "W m-2"), "sfcWind": (5, "wind_speed", "m s-1"),
}  # fmt: skip
# Stamps are the ends of hours, one hour ahead of universal time.
AHEAD = np.timedelta64(2, "h")
LATITUDE, LONGITUDE = 51.0, 8.86

Floats = NDArray[np.float64]


def read(path: Path) -> tuple[xr.Dataset, dict[str, Floats]]:
    """Return daily values with the bounds of days in universal time, and the real hours, shape (days, 24)."""
    table = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=str)
    days = table[: len(table) // 24 * 24]
    begin = days[::24, 0].astype("M8[h]") - AHEAD
    hours = {}
    for name, (column, _, _) in COLUMNS.items():
        text = days[:, column]
        hours[name] = np.where(text == "", "nan", text).astype("f8").reshape(-1, 24)
    logs = np.log(hours["hurs"] / 100) + 17.625 * hours["tas"] / (243.04 + hours["tas"])
    hours["tdps"] = 243.04 * logs / (17.625 - logs)
    bounds = np.stack([begin, begin + np.timedelta64(24, "h")], axis=1).astype("M8[ns]")
    ds = xr.Dataset(coords={"time": bounds[:, 0] + np.timedelta64(12, "h"), "lat": LATITUDE, "lon": LONGITUDE})
    ds = ds.assign_coords(time_bnds=(("time", "bnds"), bounds))
    ds["time"].attrs["bounds"] = "time_bnds"
    units = {name: rest for name, (_, *rest) in COLUMNS.items()} | {"tdps": ["dew_point_temperature", "degC"]}
    roles = [(name, "mean") for name in units] + [("tas", "minimum"), ("tas", "maximum"), ("sfcWind", "maximum")]
    for name, role in roles:
        standard, unit = units[name]
        attrs = {"standard_name": standard, "units": unit, "cell_methods": f"time: {role}"}
        values = getattr(hours[name], {"mean": "mean", "minimum": "min", "maximum": "max"}[role])(axis=1)
        ds[name + ("" if role == "mean" else role[:3])] = ("time", values, attrs)
    return ds, hours


def measure(path: Path) -> dict[str, tuple[float, float, float, float]]:
    """Return the four numbers of each row."""
    ds, hours = read(path)
    air = ("tas", "tasmin", "tasmax")
    requests = {
        "radiation, W m-2": ("rsds",), "wind speed from means, m s-1": ("sfcWind",),
        "wind speed from means and maxima, m s-1": ("sfcWind", "sfcWindmax"), "dew point, K": ("tdps", *air),
        "relative humidity, %": ("hurs", *air), "relative humidity without temperature, %": ("hurs",),
    }  # fmt: skip
    rows = {}
    for row, names in requests.items():
        name, request = names[0], ds.drop_vars([other for other in ds.data_vars if other not in names])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            made = downscale.hourly(request)[name].values.reshape(-1, 24)
        real, daily = hours[name], ds[name].values[:, None]
        valid = np.isfinite(made).all(axis=1) & np.isfinite(real).all(axis=1)
        equal, error = (float(np.sqrt(np.mean((one - real)[valid] ** 2))) for one in (daily + 0 * real, made))
        scale = np.maximum(np.abs(daily[:, 0]), np.abs(made).mean(axis=1))[valid]
        miss = np.abs(made.mean(axis=1) - daily[:, 0])[valid] / np.where(scale > 0, scale, 1)
        rows[row] = equal, error, error / equal, float(miss.max())
    return rows


def table(rows: dict[str, tuple[float, float, float, float]], markdown: bool) -> str:
    """Return the rows as a text table."""
    heads = ("", "equal hours", "downscale", "ratio", "largest error of a daily mean")
    lines = [heads, *((name, *(f"{v:.3g}" for v in three), f"{miss:.0e}") for name, (*three, miss) in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    text = [[cell.ljust(w) if not at else cell.rjust(w) for at, (cell, w) in enumerate(zip(line, widths, strict=True))]
            for line in lines]  # fmt: skip
    if not markdown:
        return "\n".join("  ".join(line) for line in text)
    rule = ["-" * w if not at else "-" * (w - 1) + ":" for at, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [text[0], rule, *text[1:]])


def main() -> int:
    """Print the errors; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="testdata.csv.gz of MELODIST")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    if not options.file.exists():
        print(f"expected the file {options.file}, received nothing", file=sys.stderr)
        return 2
    rows = measure(options.file)
    print(table(rows, options.markdown))
    return 0 if all(ratio < 1 and miss <= 1e-6 for _, _, ratio, miss in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
