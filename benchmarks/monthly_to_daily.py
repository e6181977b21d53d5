"""Daily values from monthly means: the boundary-condition problem of runs with prescribed sea-surface temperatures.

One real year of daily maxima (365 days of a noleap calendar on 36 by 36 cells) is averaged over its months. Daily
values are computed from the twelve means and compared with the original data. Each row is one method:

- linear: interpolation between mid-month values, constant beyond the first and the last. It does not conserve monthly
  means.
- AMIP: interpolation between adjusted mid-month values, whose linear interpolation has the monthly means (Taylor,
  Williamson and Zwiers, 2000, PCMDI Report 60), solved over the whole year with fixed ends.
- blocks: each day has the mean of its month.
- sobolev: ``downscale`` along time, with its default and other orders.

The first column is the largest error of a monthly mean. The next two are the root mean square error relative to the
15-day running mean of the daily data: for complete windows (days 8 to 358), and for all days with windows cut at the
ends, where the first and the last month have one neighbour. The last column is the error relative to the daily data,
whose variance is mostly weather that monthly means do not contain.

Run from the root of the repository, with the package installed:

    python benchmarks/monthly_to_daily.py [--data DIR] [--markdown]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 1 if sobolev misses a monthly mean by more than 1e-6 of its value or has a larger error relative to the
running mean than linear interpolation, 2 if the data are absent.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import downscale

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FILE, VARIABLE = "nasty_noleap_tasmax_daily_10km_2095.nc", "tasmax"
WINDOW = 15
RELATIVE = 1e-6
# Kelvin: colder than every month of every cell.
SMALLEST = 250.0
ORDERS = (0.75, 1.0, 2.0)

Floats = NDArray[np.float64]


def read(path: Path) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the daily field in float64 and its monthly means, both with time bounds."""
    ds = xr.open_dataset(path)[[VARIABLE]].load().astype("f8")
    ds[VARIABLE].attrs["cell_methods"] = "time: mean"
    daily = downscale.downscale(ds, target_grid={"time": "D"}, method="conservative")
    return daily, downscale.downscale(daily, target_grid={"time": "MS"}, method="conservative")


def series(ds: xr.Dataset) -> Floats:
    """Return the series of all cells, shape (time, cell)."""
    return np.asarray(ds[VARIABLE].transpose("time", ...).values).reshape(ds.sizes["time"], -1)


def linear(monthly: xr.Dataset, daily: xr.Dataset, means: Floats | None = None) -> Floats:
    """Interpolate between the middles of months, constant beyond the ends."""
    start = monthly["time"].values[0]
    day, middle = (np.array([gap.total_seconds() for gap in ds["time"].values - start]) for ds in (daily, monthly))
    values = series(monthly) if means is None else means
    return np.stack([np.interp(day, middle, one) for one in values.T], axis=1)


def adjusted(monthly: xr.Dataset, daily: xr.Dataset) -> Floats:
    """Interpolate between mid-month values adjusted so that the result has the monthly means."""
    response = month_means(linear(monthly, daily, np.eye(monthly.sizes["time"])), daily)
    return linear(monthly, daily, np.linalg.solve(response, series(monthly)))


def month_means(days: Floats, daily: xr.Dataset) -> Floats:
    """Return the means of the days of each month."""
    month = daily["time"].dt.month.values
    return np.stack([days[month == number].mean(axis=0) for number in range(1, 13)])


def along_time(**options: object) -> Callable[[xr.Dataset, xr.Dataset], Floats]:
    """Return a method of the package for daily values."""

    def made(monthly: xr.Dataset, daily: xr.Dataset) -> Floats:
        return series(downscale.downscale(monthly, target_grid={"time": daily}, **options))

    return made


WAYS: dict[str, Callable[[xr.Dataset, xr.Dataset], Floats]] = {
    "linear": linear,
    "AMIP": adjusted,
    "blocks": along_time(method="conservative"),
    "sobolev": along_time(),
    **{f"sobolev, order {order:g}": along_time(order=order) for order in ORDERS},
}


def running_mean(days: Floats, window: int = WINDOW) -> Floats:
    """Return centred running means over days, the window cut at the ends."""
    half = window // 2
    return np.stack([days[max(at - half, 0) : at + half + 1].mean(axis=0) for at in range(len(days))])


def rmse(one: Floats, other: Floats) -> float:
    """Return the root mean square difference over all valid values."""
    return float(np.sqrt(np.nanmean((one - other) ** 2)))


def measure(path: Path) -> dict[str, tuple[float, float, float, float]]:
    """Return the four scores of each method."""
    daily, monthly = read(path)
    truth, means = series(daily), series(monthly)
    smooth, inner = running_mean(truth), slice(WINDOW // 2, -(WINDOW // 2))
    rows = {}
    for name, way in WAYS.items():
        made = way(monthly, daily)
        miss = float(np.nanmax(np.abs(month_means(made, daily) - means)))
        rows[name] = miss, rmse(made[inner], smooth[inner]), rmse(made, smooth), rmse(made, truth)
    return rows


def table(rows: dict[str, tuple[float, float, float, float]], markdown: bool) -> str:
    """Return the rows as a text table."""
    heads = ("", "largest error of a month", "RMSE, 15-day mean", "the same, ends cut", "RMSE, daily data")
    lines = [heads, *((name, f"{miss:.1e}", *(f"{v:.3f}" for v in rest)) for name, (miss, *rest) in rows.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
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
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    path = options.data / FILE
    if not path.exists():
        print(f"expected {FILE} in {options.data}, received nothing; pass --data", file=sys.stderr)
        return 2
    rows = measure(path)
    print(table(rows, options.markdown))
    exact = rows["sobolev"][0] <= RELATIVE * SMALLEST
    nearer = rows["sobolev"][1] < rows["linear"][1]
    print(f"\nmonthly means conserved by sobolev: {exact}; lower error than linear: {nearer}")
    return 0 if exact and nearer else 1


if __name__ == "__main__":
    sys.exit(main())
