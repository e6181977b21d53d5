"""Variables in order: values out of order, errors of cell means and errors of fine values, without and with an order.

Real fine fields are averaged over coarse cells with ``downscale.coarsen`` and downscaled, without and with an order.
"beyond" is the number of fine values out of order without it, "with it" that with it; "coarse cells" are out of order
themselves; "cell error" is the largest relative error of a coarse mean; "error" the area-weighted root mean square
error of the bounded variable as a ratio to that without an order. For the cascade these are sums, the largest value and
the mean over ``--seeds`` members; ordered variables share their noise. The data:

- ARPEGE: temperature and dew point at 2 m over north-west France, 25 hours, cells of 0.1 degrees.
- Berlin: temperature with its daily minimum and maximum, precipitation and snowfall, 4 x 4 cells of 0.5 degrees,
  every fifth of 13149 days. At 4x a single coarse cell is left, on which the kernel has no detail.

"t2m >= d2m" is the other choice for ARPEGE: dew point is kept, and temperature is bounded by it.

The second table compares the time of bounds that are fields with that of equal bounds that are numbers, for one field
of 64-bit or 32-bit values. "none beyond": bounds that no value reaches; "part beyond": the bound is the 90 % quantile
of fine values. "in order" has no limit: one of two variables bounds the other, which changes 36 % of its values, and
the numbers are reached by no value.

Nothing was fitted to these data.

Run from the root of the repository, with the package installed:

    python benchmarks/orderings.py [--data DIR] [--seeds N] [--rounds N] [--write docs/guide/bounds.md]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 2 if it is absent; 1 if a value is out of order, a cell error exceeds 1e-6, or bounds that are fields take
more than 1.5 times the time of numbers.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from accuracy import rmse
from measure import command_of, in_turn, table, verdict, write_section

import downscale

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
ARPEGE = "temperature_humidity_wind_arpege_nw_20180501_0p1deg.nc"
BERLIN = "projection_berlin_obs_0p5deg_daily_1979-2014.nc"
MOST_CELL_ERROR, MOST_TIME = 1e-6, 1.5
# Each of so many days of Berlin.
EACH = 5
METHODS = ("sobolev", "cascade")
Pair = tuple[str, str, str]
# The bounded variable, its side and the variable that bounds it; those of one list together.
ORDERS: dict[str, list[list[Pair]]] = {
    "ARPEGE": [[("d2m", "upper", "t2m")], [("t2m", "lower", "d2m")]],
    "Berlin": [[("tasmin", "upper", "tas"), ("tasmax", "lower", "tas"), ("prsn", "upper", "pr")]],
}


def arpege(folder: Path, factor: int) -> xr.Dataset:
    """Return t2m and d2m on whole coarse cells."""
    ds = xr.open_dataset(folder / ARPEGE)[["t2m", "d2m"]]
    return ds.isel({dim: slice(ds.sizes[dim] // factor * factor) for dim in ("lat", "lon")}).load()


def berlin(folder: Path) -> xr.Dataset:
    """Return the ordered variables of the Berlin observations; snowfall is zero without precipitation."""
    ds = xr.open_dataset(folder / BERLIN).isel(time=slice(None, None, EACH)).load()
    low = ds.tas - ds.tasskew * ds.tasrange
    daily = {"tas": ("mean", ds.tas), "tasmin": ("minimum", low), "tasmax": ("maximum", low + ds.tasrange)}
    attrs = {"standard_name": "air_temperature", "units": "K"}
    fine = {name: field.assign_attrs(attrs, cell_methods=f"time: {how}") for name, (how, field) in daily.items()}
    snow = (ds.pr * ds.prsnratio.fillna(0.0)).assign_attrs(standard_name="snowfall_flux", units="kg m-2 s-1")
    return xr.Dataset(fine | {"pr": ds.pr, "prsn": snow})


def beyond(fine: xr.Dataset, name: str, side: str, other: str) -> int:
    """Return the number of fine values out of order."""
    return int(((fine[name] > fine[other]) if side == "upper" else (fine[name] < fine[other])).sum())


def results(truth: xr.Dataset, factor: int, method: str, seeds: int, pairs: list[Pair]) -> Iterator[tuple[Any, ...]]:
    """Yield the values out of order without and with an order, cells, the cell error and the ratio of errors."""
    coarse: Any = downscale.coarsen(truth, factor)
    area = np.cos(np.deg2rad(truth.lat.values))[:, None] * np.ones(truth.sizes["lon"])
    bounds = {name: (0 if name == "prsn" else None, other) if side == "upper" else (other, None)
              for name, side, other in pairs}  # fmt: skip
    found: dict[Pair, list[tuple[Any, ...]]] = {pair: [] for pair in pairs}
    for seed in range(seeds if method == "cascade" else 1):
        plain = coarse.downscale(factor, method, seed=seed)
        with warnings.catch_warnings():
            # Coarse values that are out of order themselves are counted below.
            warnings.filterwarnings("ignore", message=".*in order with those that bound them")
            fine = coarse.downscale(factor, method, seed=seed, bounds=bounds)
        report = downscale.check_conservation(coarse, fine, bounds=bounds)
        for pair in pairs:
            name, real = pair[0], truth[pair[0]].values
            ratio = rmse(fine[name].values, real, area) / rmse(plain[name].values, real, area)
            # Values of coarse cells that are out of order themselves do not count.
            one = report[name]
            found[pair].append((beyond(plain, *pair), one.values_out_of_order, one.cells_out_of_order,
                                one.max_relative_error, ratio))  # fmt: skip
    for pair, each in found.items():
        before, after, cells, cell_errors, ratios = zip(*each, strict=True)
        yield pair, sum(before), sum(after), sum(cells), max(cell_errors), float(np.mean(ratios))


def accuracy_rows(folder: Path, seeds: int) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield the cells of the first table, and whether order and means are kept."""
    for data, factor, method in product(ORDERS, (2, 4), METHODS):
        truth = arpege(folder, factor) if data == "ARPEGE" else berlin(folder)
        for pairs in ORDERS[data]:
            for pair, before, after, cells, cell_error, ratio in results(truth, factor, method, seeds, pairs):
                name, side, other = pair
                words = f"{name} {'<=' if side == 'upper' else '>='} {other}"
                row = (data, f"{factor}x", method, words, f"{before}", f"{after}", f"{cells}", f"{cell_error:.1e}",
                       f"{ratio:.4f}")  # fmt: skip
                print(*row, file=sys.stderr)
                yield row, after == 0 and cell_error <= MOST_CELL_ERROR


