"""Projections of real records beside their baselines, on years that nothing was trained on.

Two pairs of model and observations:

- ``berlin``: ten daily variables of a climate model at 1 degree (2 x 2 cells) and of observations at 0.5 degrees
  (4 x 4 cells), 1979-2014, and the model in 2065-2100. The adjustment and the fine climatology are trained on
  1979-1996, the scores are those of 1997-2014. Days of the model do not correspond to those of the observations.
- ``fraser``: a pseudo-model of daily rain, whose days do correspond. The file at 0.1 degrees repeats cells of 0.3 x
  0.45 degrees; these 4 x 6 cells are the observations. The model has their means over 2 x 2 cells, distorted: 1.3 times
  the power 0.9 of the amount (mm), and drizzle of up to 1.5 mm on a random 40 % of the days of each cell. In
  ``fraser-constant`` the drizzle is 0.3 mm on all days. Training on 1986-2001, scores on 2002-2017.

The model is adjusted on its own cells (quantile delta mapping, default settings) and downscaled with the climatology of
the training years, with one detail per month or four by rank, whichever predicts training years left out better; one
member of the cascade is beside it. No setting was chosen on the years of the scores; the native cells of ``fraser``,
the constant drizzle and the cascade were added after a first run. Baselines use the same inputs: the raw model
interpolated bilinearly, BCSD (interpolated anomalies of the adjusted model from the observed climatology), and quantile
mapping of each fine cell with the settings of the adjustment.

Run from the root of the repository, with the package and its extra "project" installed:

    python benchmarks/projection.py [--data DIR] [--sets berlin fraser] [--variables tas pr] [--folder DIR]
        [--write docs/guide/projections.md]

DOWNSCALE_TEST_DATA also sets the data folder; the default is ../shared/data next to the repository.
Exit status 2 if it is absent, 1 if a limit is missed: conservation and change signal 1e-6, block edge index
0.95 to 1.05 of the observed one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from measure import command_of, table, write_section

import downscale
from downscale.check.climatology import climatology_validation
from downscale.projections.adjustment import train
from downscale.projections.assess import HISTORICAL, Assessment, Fields, assess, write_assessment
from downscale.projections.baselines import BASELINES
from downscale.projections.cells import select_period
from downscale.projections.families import from_adjustable, to_adjustable
from downscale.projections.settings import settings_for
from downscale.projections.signal import signal_error
from downscale.projections.validation import to_markdown
from downscale.request import read_request

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MOST_ERROR, EDGES = 1e-6, (0.95, 1.05)
SCENARIO, MEMBER = "future", "one cascade member"
FACTOR, AMOUNT, POWER, DRIZZLE, DRIZZLY, SEED = 2, 1.3, 0.9, 1.5, 0.4, 7


@dataclass(frozen=True)
class Pair:
    """A model and observations, with the years of training and validation."""

    observed: xr.Dataset
    experiments: dict[str, xr.Dataset]
    reference: tuple[int, int]
    validation: tuple[int, int]
    paired: bool


def berlin(folder: Path) -> Pair:
    """Return the Berlin record, with temperatures and snowfall in order instead of range, skewness and ratio."""
    names = {"observations": "obs_0p5deg_daily_1979-2014", HISTORICAL: "model_1deg_daily_1979-2014",
             SCENARIO: "model_1deg_daily_2065-2100"}  # fmt: skip
    parts = {key: from_adjustable(xr.open_dataset(folder / f"projection_berlin_{name}.nc"))
             for key, name in names.items()}  # fmt: skip
    observed = parts.pop("observations")
    return Pair(observed, parts, (1979, 1996), (1997, 2014), False)


def native(ds: xr.Dataset) -> xr.Dataset:
    """Return the rain record on its own cells of 0.3 x 0.45 degrees, which the file repeats 3 x 4 or 3 x 5 times."""
    rain = ds.pr
    steps = [np.flatnonzero(np.abs(rain[:400].diff(dim)).max(("time", other)).values > 0) + 1
             for dim, other in (("lat", "lon"), ("lon", "lat"))]  # fmt: skip
    # Cells at the border of the file are incomplete; latitudes begin with a whole one.
    steps[0] = np.append(0, steps[0])
    firsts = [part[: (part.size - 1) // 2 * 2 + 1] for part in steps]
    cells = rain.isel(lat=firsts[0][:-1], lon=firsts[1][:-1])
    coords: dict[str, Any] = {}
    for dim, first in zip(("lat", "lon"), firsts, strict=True):
        bounds = ds[f"{dim}_bnds"].values
        edges = np.linspace(bounds[first[0], 0], bounds[first[-1] - 1, 1], first.size)
        pairs = np.stack([edges[:-1], edges[1:]], axis=1)
        coords[dim] = (dim, pairs.mean(axis=1), {**ds[dim].attrs, "bounds": f"{dim}_bnds"})
        coords[f"{dim}_bnds"] = ((dim, "bnds"), pairs)
    return cells.to_dataset().assign_coords(coords)


def fraser(folder: Path, constant: bool = False) -> Pair:
    """Return the rain record and a pseudo-model: its coarse means, distorted, with random or constant drizzle."""
    with xr.open_dataset(folder / "precipitation_fraser_daily_1986-2018_0p1deg.nc") as ds:
        observed = native(ds.sel(time=slice("1986", "2017")).load())
    coarse = downscale.coarsen(observed, FACTOR)
    rng = np.random.default_rng(SEED)
    rain = coarse.pr.values.astype(np.float64)
    drizzle = DRIZZLE * rng.random(rain.shape) * (rng.random(rain.shape) < DRIZZLY)
    distorted = AMOUNT * rain**POWER + (DRIZZLE * DRIZZLY / 2 if constant else drizzle)
    model = coarse.assign(pr=coarse.pr.copy(data=distorted.astype(np.float32)))
    return Pair(observed, {HISTORICAL: model}, (1986, 2001), (2002, 2017), True)


SETS = {"berlin": berlin, "fraser": fraser, "fraser-constant": partial(fraser, constant=True)}


def adjust(pair: Pair, variables: list[str]) -> dict[str, xr.Dataset]:
    """Return the experiments, adjusted on the coarse grid to the means of the observations in the training years."""
    observed = to_adjustable(select_period(downscale.coarsen(pair.observed[variables], FACTOR), pair.reference, "obs"))
    model = to_adjustable(select_period(pair.experiments[HISTORICAL][variables], pair.reference, HISTORICAL))
    names = [str(name) for name in observed.data_vars if "time" in observed[name].dims]
    trained = {name: train(observed[name].load(), model[name].load(), settings_for(name, observed[name]))
               for name in names}  # fmt: skip
    adjusted = {}
    for key, ds in pair.experiments.items():
        raw = to_adjustable(ds[variables])
        adjusted[key] = from_adjustable(raw.assign({name: trained[name].adjust(raw[name].load()) for name in names}))
    return adjusted


def details(pair: Pair, coarse: xr.Dataset, record: xr.Dataset) -> int:
    """Return the number of details, 1 or 4, that predicts training years left out best, in the mean of variables."""
    errors = {}
    for count in (1, 4):
        request = read_request({"factor": FACTOR, "climatology": record, "climatology_quantiles": count})
        found = climatology_validation(coarse, request).values()
        ratios = [one["with climatology"] / one["kernel"] for one in found if one["with climatology"]]
        errors[count] = float(np.mean(ratios)) if ratios else 1.0
    print(f"RMSE of details over that of the kernel, training years left out: {errors}", file=sys.stderr)
    return min(errors, key=lambda count: errors[count])


def run(name: str, pair: Pair, folder: Path, variables: list[str] | None) -> tuple[Assessment, dict[str, Any], Fields]:
    """Make the projection of a pair, write and check it, and assess it beside its baselines."""
    begin = time.perf_counter()
    names = variables or [str(key) for key, field in pair.observed.data_vars.items() if "time" in field.dims]
    pair = replace(pair, observed=pair.observed[names], experiments={k: v[names] for k, v in pair.experiments.items()})
    adjusted = adjust(pair, names)
    record = select_period(pair.observed, pair.reference, "obs")
    coarse = downscale.coarsen(record, FACTOR)
    options: dict[str, Any] = {"climatology": record, "orderings": "auto"}
    options["climatology_quantiles"] = details(pair, coarse, record)
    fine, members, reports = {}, {}, {}
    for key, ds in adjusted.items():
        path = folder / f"{name}_{key}.nc"
        reports[key] = downscale.to_netcdf(ds.downscale(FACTOR, **options), path, coarse=ds, overwrite=True)
        fine[key] = xr.open_dataset(path, chunks={})
        member = ds.downscale(FACTOR, "cascade", members=1, seed=SEED, climatology=record)
        members[key] = member.isel(realization=0, drop=True).load()
    print(f"{name}: projection in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    fields = Fields(pair.observed, pair.experiments, adjusted, fine)
    found = assess(
        fields, reference=pair.reference, validation=pair.validation, paired=pair.paired, labels=BASELINES,
        more={MEMBER: members},
    )  # fmt: skip
    print(f"{name}: assessed after {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return found, reports, fields


def limits(found: Assessment, reports: dict[str, Any], fields: Fields) -> tuple[list[list[str]], bool]:
    """Return rows of a table of requirements, and whether all are met."""
    rows, kept = [], True
    scores = found.scores
    assert scores is not None
    names = [str(name) for name in np.atleast_1d(scores.attrs["variables"])]
    conservation = max(report.max_relative_error for report in reports.values())
    rows.append(["largest relative error of an adjusted cell mean in the files", f"{conservation:.1e}", "<= 1e-6",
                 _word(conservation <= MOST_ERROR)])  # fmt: skip
    kept &= conservation <= MOST_ERROR
    for scenario, signal in found.signals.items():
        error = max(signal_error(signal, name) for name in names)
        words = f"change of the mean, fine minus adjusted, {scenario}"
        rows.append([words, f"{error:.1e}", "<= 1e-6", _word(error <= MOST_ERROR)])
        kept &= error <= MOST_ERROR
    for name in names:
        value = float(scores[f"{name}_block_edge_ratio"].sel(candidate="fine"))
        is_kept = EDGES[0] <= value <= EDGES[1]
        rows.append([f"block edge index over the observed one, {name}", f"{value:.3f}", "0.95 to 1.05", _word(is_kept)])
        kept &= is_kept
    for low, high in (("tasmin", "tas"), ("tas", "tasmax"), ("prsn", "pr")):
        if {low, high} <= set(names):
            beyond = sum(int((ds[low] > ds[high]).sum()) for ds in fields.fine.values())
            rows.append([f"values with {low} above {high}", str(beyond), "0", _word(beyond == 0)])
            kept &= beyond == 0
    return rows, kept


def _word(kept: bool) -> str:
    return "yes" if kept else "NO"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("DOWNSCALE_TEST_DATA", SHARED)))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--variables", nargs="+")
    parser.add_argument("--folder", type=Path, help="keep all files there")
    parser.add_argument("--write", type=Path, help="page that gets the tables")
    given = parser.parse_args(arguments)
    if not given.data.is_dir():
        print(f"no data at {given.data}; set DOWNSCALE_TEST_DATA", file=sys.stderr)
        return 2
    all_kept = True
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        for name in given.sets:
            pair = SETS[name](given.data)
            found, reports, fields = run(name, pair, folder, given.variables)
            rows, kept = limits(found, reports, fields)
            all_kept &= kept
            text = [f"{table(['requirement', 'found', 'limit', 'met'], rows)}\n", to_markdown(found.scores)]
            text += [to_markdown(signal) for signal in found.signals.values()]
            (folder / name).mkdir(exist_ok=True)
            write_assessment(found, folder / name, title=f"Projection: {name}", facts={}, conservation=reports)
            print("\n".join(text))
            if given.write is not None:
                write_section(given.write, f"projection {name}", command_of(arguments), "\n".join(text))
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
