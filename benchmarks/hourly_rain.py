"""Hourly rain from daily amounts: the cascade of ``downscale.hourly`` compared with real rain and with equal hours.

Real rain is averaged over days and divided again. The rows are the real steps, equal steps, the cascade with its
default coefficients, and the same with independent cells. The records:

- radar: 24 hours of convective rain near Brisbane on cells of 2 km (10-minute maps, averaged over hours).
- model: 24 hours of light rain in AROME over north-west France, on cells of 0.025 degrees.
- Alps, 6 h: 31 days of EMO-5 over the Alps and the Po valley on cells of 5 km (interpolated stations).
- gauge: Rosenthal-Willershausen in Germany, May 2010 to April 2017, with tips of 0.2 mm: the example data of MELODIST
  (Foerster et al. 2016), precip5min in ``--gauge``. Its rows are of 2014 to 2017; the last one is a cascade estimated
  from the hours of 2010 to 2013 (``climatology=`` in ``downscale.hourly``).

The default coefficients are estimates from the gauge in 2010 to 2013, from parts of days with at least 2 mm. The form
of the cascade was chosen by its likelihood for radar, model and the early years of the gauge, and the reach of the
noise in space with radar and model in view. The Alps and the late years of the gauge were not used for any choice.

Columns: the fraction of steps with at least 0.1 mm/h (gauge: 0.2), the probability that the step after such a step is
one, the mean of the largest step of days with at least 1 mm, the 99.9 % quantile of steps, both in mm/h, the
correlation of neighbouring steps, and the mean of the largest step of areas of 50 km by 50 km.

Run from the root of the repository, with the package installed:

    python benchmarks/hourly_rain.py [--data DIR] [--gauge FILE] [--markdown]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 1 if daily means differ by more than 1e-6, or if the largest step or that of areas is farther from the real
one, in proportion, than that of equal steps; 2 if the data are absent.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import downscale
from downscale.fields.rain import RainCascade, estimate_cascade, rain_weights

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RADAR, MODEL = "precipitation_bom66_20201031_500m_10min.nc", "precipitation_arome_nw_20180501_0p025deg.nc"
ALPS = "temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc"
HEADS = ("", "wet steps", "wet after wet", "largest step", "99.9 %", "lag 1", "largest, 50 km")
KILOMETRES = 111.2
AREA = 50.0
FIRST_YEAR = 2014
RESOLUTION = 0.2

Floats = NDArray[np.float64]
Row = tuple[str, tuple[float, ...]]


@dataclass(frozen=True)
class Record:
    """Rain in mm/h, shape (days, steps, cells), numbers of days, and positions of the cells in degrees, if any."""

    name: str
    rain: Floats
    days: NDArray[np.int64]
    latitude: Floats | None = None
    longitude: Floats | None = None
    least: float = 0.1

    def divided(self, shared: bool = True, cascade: RainCascade | None = None) -> Floats:
        """Return the rain of the cascade with the same daily means."""
        daily, cells, positions = self.rain.mean(axis=1), np.arange(self.rain.shape[2]), None
        if shared and self.latitude is not None and self.longitude is not None:
            cells, positions = np.zeros_like(cells), (self.latitude, self.longitude)
        weights = rain_weights(daily, self.rain.shape[1], self.days, cells, positions=positions, cascade=cascade)
        return weights * daily[:, None]

    def areas(self, rain: Floats) -> Floats:
        """Return means over areas; of single cells without positions."""
        if self.latitude is None or self.longitude is None:
            return rain
        width = AREA / KILOMETRES
        rows = np.floor((self.latitude - self.latitude.min()) / width).astype(int)
        shrink = np.cos(np.deg2rad(self.latitude.mean()))
        columns = np.floor((self.longitude - self.longitude.min()) * shrink / width).astype(int)
        _, area = np.unique(rows * 10_000 + columns, return_inverse=True)
        count = np.bincount(area)
        means = np.stack([[np.bincount(area, step) / count for step in day] for day in rain])
        return means[:, :, count >= 0.5 * count.max()]


def gridded(name: str, rain: Floats, latitude: Floats, longitude: Floats) -> Record:
    """Return a record of consecutive days from maps, shape (days, steps, rows, columns), without cells with gaps."""
    lat, lon = (np.broadcast_to(one, rain.shape[2:]).ravel() for one in (latitude, longitude))
    rain = rain.reshape(*rain.shape[:2], -1)
    valid = np.isfinite(rain).all(axis=(0, 1))
    return Record(name, rain[:, :, valid], np.arange(len(rain)), lat[valid], lon[valid])


def radar(path: Path) -> Record:
    """Return hours on cells of 2 km, at positions near Brisbane."""
    rates = xr.open_dataset(path)["precip"].values.clip(0).astype("f8")
    rain = rates.reshape(1, 24, 6, 128, 4, 128, 4).mean(axis=(2, 4, 6))
    step = 2.0 / KILOMETRES * np.arange(128)
    return gridded("radar", rain, -27.7 + step[:, None], 153.2 + step / np.cos(np.deg2rad(27.7)))


def model(path: Path) -> Record:
    """Return hours of AROME."""
    ds = xr.open_dataset(path)
    return gridded("model", ds["pr"].values.astype("f8")[None], ds["lat"].values[:, None], ds["lon"].values)


def alps(path: Path) -> Record:
    """Return steps of six hours, at positions on a plane; stamps are the ends of steps."""
    rain = xr.open_dataset(path)["pr"].values[1:125].astype("f8").clip(0) / 24
    rows, columns = rain.shape[1:]
    step = 5.0 / KILOMETRES
    lat, lon = 48 - step * np.arange(rows)[:, None], 8 + step * np.arange(columns) / np.cos(np.deg2rad(46.0))
    return gridded("Alps, 6 h", rain.reshape(31, 4, rows, columns), lat, lon)


def gauge(path: Path) -> tuple[Record, Record]:
    """Return hours before and after the beginning of the first year that was not used."""
    lines = np.loadtxt(path, delimiter=",", dtype=str)
    days = lines[::288, 0].astype("M8[D]")
    rain = lines[:, 1].astype("f8").reshape(days.size, 24, 12).sum(axis=2)[..., None]
    late = days >= np.datetime64(f"{FIRST_YEAR}-01-01")
    early, later = (Record("gauge", rain[one], days[one].astype(int), least=RESOLUTION) for one in (~late, late))
    return early, later


def scores(record: Record, rain: Floats) -> tuple[float, ...]:
    """Return the six scores of rain with the cells of a record."""
    # Limits are multiples of the resolution of the gauge, from which sums may differ by rounding.
    least, series = record.least * (1 - 1e-9), rain.reshape(-1, rain.shape[2])
    wet, heavy = series >= least, rain.mean(axis=1) * 24 >= 1 - 1e-9
    after = (wet[1:] & wet[:-1]).sum() / max(wet[:-1].sum(), 1)
    lag = np.corrcoef(series[1:].ravel(), series[:-1].ravel())[0, 1]
    areas = record.areas(rain)
    largest = areas.max(axis=1)[areas.mean(axis=1) * 24 >= 1 - 1e-9]
    return tuple(map(float, (wet.mean(), after, rain.max(axis=1)[heavy].mean(), np.quantile(series, 0.999), lag,
                             largest.mean())))  # fmt: skip


def measure(data: Path, gauge_path: Path | None) -> Iterator[tuple[str, list[Row], float]]:
    """Yield for each record its name, the scores of each row, and the largest relative error of a daily mean."""
    records = [radar(data / RADAR), model(data / MODEL), alps(data / ALPS)]
    early = None
    if gauge_path is not None:
        before, after = gauge(gauge_path)
        records.append(after)
        early = estimate_cascade(before.rain, before.days)
    for record in records:
        made, daily = record.divided(), record.rain.mean(axis=1)
        rows = [("real", record.rain), ("equal steps", np.repeat(daily[:, None], record.rain.shape[1], axis=1)),
                ("cascade", made)]  # fmt: skip
        if record.latitude is not None:
            rows.append(("cascade, independent cells", record.divided(shared=False)))
        elif early is not None:
            rows.append(("cascade of the gauge", record.divided(cascade=early)))
        wet = daily > 0
        error = float((np.abs(made.mean(axis=1) - daily)[wet] / daily[wet]).max())
        yield record.name, [(name, scores(record, rain)) for name, rain in rows], error


def speed(days: int = 100, side: int = 100) -> float:
    """Return millions of hourly values per second of ``downscale.hourly`` with rain on half of the days."""
    rng = np.random.default_rng(0)
    shape = (days, side, side)
    rain = (rng.gamma(0.5, 1e-4, shape) * (rng.random(shape) < 0.5)).astype("f4")
    times = np.datetime64("2001-01-01", "ns") + np.arange(days) * np.timedelta64(1, "D")
    attrs = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1", "cell_methods": "time: mean"}
    coords = {"time": times, "lat": 45 + 0.1 * np.arange(side), "lon": 5 + 0.1 * np.arange(side)}
    ds = xr.Dataset({"pr": (("time", "lat", "lon"), rain, attrs)}, coords)
    downscale.hourly(ds.isel(time=slice(2)))
    start = time.perf_counter()
    fine = downscale.hourly(ds)
    return fine["pr"].size / (time.perf_counter() - start) / 1e6


def table(name: str, rows: list[Row], markdown: bool) -> str:
    """Return the rows as a text table."""
    lines = [(name, *HEADS[1:]), *((row, *(f"{value:.3g}" for value in values)) for row, values in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    text = [[cell.ljust(w) if not at else cell.rjust(w) for at, (cell, w) in enumerate(zip(line, widths, strict=True))]
            for line in lines]  # fmt: skip
    if not markdown:
        return "\n".join("  ".join(line) for line in text)
    rule = ["-" * w if not at else "-" * (w - 1) + ":" for at, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [text[0], rule, *text[1:]])


def main() -> int:
    """Print the scores; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--gauge", type=Path, help="testdata_precip5min.csv.gz of MELODIST")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    needed = [options.data / name for name in (RADAR, MODEL, ALPS)] + ([options.gauge] if options.gauge else [])
    lacking = [str(path) for path in needed if not path.exists()]
    if lacking:
        print(f"expected {', '.join(lacking)}, received nothing; pass --data", file=sys.stderr)
        return 2
    good = True
    for name, rows, error in measure(options.data, options.gauge):
        print(table(name, rows, options.markdown) + "\n")
        real, equal, made = (values for _, values in rows[:3])
        good &= error <= 1e-6 and all(abs(np.log(made[i] / real[i])) < abs(np.log(equal[i] / real[i])) for i in (2, 5))
    print(f"million hourly values per second: {speed():.0f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
