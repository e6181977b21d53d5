"""Error of temperature with the terrain term: given rates, smoothed orography, and rates from self-validation.

Five real fields with orography are coarsened by area and refined again at 2x, 4x and 8x. Rate and smoothing are chosen
from the coarse maps of some times alone; the scores are those of the other times. Each number is the area-weighted RMSE
as a ratio to ``sobolev`` without a term; lower is better.

- -6.5 K/km: the free-air rate, ``relief_smoothing=0``.
- smoothed: the same rate with orography smoothed by one fine cell, ``relief_smoothing=1``.
- default: the same rate, with the smoothing chosen by self-validation.
- auto: ``lapse_rate="auto"``; the last column has the chosen rate and smoothing, or a dash if there is no term.

Run from the root of the repository, with the package installed:

    python benchmarks/terrain.py [--data DIR] [--factor 4] [--every 4] [--markdown]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository. ``--every`` takes
every nth map of long records. Exit status 1 if auto degrades any field by more than 1 %, 2 if the data are absent.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import downscale
from downscale.cf.coordinates import select
from downscale.cf.horizontal import horizontal
from downscale.check.self_validation import weighted_rmse
from downscale.request import Request
from downscale.steps.terrain import settle_terrain

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
FACTORS = (2, 4, 8)
FREE_AIR = -6.5e-3
LARGEST = 1.01
COLUMNS = ("-6.5 K/km", "smoothed", "default", "auto")

Choice = Callable[[int], NDArray[np.bool_]]


def first_half(size: int) -> NDArray[np.bool_]:
    """Choose on the first half of the times."""
    return np.arange(size) < size // 2


def alternate(size: int) -> NDArray[np.bool_]:
    """Choose on every second time."""
    return np.arange(size) % 2 == 0


# Label, file, variable, times to choose on, and the file of the orography if it is another.
FIELDS: tuple[tuple[Any, ...], ...] = (
    ("MOGREPS-UK, 2 km", "temperature_mogrepsuk_2km_20170602-03.nc", "tas", first_half),
    ("ERA5-UK, 0.25 degrees", "temperature_era5_uk_0p25deg_201903_d01-20.nc", "t2m", first_half),
    ("ITU P.1510, 0.75 degrees", "temperature_itu_p1510_monthly_0p75deg.nc", "tas", alternate),
    ("ERA5, 1 degree", "temperature_wind_precip_era5_global_1deg.nc", "t2m", first_half,
     "orography_global_era5_1deg.nc"),
    ("LISFLOOD Alps, 5 km", "temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc", "tas", first_half),
)  # fmt: skip


def read(folder: Path, row: tuple[Any, ...], every: int) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the fine field, in memory and in float64, and its orography."""
    _, file, variable, _, *other = row
    ds = downscale.open_dataset(folder / file, chunks=None)
    statics = downscale.open_dataset(folder / other[0], chunks=None) if other else ds
    time = ds[variable].dims[0]
    step = every if ds.sizes[time] > 100 else 1
    field = select(ds, variable).isel({time: slice(None, None, step)}).load()
    return field.assign({variable: field[variable].astype("f8")}), select(statics, "orog").load()


def scores(field: xr.Dataset, orog: xr.Dataset, row: tuple[Any, ...], factor: int) -> dict[str, Any]:
    """Return the ratios of errors on held-out times, and the choice of "auto"."""
    variable, choose = row[2], row[3]
    dims = horizontal(field).dims
    time = field[variable].dims[0]
    fine = field.isel({dim: slice(0, field.sizes[dim] // factor * factor) for dim in dims})
    coarse = downscale.coarsen(fine, factor)
    chosen = choose(fine.sizes[time])
    held_out, area = coarse.isel({time: ~chosen}), downscale.cell_area(fine)

    def error(**options: Any) -> float:
        made = held_out.downscale(factor, bounds=None, check="skip", **options)
        return weighted_rmse(made[variable], fine[variable].isel({time: ~chosen}), area)

    def settled(**options: Any) -> Request:
        request = Request(factor=factor, bounds=None, orog=orog, **options)
        return settle_terrain(coarse.isel({time: chosen}), request)[0]

    def term(rate: Any, smoothing: Any) -> float:
        return error() if rate is None else error(orog=orog, lapse_rate=rate, relief_smoothing=smoothing)

    kernel, default = error(), settled(lapse_rate=FREE_AIR)
    auto = settled(lapse_rate="auto")
    rate, smoothing = _only(auto.lapse_rate), _only(auto.relief_smoothing)
    smoothings = {COLUMNS[0]: 0.0, COLUMNS[1]: 1.0, COLUMNS[2]: _only(default.relief_smoothing)}
    ratios = {name: term(FREE_AIR, value) / kernel for name, value in smoothings.items()}
    ratios["auto"] = term(rate, smoothing) / kernel
    return {**ratios, "choice": "-" if rate is None else f"{1000 * rate:.1f} K/km, {smoothing:g}"}


def _only(value: Any) -> Any:
    return next(iter(value.values())) if isinstance(value, dict) else value


def table(rows: list[tuple[str, ...]], markdown: bool) -> str:
    """Return rows, with the header first, as a text table."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if not markdown:
        return "\n".join(lines)
    rule = ("---",) * len(rows[0])
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rule, *rows[1:]])


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--factor", type=int, choices=FACTORS, help="this factor only")
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    present = [row for row in FIELDS if (options.data / row[1]).exists()]
    if not present:
        print(f"expected the files of FIELDS in {options.data}, received none; pass --data", file=sys.stderr)
        return 2
    rows, worst = [("field", "factor", *COLUMNS, "auto: rate, smoothing")], 0.0
    for factor in [options.factor] if options.factor else FACTORS:
        ratios = []
        for row in present:
            found = scores(*read(options.data, row, options.every), row, factor)
            ratios.append([found[name] for name in COLUMNS])
            rows.append((row[0], f"{factor}x", *(f"{value:.3f}" for value in ratios[-1]), found["choice"]))
        rows.append(("mean", f"{factor}x", *(f"{value:.3f}" for value in np.mean(ratios, axis=0)), ""))
        worst = max(worst, *(ratio[-1] for ratio in ratios))
    print(table(rows, options.markdown))
    print(f"\nlargest ratio of auto: {worst:.3f} (limit {LARGEST:g})")
    return 0 if worst <= LARGEST else 1


if __name__ == "__main__":
    sys.exit(main())
