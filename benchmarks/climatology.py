"""Skill that fine observations add, on held-out times of real records.

Each record is divided in time: the observations, and the held-out maps, which are averaged over coarse cells with
``downscale.coarsen``, downscaled, and compared with the originals. Scores are area-weighted, over all cells of
complete coarse cells, as ratios to those of bilinear interpolation. The lapse rate is -6.5 K per km, with the
orography of the file; "quantiles" sets ``climatology_quantiles=4``, and "weight 1" ``climatology_weight=1`` (no
shrinkage). The second table shows how the error changes with the length of the record, on held-out maps of its months;
the limit is 1.01 of the kernel alone.

Run from the root of the repository, with the package installed:

    python benchmarks/climatology.py [--data DIR] [--factors 2 4] [--sets era5-uk fraser] [--plot FILE.png]
        [--write docs/guide/observations.md]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 2 if it is absent, 1 if a ratio misses its limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from accuracy import complete_cells
from fields import crop
from measure import command_of, table, write_section

import downscale

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
LAPSE_RATE = -6.5e-3
# Largest ratio to the kernel alone, at any length of the record; and the largest error of a coarse cell.
MOST_HARM, MOST_CELL_ERROR = 1.01, 1e-6
# Quantiles of the form whose detail depends on the coarse value; kinds of results, and those with limits.
QUANTILES = 4
KINDS = ("kernel", "lapse rate", "climatology", "quantiles", "weight 1")
LIMITED = ("climatology", "quantiles")
GROWING: dict[str, dict[str, Any]] = {
    "climatology": {}, "quantiles": {"climatology_quantiles": QUANTILES}, "weight 1": {"climatology_weight": 1.0},
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """A real record, and how it is divided.

    Attributes
    ----------
    name, file, variable : str
        Label, file and name of the variable.
    held_out : float
        Fraction of the maps at the end that are held out.
    by : str
        Labels of the climatology.
    lengths : tuple of int
        Numbers of maps of shorter records, which end where the held-out maps begin.
    attrs : dict
        Attributes that the file lacks.
    lapse : bool
        Whether the file has an orography for a lapse rate.
    aim : float
        Largest RMSE over bilinear at x4; infinite if there is none.
    every : int
        Held-out maps are every n-th of the last ones, to limit the time of long records.
    """

    name: str
    file: str
    variable: str
    held_out: float
    by: str
    lengths: tuple[int, ...]
    attrs: dict[str, str]
    lapse: bool = False
    aim: float = np.inf
    every: int = 1


def _record(name: str, file: str, variable: str, standard: str, units: str, **more: Any) -> Record:
    return Record(name, file, variable, attrs={"standard_name": standard, "units": units}, **more)


RAIN, AIR, WIND = ("precipitation_amount", "mm"), ("air_temperature", "K"), ("wind_speed", "m s-1")
LISFLOOD = "temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc"
BERLIN = "projection_berlin_obs_0p5deg_daily_1979-2014.nc"
DAYS = (5, 20, 60, 365, 1096, 1826, 3652, 7305)
RECORDS = (
    _record("era5-uk t2m, hourly", "temperature_era5_uk_0p25deg_201903_d01-20.nc", "t2m", *AIR, held_out=0.25,
            by="auto", lengths=(24, 48, 72, 120, 168, 240, 360), lapse=True, aim=0.62),
    _record("alps tas, 6-hourly", LISFLOOD, "tas", *AIR, held_out=1 / 3, by="auto", lengths=(4, 8, 20, 40, 60, 83),
            lapse=True, aim=0.35),
    _record("alps pr, 6-hourly", LISFLOOD, "pr", *RAIN, held_out=1 / 3, by="month", lengths=(4, 8, 20, 40, 60, 83)),
    _record("fraser pr, daily", "precipitation_fraser_daily_1986-2018_0p1deg.nc", "pr", *RAIN, held_out=0.375,
            by="auto", lengths=DAYS, aim=0.84, every=2),
    _record("berlin tas, daily", BERLIN, "tas", *AIR, held_out=4 / 9, by="auto", lengths=DAYS, every=4),
    _record("berlin pr, daily", BERLIN, "pr", *RAIN, held_out=4 / 9, by="auto", lengths=DAYS, every=4),
    _record("berlin wind, daily", BERLIN, "sfcWind", *WIND, held_out=4 / 9, by="auto", lengths=DAYS, every=4),
    _record("itu tas, monthly", "temperature_itu_p1510_monthly_0p75deg.nc", "tas", *AIR, held_out=0.5, by="none",
            lengths=(2, 4, 6), lapse=True),
    _record("itu pr, monthly", "precipitation_itu_p837_monthly_0p25deg.nc", "pr", *RAIN, held_out=0.5, by="none",
            lengths=(2, 4, 6)),
)  # fmt: skip


def opened(record: Record, folder: Path) -> xr.Dataset:
    """Return the variable of a record with its orography, if any, without cells that some time lacks, as "field"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)
        ds = xr.open_dataset(folder / record.file)
    rows = str(ds[record.variable].dims[-2])
    axes = [str(dim) for dim in ds[record.variable].dims[-2:]]
    bounds = [f"{dim}_bnds" for dim in axes if f"{dim}_bnds" in ds]
    names = [record.variable, *(["orog"] if record.lapse else []), *bounds]
    ds = ds[names].rename({record.variable: "field"})
    ds = ds.set_coords(bounds).load()
    if "lat" in rows:
        ds = ds.isel({rows: np.abs(ds[rows].values) < 90 - 1e-6})
    present = np.isfinite(ds["field"].values).all(axis=0)
    ds = ds.isel({dim: _extent(present.any(axis=1 - k)) for k, dim in enumerate(axes)})
    ds["field"].attrs = dict(record.attrs)
    return ds.assign(field=ds["field"].astype("f8"))


