"""Inputs of the demonstration: synthetic daily weather over real relief, real mean temperatures and a real change.

Mean temperature and its change are those of the embedded HadCM3 sample, orography is that of ETOPO5. Daily weather is
synthetic: seasons, smooth noise with memory from day to day, a lapse rate, rain from a thresholded field. Observations
and model have independent weather, and the model has the biases of models: too warm summers, too much drizzle, weak
heavy rain, too little variability.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale import sample
from downscale.output import to_netcdf
from downscale.projections.recipe import HISTORICAL, load_project
from downscale.steps.coarsen import coarsen

MODEL = "synthetic"
FACTOR = 4
ROWS, COLUMNS = slice(16, 20), slice(8, 12)  # coarse cells over the Sierra Nevada and the Great Basin
YEARS = {"historical": (1981, 1992), "scenario": (2071, 2078)}
PERIODS = {"reference": "1981-1988", "validation": "1989-1992", "future": None}
EARLY, LATE = slice("1959", "1989"), slice("2069", "2099")
# By month, which takes a tenth of the time of days of the year.
MONTHLY = {"group": "month"}
VARIABLES = {"tas": MONTHLY, "tasmin": None, "tasmax": None, "tasrange": MONTHLY, "tasskew": MONTHLY, "pr": MONTHLY}
LAPSE = -5.5e-3  # K per m
MEMORY = 0.8
DAY = 86400.0
Floats = NDArray[np.float64]


def demo_changes(recipe: str | Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Write the inputs beside the output of a recipe, and return the changes by which the recipe reads them."""
    checked = load_project(recipe, {**changes, "models": {MODEL: {HISTORICAL: "historical.nc"}}})
    folder = Path(checked.output.path).expanduser()
    return write_demo_inputs(folder.with_name(f"{folder.name}_inputs"))


