"""Hourly rain from daily amounts: the cascade of ``downscale.hourly`` compared with real rain and with equal hours.

Real rain is summed to days and divided into hours again. The rows are the real hours, equal hours, and the cascade with
its default coefficients:

- radar: 24 hours of convective rain near Brisbane on cells of 2 km (10-minute maps, averaged over hours).
- model: 24 hours of light rain in AROME over north-west France, on cells of 0.025 degrees.
- gauge: Rosenthal-Willershausen in Germany, May 2010 to April 2017, with tips of 0.2 mm: the example data of MELODIST
  (Foerster et al. 2016), precip5min in ``--gauge``. The defaults are estimates from 2010 to 2013, from parts of days
  with at least 2 mm. The rows are of 2014 to 2017.

The form of the cascade was chosen by its likelihood on all three, its coefficients on the early years of the gauge
alone.

Columns: the fraction of hours with at least 0.1 mm (gauge: 0.2 mm), the probability that the hour after such an hour is
one, the mean of the largest hour of days with at least 1 mm, the 99.9 % quantile of hours, and the correlation of
neighbouring hours. The last row of the gauge is a cascade estimated from the hours of 2010 to 2013 (``climatology=`` in
``downscale.hourly``).

Run from the root of the repository, with the package installed:

    python benchmarks/hourly_rain.py [--data DIR] [--gauge FILE] [--markdown]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 1 if daily sums differ by more than 1e-6, or if the largest hour or the quantile of the cascade is farther
from the real one than that of equal hours; 2 if the data are absent.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import downscale
from downscale.fields.rain import RainCascade, estimate_cascade, rain_weights

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RADAR, MODEL = "precipitation_bom66_20201031_500m_10min.nc", "precipitation_arome_nw_20180501_0p025deg.nc"
HEADS = ("", "wet hours", "wet after wet", "largest hour, mm", "99.9 %, mm", "lag 1")
FIRST_YEAR = 2014
RESOLUTION = 0.2

Floats = NDArray[np.float64]


def radar(path: Path) -> Floats:
    """Return hourly rain in mm, shape (days, hours, cells), of 2 km cells that are covered throughout."""
    rates = xr.open_dataset(path)["precip"].values.clip(0).astype("f8")
    rates = rates.reshape(24, 6, 128, 4, 128, 4).mean(axis=(1, 3, 5)).reshape(1, 24, -1)
    return rates[:, :, np.isfinite(rates).all(axis=(0, 1))]


def model(path: Path) -> Floats:
    """Return hourly rain in mm, shape (days, hours, cells)."""
    return xr.open_dataset(path)["pr"].values.astype("f8").reshape(1, 24, -1)


def gauge(path: Path) -> tuple[Floats, NDArray[np.int64]]:
    """Return hourly rain in mm, shape (days, hours, 1), and the number of each day."""
    lines = np.loadtxt(path, delimiter=",", dtype=str)
    days = lines[::288, 0].astype("M8[D]")
    rain = lines[:, 1].astype("f8").reshape(days.size, 24, 12).sum(axis=2)
    return rain[..., None], days.astype(np.int64)


def scores(rain: Floats, least: float) -> tuple[float, ...]:
    """Return the five scores of hourly rain, shape (days, hours, cells)."""
    series = rain.reshape(-1, rain.shape[2])
    wet, heavy = series >= least, rain.sum(axis=1) >= 1
    after = (wet[1:] & wet[:-1]).sum() / max(wet[:-1].sum(), 1)
    lag = np.corrcoef(series[1:].ravel(), series[:-1].ravel())[0, 1]
    largest = rain.max(axis=1)[heavy].mean()
    return float(wet.mean()), float(after), float(largest), float(np.quantile(series, 0.999)), float(lag)


def divided(rain: Floats, days: NDArray[np.int64], cascade: RainCascade | None = None) -> Floats:
    """Return hours of the cascade with the daily sums of hourly rain."""
    daily = rain.mean(axis=1)
    return rain_weights(daily, 24, days, np.arange(rain.shape[2]), cascade=cascade) * daily[:, None]


def measure(data: Path, gauge_path: Path | None) -> Iterator[tuple[str, list[tuple[str, tuple[float, ...]]], float]]:
    """Yield for each record its name, the scores of each row, and the largest relative error of a daily sum."""
    first = np.zeros(1, np.int64)
    records = [("radar", radar(data / RADAR), first), ("model", model(data / MODEL), first)]
    early = None
    if gauge_path is not None:
        rain, days = gauge(gauge_path)
        is_late = days.astype("M8[D]").astype("M8[Y]").astype(int) + 1970 >= FIRST_YEAR
        records.append(("gauge", rain[is_late], days[is_late]))
        early = estimate_cascade(rain[~is_late], days[~is_late])
    for name, rain, days in records:
        least = RESOLUTION if name == "gauge" else 0.1
        made, daily = divided(rain, days), rain.mean(axis=1)
        rows = [("real", scores(rain, least)),
                ("equal hours", scores(np.broadcast_to(daily[:, None], rain.shape), least)),
                ("cascade", scores(made, least))]  # fmt: skip
        if name == "gauge":
            rows.append(("cascade of the gauge", scores(divided(rain, days, early), least)))
        wet = daily > 0
        yield name, rows, float((np.abs(made.mean(axis=1) - daily)[wet] / daily[wet]).max())


def speed(days: int = 60, cells: int = 20_000) -> float:
    """Return millions of hourly values per second of ``downscale.hourly`` with rain on half of the days."""
    rng = np.random.default_rng(0)
    rain = (rng.gamma(0.5, 1e-4, (days, cells)) * (rng.random((days, cells)) < 0.5)).astype("f4")
    time_axis = np.datetime64("2001-01-01", "ns") + np.arange(days) * np.timedelta64(1, "D")
    attrs = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1", "cell_methods": "time: mean"}
    ds = xr.Dataset({"pr": (("time", "cell"), rain, attrs)}, {"time": time_axis})
    downscale.hourly(ds.isel(time=slice(2)))
    start = time.perf_counter()
    fine = downscale.hourly(ds)
    return fine["pr"].size / (time.perf_counter() - start) / 1e6


def table(name: str, rows: list[tuple[str, tuple[float, ...]]], markdown: bool) -> str:
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
    lacking = [name for name in (RADAR, MODEL) if not (options.data / name).exists()]
    if lacking or (options.gauge is not None and not options.gauge.exists()):
        print(f"expected {', '.join(lacking) or options.gauge}, received nothing; pass --data", file=sys.stderr)
        return 2
    good = True
    for name, rows, error in measure(options.data, options.gauge):
        print(table(name, rows, options.markdown) + "\n")
        real, equal, made = (values for _, values in rows[:3])
        good &= error <= 1e-6 and all(abs(made[i] - real[i]) < abs(equal[i] - real[i]) for i in (2, 3))
    print(f"million hourly values per second: {speed():.0f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