def _extent(present: np.ndarray) -> slice:
    where = np.flatnonzero(present)
    return slice(int(where[0]), int(where[-1]) + 1)


def divided(record: Record, ds: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the observations and the held-out maps."""
    if record.by == "none":
        # Climatological months: every second one is held out.
        return ds.isel(time=slice(0, None, 2)), ds.isel(time=slice(1, None, 2))
    first = round(ds.sizes["time"] * (1 - record.held_out))
    return ds.isel(time=slice(0, first)), ds.isel(time=slice(first, None, record.every))


def scores(fine: xr.DataArray, truth: xr.DataArray, area: np.ndarray) -> tuple[float, float]:
    """Return area-weighted RMSE and MAE over cells that are valid in both."""
    errors = np.abs(np.asarray(fine.values, np.float64) - truth.values)
    present = np.isfinite(errors)
    weights = np.where(present, area, 0.0).ravel()
    errors = np.where(present, errors, 0.0).ravel()
    return float(np.sqrt(errors**2 @ weights / weights.sum())), float(errors @ weights / weights.sum())


def measure(record: Record, ds: xr.Dataset, factor: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Return RMSE and MAE of each method over bilinear on held-out maps, and the largest error of a coarse cell."""
    ds = crop(ds, factor)
    known, held = divided(record, ds)
    truth = held[["field"]]
    coarse = complete_cells(truth, factor)
    area = downscale.cell_area(truth).values
    options = {"climatology": known[["field"]], "climatology_by": record.by}
    methods: dict[str, dict[str, Any]] = {
        "bilinear": {"method": "bilinear", "conserve": None, "bounds": None},
        "kernel": {},
        **({"lapse rate": {"orog": ds[["orog"]], "lapse_rate": LAPSE_RATE}} if record.lapse else {}),
        **{kind: options | more for kind, more in GROWING.items()},
    }
    errors, worst = {}, 0.0
    for name, more in methods.items():
        fine = downscale.downscale(coarse, factor, **more)
        errors[name] = scores(fine["field"], truth["field"], area)
        if name in LIMITED:
            report = downscale.check_conservation(coarse, fine, bounds=None).variables["field"]
            worst = max(worst, report.max_relative_error)
    base = errors.pop("bilinear")
    return {name: (pair[0] / base[0], pair[1] / base[1]) for name, pair in errors.items()}, worst


def growth(record: Record, ds: xr.Dataset, factor: int) -> list[tuple[int, dict[str, float]]]:
    """Return, by number of maps of the record, the RMSE over that of the kernel of each kind of climatology."""
    ds = crop(ds, factor)
    known, held = divided(record, ds)
    rows = []
    for length in record.lengths:
        short = known[["field"]].isel(time=slice(-length, None))
        truth = _covered(record, held[["field"]], short)
        coarse = complete_cells(truth, factor)
        area = downscale.cell_area(truth).values
        plain = scores(downscale.downscale(coarse, factor)["field"], truth["field"], area)[0]
        ratios = {}
        for kind, more in GROWING.items():
            fine = downscale.downscale(coarse, factor, climatology=short, climatology_by=record.by, **more)
            ratios[kind] = scores(fine["field"], truth["field"], area)[0] / plain
        rows.append((length, ratios))
    return rows


def _covered(record: Record, held: xr.Dataset, short: xr.Dataset) -> xr.Dataset:
    """Return the held-out maps of the months that a record contains, so that short ones count too."""
    if record.by == "none":
        return held
    months = np.unique(short["time.month"].values)
    return held.isel(time=np.isin(held["time.month"].values, months))


def draw(path: Path, lines: dict[str, list[tuple[int, dict[str, float]]]]) -> None:
    """Plot the error by length of the record, without and with quantiles."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    titles = ("one detail for each label", f"{QUANTILES} quantiles")
    for panel, kind, title in zip(panels, LIMITED, titles, strict=True):
        for number, (label, rows) in enumerate(lines.items()):
            lengths = [length for length, _ in rows]
            panel.plot(lengths, [ratios[kind] for _, ratios in rows], "o-", color=f"C{number}", label=label)
            if kind == LIMITED[0]:
                without = np.minimum([ratios["weight 1"] for _, ratios in rows], 1.6)
                panel.plot(lengths, without, ":", color=f"C{number}")
        panel.axhline(1, color="k", linewidth=0.8)
        panel.set(xscale="log", xlabel="maps in the record", ylim=(0.2, 1.6), title=title)
    panels[0].set(ylabel="RMSE / kernel")
    panels[0].text(0.02, 0.02, "dotted: weight 1", transform=panels[0].transAxes, fontsize=8)
    panels[1].legend(fontsize=8, ncols=2)
    figure.savefig(path, dpi=110)


def results(chosen: list[Record], folder: Path, factors: list[int]) -> tuple[str, int]:
    """Return the table of errors on held-out maps, and the number of missed limits."""
    rows, bad = [], 0
    for record in chosen:
        ds = opened(record, folder)
        for factor in possible(ds, factors):
            ratios, worst = measure(record, ds, factor)
            aim = record.aim if factor == 4 else np.inf
            misses = [kind for kind in LIMITED if ratios[kind][0] > MOST_HARM * ratios["kernel"][0]]
            misses += ["aim"] if min(ratios[kind][0] for kind in LIMITED) > aim else []
            misses += ["cell error"] if worst > MOST_CELL_ERROR else []
            bad += bool(misses)
            cells = [f"{ratios[kind][0]:.3f} ({ratios[kind][1]:.3f})" if kind in ratios else "" for kind in KINDS]
            rows.append([f"{record.name}, {factor}x", *cells, f"{worst:.0e}", ", ".join(misses)])
            print(" | ".join(rows[-1]), flush=True)
    return table(["record", *KINDS, "cell error", "misses"], rows), bad


def growths(chosen: list[Record], folder: Path, factors: list[int], plot: Path | None) -> tuple[str, int]:
    """Return the table of errors by length of the record, and the number of lengths that degrade skill."""
    lines, rows, bad = {}, [], 0
    for record in chosen:
        ds = opened(record, folder)
        factor = max(possible(ds, factors))
        label = f"{record.name}, {factor}x"
        lines[label] = growth(record, ds, factor)
        for length, ratios in lines[label]:
            bad += any(ratios[kind] > MOST_HARM for kind in LIMITED)
            rows.append([label, f"{length}", *(f"{ratios[kind]:.3f}" for kind in GROWING)])
            print(" | ".join(rows[-1]), flush=True)
    if plot:
        draw(plot, lines)
    return table(["record", "maps", *GROWING], rows), bad


def possible(ds: xr.Dataset, factors: list[int]) -> list[int]:
    """Return the factors that leave two coarse cells along each axis."""
    return [factor for factor in factors if min(ds["field"].shape[-2:]) // factor >= 2]


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--sets", nargs="+", help="first letters of the names of records")
    parser.add_argument("--plot", type=Path, help="picture of the error by length of the record, at the largest factor")
    parser.add_argument("--write", type=Path, help="page whose marked tables are replaced")
    asked = parser.parse_args()
    if not asked.data.is_dir():
        print(f"climatology.py: expected the data folder {asked.data}, received none; pass --data", file=sys.stderr)
        return 2
    chosen = [one for one in RECORDS if not asked.sets or any(one.name.startswith(name) for name in asked.sets)]
    print("RMSE / bilinear (MAE / bilinear) on held-out maps; largest relative error of a coarse cell")
    first, bad = results(chosen, asked.data, asked.factors)
    print("\nRMSE / kernel by number of maps of the record")
    second, harmful = growths(chosen, asked.data, asked.factors, asked.plot)
    if asked.write:
        write_section(asked.write, "climatology", command_of(), first)
        write_section(asked.write, "climatology by length", command_of(), second)
    return 1 if bad or harmful else 0


if __name__ == "__main__":
    raise SystemExit(main())
