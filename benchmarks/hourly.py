"""Hours of temperature from daily means, minima and maxima: ``downscale.hourly`` against classical courses.

Real hours are reduced to days and brought back. The records:

- ERA5: 20 days of March 2019 on 33 x 49 cells of 0.25 degrees over the United Kingdom. Values at full hours count as
  those of the hour around them. The climatology of each half of the days is the record of the other half.
- station: Rosenthal-Willershausen in Germany (the example data of MELODIST, Foerster et al. 2016, testdata.csv.gz in
  ``--station``). Scores are those of 2016; the climatology and all fitted times and courses are of 2014 and 2015.

The sine method has its minimum at sunrise and its maximum two hours after solar noon (de Wit 1978). "Times in
hindsight" has the hours that give the lowest error on the test data themselves. The four rows of MELODIST are its
shapes, computed here: its documentation has mean square errors of 2.28, 2.12, 1.85 and 1.47 K2 for them.

Columns: the root mean square error (K), its ratio to that of the sine method, the ratio of mean squares to the best row
of MELODIST (station), the largest relative error of a daily mean, the mean absolute errors of daily minimum, maximum
and range (K), and that of the hour of the maximum on days with a range of at least 3 K.

The constants of the daily cycle of the sun are from the literature; its mean size, the smoothing over midnights and the
steep ends of the map were chosen with both records in view.

Run from the root of the repository, with the package installed:

    python benchmarks/hourly.py [--data DIR] [--station FILE] [--write docs/guide/hourly.md]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 1 if a daily mean of ``downscale.hourly`` is not exact, or if its ratio with mean, minimum and maximum is
above 0.75; 2 if the data are absent.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xarray as xr
from hourly_shapes import (
    Extremes,
    Floats,
    cosine,
    cosine_of_mean,
    course_between,
    course_of_mean,
    linear,
    mean_course,
    sine,
    sun_times,
)
from measure import command_of, table, write_section
from numpy.typing import NDArray

import downscale

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ERA5 = "temperature_era5_uk_0p25deg_201903_d01-20.nc"
ROLES = {"tas": ("mean", "mean"), "tasmin": ("minimum", "min"), "tasmax": ("maximum", "max")}
REQUESTS = (("tas",), ("tasmin", "tasmax"), ("tas", "tasmin", "tasmax"))
HEADS = ("RMSE, K", "to sine", "daily mean, relative", "minimum, K", "maximum, K", "range, K", "hour of maximum")
HALF = np.timedelta64(30, "m")
LEAST_RANGE = 3.0
MOST_RATIO, MOST_ERROR = 0.75, 1e-6
# Clock, position and test year of the station: stamps are ends of hours, one hour ahead of universal time.
AHEAD, LATITUDE, LONGITUDE, YEAR = 1, 51.0, 8.86, 2016


@dataclass(frozen=True)
class Record:
    """Real hours in kelvin, shape (days, hours, cells), at points in universal time from ``begin`` of each day on.

    ``shift`` is the first hour of days in universal time; ``folds`` are pairs of flags of days: those of the test, and
    those of the climatology.
    """

    real: Floats
    begin: NDArray[np.datetime64]
    latitude: Floats
    longitude: Floats
    shift: float
    folds: tuple[tuple[NDArray[np.bool_], NDArray[np.bool_]], ...]

    @cached_property
    def tested(self) -> NDArray[np.bool_]:
        """Return the days of all tests."""
        return np.logical_or.reduce([test for test, _ in self.folds])

    def daily(self, names: tuple[str, ...]) -> xr.Dataset:
        """Return daily values in float32."""
        bounds = np.stack([self.begin, self.begin + np.timedelta64(24, "h")], axis=1) - HALF
        coords = {"time": bounds[:, 0] + np.timedelta64(12, "h"), "time_bnds": (("time", "bnds"), bounds)}
        ds = xr.Dataset(coords=coords | self._positions())
        ds["time"].attrs["bounds"] = "time_bnds"
        for name in names:
            role, method = ROLES[name]
            attrs = {"standard_name": "air_temperature", "units": "K", "cell_methods": f"time: {role}"}
            ds[name] = (("time", "cell"), getattr(self.real, method)(axis=1).astype("f4"), attrs)
        return ds

    def hours(self, days: NDArray[np.bool_]) -> xr.Dataset:
        """Return the hours of some days."""
        times = self.begin[days][:, None] + np.arange(24) * np.timedelta64(1, "h")
        values = self.real[days].reshape(-1, self.real.shape[2])
        attrs = {"standard_name": "air_temperature", "units": "K"}
        coords = {"time": times.ravel(), **self._positions()}
        return xr.Dataset({"tas": (("time", "cell"), values, attrs)}, coords)

    def _positions(self) -> dict[str, object]:
        places = {"latitude": (self.latitude, "degrees_north"), "longitude": (self.longitude, "degrees_east")}
        return {key: ("cell", one, {"standard_name": key, "units": units}) for key, (one, units) in places.items()}

    def made(self, names: tuple[str, ...], with_climatology: bool) -> Floats:
        """Return the hours of ``downscale.hourly``."""
        ds = self.daily(names)
        with warnings.catch_warnings():
            # Days whose extreme cannot be attained: measured by the scores.
            warnings.simplefilter("ignore", UserWarning)
            if not with_climatology:
                return self._computed(ds, None)
            out = np.full_like(self.real, np.nan)
            for test, other in self.folds:
                out[test] = self._computed(ds, self.hours(other))[test]
            return out

    def _computed(self, ds: xr.Dataset, climatology: xr.Dataset | None) -> Floats:
        values = downscale.hourly(ds, climatology=climatology)["tas"].transpose("time", "cell").values
        return np.asarray(values, "f8").reshape(self.real.shape)


def era5(path: Path) -> Record:
    """Return ERA5 over the United Kingdom, with both halves of the days as tests."""
    ds = xr.open_dataset(path)
    real = ds["t2m"].values.astype("f8").reshape(-1, 24, ds.sizes["lat"] * ds.sizes["lon"])
    lat, lon = np.meshgrid(ds["lat"].values, ds["lon"].values, indexing="ij")
    first = np.arange(len(real)) < len(real) // 2
    begin = ds["time"].values[::24]
    return Record(real, begin, lat.ravel(), lon.ravel(), 0.0, ((first, ~first), (~first, first)))


def station(path: Path) -> Record:
    """Return the station, by its clock."""
    lines = np.genfromtxt(path, delimiter=",", skip_header=1, dtype=str, usecols=(0, 1))
    text = lines[: len(lines) // 24 * 24]
    real = np.where(text[:, 1] == "", "nan", text[:, 1]).astype("f8").reshape(-1, 24, 1) + 273.15
    stamps = text[::24, 0].astype("M8[ns]")
    years = stamps.astype("M8[Y]").astype(int) + 1970
    begin = stamps - np.timedelta64(60 * AHEAD, "m") - HALF
    place = (np.array([one]) for one in (LATITUDE, LONGITUDE))
    return Record(real, begin, *place, float(-AHEAD) - 0.5, ((years == YEAR, years < YEAR),))


def classical(record: Record) -> Iterator[tuple[str, Floats]]:
    """Yield the courses that need no hours, with sun times in hours since the beginning of days."""
    of, mean = Extremes.of(record.real), record.real.mean(axis=1)
    rise, noon = (one - record.shift for one in sun_times(record.begin, record.latitude, record.longitude))
    yield "sine", sine(of, rise, noon + 2.0)
    found = ((sine(of, rise + a, noon + b), a, b) for a in np.arange(-3, 3.1, 0.5) for b in np.arange(0, 5.1, 0.5))
    best, a, b = min(found, key=lambda one: rmse(record, one[0]))
    yield f"sine, times in hindsight (sunrise {a:+g} h, noon {b:+g} h)", best
    yield "linear between daily means", linear(mean)


def melodist(record: Record) -> Iterator[tuple[str, Floats]]:
    """Yield the four shapes of MELODIST, fitted to the days that are not tested."""
    (_, fitted), of, mean = record.folds[0], Extremes.of(record.real), record.real.mean(axis=1)
    months = record.begin.astype("M8[M]").astype(int) % 12 + 1
    rise, noon = (one - record.shift - 0.5 for one in sun_times(record.begin, record.latitude, record.longitude))
    whole = fitted & np.isfinite(mean[:, 0])
    late = record.real[whole].argmax(axis=1) - noon[whole]
    delay = np.stack([late[months[whole] == month].mean(axis=0) for month in range(1, 13)])
    at_low, at_high = rise.round(), (noon + delay[months - 1]).round()
    course = mean_course(record.real[fitted], months[fitted])[months - 1]
    yield "MELODIST sine_min_max", cosine(of, at_low, at_high)
    yield "MELODIST sine_mean", cosine_of_mean(mean, of, at_high)
    yield "MELODIST mean_course_min_max", course_between(of, course)
    yield "MELODIST mean_course_mean", course_of_mean(mean, of, course)


def rmse(record: Record, values: Floats) -> float:
    """Return the root mean square error over tested days without gaps."""
    return float(np.sqrt(np.nanmean((values - record.real)[record.tested] ** 2)))


def scores(record: Record, values: Floats, reference: float) -> tuple[float, ...]:
    """Return the numbers of a row."""
    valid = record.tested[:, None] & np.isfinite(record.real).all(axis=1) & np.isfinite(values).all(axis=1)
    made, real = (one.transpose(0, 2, 1)[valid] for one in (values, record.real))
    error = rmse(record, values)
    mean = np.abs(made.mean(axis=1) / real.mean(axis=1) - 1).max()
    low, high, size = (np.abs(f(made, axis=1) - f(real, axis=1)).mean() for f in (np.min, np.max, np.ptp))
    wide = np.ptp(real, axis=1) >= LEAST_RANGE
    hour = np.abs(made[wide].argmax(axis=1) - real[wide].argmax(axis=1)).mean()
    return error, error / reference, *map(float, (mean, low, high, size, hour))


def measure(record: Record, with_melodist: bool) -> dict[str, tuple[float, ...]]:
    """Return the scores of all rows."""
    courses = dict(classical(record)) | (dict(melodist(record)) if with_melodist else {})
    for names in REQUESTS:
        for with_climatology in (False, True):
            label = ", ".join(ROLES[name][0] for name in names) + (" + climatology" if with_climatology else "")
            courses[f"**downscale**, {label}"] = record.made(names, with_climatology)
    reference = rmse(record, courses["sine"])
    return {name: scores(record, values, reference) for name, values in courses.items()}


def lines(rows: dict[str, tuple[float, ...]]) -> list[list[str]]:
    """Return the rows as text, with the ratio of mean squares to the best row of MELODIST if there is one."""
    best = min((row[0] for name, row in rows.items() if name.startswith("MELODIST")), default=None)
    found = []
    for name, (error, ratio, mean, *rest) in rows.items():
        square = [] if best is None else [f"{error**2:.2f}", f"{(error / best) ** 2:.2f}"]
        found.append([name, f"{error:.3f}", f"{ratio:.2f}", *square, f"{mean:.0e}", *(f"{one:.2f}" for one in rest)])
    return found


def is_good(rows: dict[str, tuple[float, ...]]) -> bool:
    """Whether all given daily values are exact and the ratios within the aim."""
    best = min((row[0] for name, row in rows.items() if name.startswith("MELODIST")), default=None)
    good = True
    for name, (error, ratio, mean, *_) in rows.items():
        if "downscale" not in name:
            continue
        if "mean" in name:
            good &= mean <= MOST_ERROR
        if "mean, minimum, maximum" in name:
            good &= ratio <= MOST_RATIO if best is None else (error / best) ** 2 <= MOST_RATIO
    return bool(good)


def main() -> int:
    """Print the tables; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--station", type=Path, help="testdata.csv.gz of MELODIST")
    parser.add_argument("--write", type=Path, help="page to write the tables into")
    options = parser.parse_args()
    paths = [options.data / ERA5, *([options.station] if options.station else [])]
    lacking = [str(path) for path in paths if not path.exists()]
    if lacking:
        print(f"expected {', '.join(lacking)}, received nothing; pass --data", file=sys.stderr)
        return 2
    records = {"ERA5": era5(paths[0])} | ({"station": station(paths[1])} if options.station else {})
    good = True
    for name, record in records.items():
        rows = measure(record, with_melodist=name == "station")
        heads = (name, *HEADS[:2], *(("MSE, K2", "to MELODIST") if name == "station" else ()), *HEADS[2:])
        text = table(heads, lines(rows))
        print(text + "\n")
        good &= is_good(rows)
        if options.write:
            write_section(options.write, f"hourly {name}", command_of(), text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