def write_demo_inputs(folder: Path) -> dict[str, Any]:
    """Write observations and a model to a folder, and return the changes of a recipe that read them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: str(folder / f"{name}.nc") for name in ("observations", *YEARS)}
    coarse, relief = _real_fields()
    change = (coarse.tas.sel(time=LATE).mean("time") - coarse.tas.sel(time=EARLY).mean("time")).values
    mean = coarse.tas.sel(time=EARLY).mean("time").values
    to_netcdf(_weather(relief, mean, YEARS["historical"], seed=1), paths["observations"], overwrite=True)
    for seed, (name, years) in enumerate(YEARS.items(), start=2):
        later = change if name == "scenario" else np.zeros_like(change)
        fine = _weather(relief, mean + later, years, seed=seed, wetter=float(later.mean()))
        means: Any = coarsen(fine, FACTOR)
        to_netcdf(_distort(means), paths[name], overwrite=True)
    return {
        "models": {MODEL: {name: paths[name] for name in YEARS}},
        "observations": paths["observations"], "variables": VARIABLES, "periods": PERIODS,
        "downscale.factor": FACTOR, "statics": None, "scores.baselines": ["raw + bilinear", "BCSD"],
    }  # fmt: skip


def _real_fields() -> tuple[xr.Dataset, xr.Dataset]:
    coarse = sample.open("north_america").isel(lat=ROWS, lon=COLUMNS).load()
    fine = [slice(FACTOR * part.start, FACTOR * part.stop) for part in (ROWS, COLUMNS)]
    return coarse, sample.open("north_america_relief").isel(lat=fine[0], lon=fine[1]).load()


def _weather(relief: xr.Dataset, mean: Floats, years: tuple[int, int], *, seed: int, wetter: float = 0.0) -> xr.Dataset:
    """Return daily fields on the fine cells, with these means of the coarse cells; ``wetter`` is a warming in K."""
    rng = np.random.default_rng(seed)
    time = xr.date_range(f"{years[0]}-01-01", f"{years[1]}-12-31", freq="D", use_cftime=False)
    season = np.cos(2 * np.pi * (xr.DataArray(time, dims="time").dt.dayofyear.values - 20) / 365.25)[:, None, None]
    orog = relief.orog.values.astype(np.float64)
    height = orog - _blocks(orog)
    base = np.kron(mean, np.ones((FACTOR, FACTOR))) + LAPSE * height
    weather = _noise(rng, len(time), orog.shape, 5.0) * 0.9 + _noise(rng, len(time), orog.shape, 1.5) * 0.4
    tas = base - 10.0 * season + (3.5 + season) * weather
    # Rain falls on the mountains, more in winter, and less on fewer days where it is warmer by 7 % per K.
    wet = _noise(rng, len(time), orog.shape, 4.0, memory=0.4)
    rate = np.clip(wet - 0.6 + 0.25 * season, 0, None) ** 1.5 * 9.0 * (1 + orog / 2500.0) * 1.07**wetter
    spread = 10.0 - 2.0 * season - 3.0 * (rate > 1.0) + np.abs(_noise(rng, len(time), orog.shape, 2.0))
    skew = np.clip(0.45 + 0.05 * _noise(rng, len(time), orog.shape, 2.0), 0.2, 0.8)
    attrs = {"standard_name": "air_temperature", "units": "K"}
    ds = relief.drop_vars(list(relief.data_vars))
    fields = {
        "tas": (tas, {**attrs, "long_name": "Near-surface air temperature", "cell_methods": "time: mean"}),
        "tasmin": (tas - skew * spread, {**attrs, "long_name": "Daily minimum", "cell_methods": "time: minimum"}),
        "tasmax": (tas + (1 - skew) * spread, {**attrs, "long_name": "Daily maximum", "cell_methods": "time: maximum"}),
        "pr": (rate / DAY, {"standard_name": "precipitation_flux", "long_name": "Precipitation",
                            "units": "kg m-2 s-1", "cell_methods": "time: mean"}),
    }  # fmt: skip
    ds = ds.assign_coords(time=("time", time, {"standard_name": "time", "axis": "T"}))
    dims = ("time", "lat", "lon")
    ds = ds.assign({name: (dims, values.astype(np.float32), own) for name, (values, own) in fields.items()})
    source = "synthetic daily weather; means of HadCM3 (Met Office, Open Government Licence), relief of ETOPO5 (NOAA)"
    return ds.assign_attrs(title="Synthetic daily weather for a demonstration", source=source)


def _distort(ds: xr.Dataset) -> xr.Dataset:
    """Return the fields of a model with biases."""
    season = np.cos(2 * np.pi * (ds.time.dt.dayofyear - 20) / 365.25)
    mean = ds.tas.mean("time")
    tas = mean + (ds.tas - mean) * 0.9 + 1.5 - 1.5 * season
    rate = ds.pr * DAY
    return ds.assign(
        tas=tas.astype(np.float32).assign_attrs(ds.tas.attrs),
        tasmin=(tas + 0.8 * (ds.tasmin - ds.tas)).astype(np.float32).assign_attrs(ds.tasmin.attrs),
        tasmax=(tas + 0.8 * (ds.tasmax - ds.tas)).astype(np.float32).assign_attrs(ds.tasmax.attrs),
        pr=((0.8 * rate**0.9 + 0.3 * (rate > 0.01)) / DAY).astype(np.float32).assign_attrs(ds.pr.attrs),
    )


def _noise(rng: Any, days: int, shape: tuple[int, ...], length: float, memory: float = MEMORY) -> Floats:
    """Return smooth noise of unit variance with a memory from day to day."""
    from scipy.ndimage import gaussian_filter
    from scipy.signal import lfilter

    noise = rng.standard_normal((days, *shape))
    smooth = gaussian_filter(noise, (0, length, length), mode="wrap")
    series = lfilter([np.sqrt(1 - memory**2)], [1.0, -memory], smooth / smooth.std(), axis=0)
    return np.asarray(series)


def _blocks(values: Floats) -> Floats:
    """Return the means of blocks of fine cells, on these."""
    rows, columns = (size // FACTOR for size in values.shape)
    means = values.reshape(rows, FACTOR, columns, FACTOR).mean((1, 3))
    return np.kron(means, np.ones((FACTOR, FACTOR)))