def field(dtype: str) -> xr.Dataset:
    """Return two large smooth-plus-rough fields, of which the second is mostly the larger one."""
    rng, shape = np.random.default_rng(1), (80, 180, 360)
    lat, lon = np.linspace(-89.5, 89.5, 180), np.linspace(0.5, 359.5, 360)
    wave = 280 + 20 * np.cos(np.deg2rad(lat))[:, None] + 3 * np.sin(np.deg2rad(3 * lon))
    tas = wave + rng.normal(0, 1, shape)
    values = {"tasmin": tas - rng.gamma(1.0, 1.0, shape), "tas": tas}
    fields = {name: (("time", "lat", "lon"), one.astype(dtype), {"units": "K"}) for name, one in values.items()}
    axes = {"lat": ("lat", lat, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})}
    return xr.Dataset(fields, axes)


def speed_rows(rounds: int) -> Iterator[tuple[str, ...]]:
    """Yield the cells of the second table."""
    for dtype in ("float32", "float64"):
        ds = field(dtype)
        one = ds[["tasmin"]]
        fine = one.downscale(2, check="skip").tasmin
        for words, number in (("none beyond", float(fine.max()) + 1), ("part beyond", float(fine.quantile(0.9)))):
            given = xr.full_like(fine, number)
            number = float(given.values.flat[0])
            # The coarse values above it have no field within it.
            low = one.clip(max=number).assign(tasmin=one.tasmin.clip(max=number).assign_attrs(units="K"))
            yield _speed(words, dtype, low, {"tasmin": (None, number)}, {"tasmin": (None, given)}, rounds)
        most = float(ds.tas.max()) + 10
        numbers = {"tasmin": (None, most), "tas": (None, most)}
        row = _speed("in order", dtype, ds, numbers, {"tasmin": (None, "tas"), "tas": (None, most)}, rounds)
        yield (*row[:-2], "-", "-")


def _speed(words: str, dtype: str, ds: xr.Dataset, numbers: Any, fields: Any, rounds: int) -> tuple[str, ...]:
    taken = in_turn({"numbers": lambda: ds.downscale(2, bounds=numbers),
                     "fields": lambda: ds.downscale(2, bounds=fields)}, rounds)  # fmt: skip
    ratios = [a / b for a, b in zip(taken["fields"].seconds, taken["numbers"].seconds, strict=True)]
    ratio = f"{taken['fields'].median / taken['numbers'].median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    times = (f"{1000 * taken[name].median:.0f} ms" for name in ("numbers", "fields"))
    return words, dtype, *times, *verdict(ratio, most=MOST_TIME)


def main() -> int:
    """Print both tables and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--seeds", type=int, default=5, help="members of the cascade")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timing")
    parser.add_argument("--write", type=Path, help="write the tables into a page")
    options = parser.parse_args()
    if not (options.data / BERLIN).exists():
        print(f"expected the data in {options.data}, found none; pass --data", file=sys.stderr)
        return 2
    rows = list(accuracy_rows(options.data, options.seeds))
    first = table(
        ("data", "", "method", "order", "beyond", "with it", "coarse cells", "cell error", "error"),
        [cells for cells, _ in rows],
    )
    times = list(speed_rows(options.rounds))
    second = table(("bounds", "values", "numbers", "fields", "ratio", "limit", ""), times)
    print(f"{first}\n\n{second}")
    if options.write:
        write_section(options.write, "orderings", command_of(), f"{first}\n\n{second}")
    return int(not all(holds for _, holds in rows) or any(row[-1] == "NO" for row in times))


if __name__ == "__main__":
    sys.exit(main())
