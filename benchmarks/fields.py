"""The real fields of the accuracy benchmark: files and variables, and how to open, thin and clean them.

Every surface variable of every product counts once. This gives 14 fields of temperature, wind, pressure and humidity,
and 8 of rain. Left out are grids that x8 would leave fewer than four coarse cells per side (fraser) or hardly
more (noleap tasmax, the rotated pressure chart), monthly winds at 2.5 degrees (coarse cells of 20 degrees), model
levels (ukv), oceans with coasts (ipsl, nemo), static orography and the embedded sample. The upper-air fields form a
separate group.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

GROUPS = ("smooth", "rain", "upper air")
# A coarse grid with fewer cells per side consists mostly of edge cells.
FEWEST_CELLS = 4
# Maps of one file are thinned to about this many cells, to limit the time of large grids.
CELLS = 4_000_000

MOGREPS_T, MOGREPS_W = "temperature_mogrepsuk_2km_20170602-03.nc", "wind_mogrepsuk_2km_20170602-03.nc"
ARPEGE = "temperature_humidity_wind_arpege_nw_20180501_0p1deg.nc"
ERA5 = "temperature_wind_precip_era5_global_1deg.nc"
LISFLOOD = "temperature_precipitation_lisflood_alps_po_5km_6h_195101.nc"
MCH = ("precipitation_mch_20150515_1km_5min.nc", "precipitation_mch_20160711_1km_5min.nc")
INTERIM = "nasty_packed_int16_eraint_uvz_0p75deg.nc"


@dataclass(frozen=True)
class Field:
    """One variable of one product.

    Attributes
    ----------
    name, group : str
        Label, and one of ``GROUPS``.
    files : tuple of str
        Files of one grid; the maps are selected evenly from them.
    variable, units : str
        Name in the file; units of its values.
    """

    name: str
    group: str
    files: tuple[str, ...]
    variable: str
    units: str


def _weather(name: str, file: str, variable: str, units: str) -> Field:
    return Field(name, "smooth", (file,), variable, units)


def _rain(name: str, files: str | tuple[str, ...], variable: str, units: str) -> Field:
    return Field(name, "rain", (files,) if isinstance(files, str) else files, variable, units)


def _upper(name: str, variable: str, units: str) -> Field:
    return Field(name, "upper air", (INTERIM,), variable, units)


FIELDS: tuple[Field, ...] = (
    _weather("mogreps-uk tas 2 km", MOGREPS_T, "tas", "K"),
    _weather("mogreps-uk wind 2 km", MOGREPS_W, "wind_speed", "m/s"),
    _weather("era5-uk t2m 0.25 deg", "temperature_era5_uk_0p25deg_201903_d01-20.nc", "t2m", "K"),
    _weather("arpege t2m 0.1 deg", ARPEGE, "t2m", "K"),
    _weather("arpege d2m 0.1 deg", ARPEGE, "d2m", "K"),
    _weather("arpege r 0.1 deg", ARPEGE, "r", "%"),
    _weather("arpege u10 0.1 deg", ARPEGE, "u10", "m/s"),
    _weather("arpege v10 0.1 deg", ARPEGE, "v10", "m/s"),
    _weather("itu p1510 tas 0.75 deg", "temperature_itu_p1510_monthly_0p75deg.nc", "tas", "K"),
    _weather("lisflood tas 5 km", LISFLOOD, "tas", "K"),
    _weather("era5 t2m 1 deg", ERA5, "t2m", "K"),
    _weather("era5 u10 1 deg", ERA5, "u10", "m/s"),
    _weather("era5 v10 1 deg", ERA5, "v10", "m/s"),
    _weather("era5 msl 1 deg", ERA5, "msl", "Pa"),
    _rain("mch radar 1 km", MCH, "precip", "mm/h"),
    _rain("fmi radar 1 km", "precipitation_fmi_20160928_1km_5min.nc", "precip", "mm/h"),
    _rain("opera radar 2 km", "precipitation_opera_20180824_2km_15min.nc", "precip", "mm/h"),
    _rain("bom66 radar 0.5 km", "precipitation_bom66_20201031_500m_10min.nc", "precip", "mm/h"),
    _rain("arome pr 0.025 deg", "precipitation_arome_nw_20180501_0p025deg.nc", "pr", "kg/m2"),
    _rain("itu p837 pr 0.25 deg", "precipitation_itu_p837_monthly_0p25deg.nc", "pr", "mm"),
    _rain("era5 tp 1 deg", ERA5, "tp", "m"),
    _rain("lisflood pr 5 km", LISFLOOD, "pr", "mm/day"),
    _upper("era-interim u 0.75 deg", "u", "m/s"),
    _upper("era-interim v 0.75 deg", "v", "m/s"),
    _upper("era-interim z 0.75 deg", "z", "m2/s2"),
)


# Too small for the other means at x4 and x8: daily rain on 14 x 31 cells.
SMALL_RAIN = (_rain("fraser pr 0.1 deg", "precipitation_fraser_daily_1986-2018_0p1deg.nc", "pr", "mm"),)


def files_of(fields: Iterable[Field]) -> list[str]:
    """Return the names of all files that the fields are read from."""
    return sorted({name for item in fields for name in item.files})


def open_field(item: Field, folder: Path, steps: int) -> xr.Dataset:
    """Read up to ``steps`` evenly spaced maps of a field, shape (map, rows, columns), in float64, as "field".

    Missing values are NaN. Rows of half cells around a pole are dropped, since equal parts of a coarse cell cannot
    reproduce them. Outer rows and columns without any value are dropped too.
    """
    share = -(-steps // len(item.files))
    files = [_read(item, folder / name) for name in item.files]
    maps = np.concatenate([_maps(ds["field"], share) for ds in files])
    if item.group == "rain":
        maps = np.where(maps >= 0, maps, np.nan)  # one radar contains a sentinel of -0.6; rain is non-negative
    grid = files[0].drop_vars("field")
    return _covered(_whole_cells(grid.assign(field=(("map", *files[0]["field"].dims[-2:]), maps))))


def large_enough(ds: xr.Dataset, factor: int) -> bool:
    """Return whether the coarse grid has enough cells to score a method."""
    return min(ds["field"].shape[-2:]) // factor >= FEWEST_CELLS


def crop(ds: xr.Dataset, factor: int) -> xr.Dataset:
    """Crop rows and columns evenly at both ends to a multiple of ``factor``."""
    cuts = {}
    for dim in ds["field"].dims[-2:]:
        spare = ds.sizes[dim] % factor
        cuts[dim] = slice(spare // 2, ds.sizes[dim] - (spare - spare // 2))
    return ds.isel(cuts)


def _read(item: Field, path: Path) -> xr.Dataset:
    """Open one variable lazily as "field", with the coordinates of its horizontal axes and their bounds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)  # packed files may declare a NaN fill value
        ds = xr.open_dataset(path, decode_times=False)
    axes = [str(dim) for dim in ds[item.variable].dims[-2:]]
    kept = {*axes, *(f"{dim}_bnds" for dim in axes if f"{dim}_bnds" in ds.variables)}
    ds = ds[[item.variable, *kept]].rename({item.variable: "field"})
    return ds.drop_vars(set(ds.coords) - kept).set_coords(kept)


def _maps(array: xr.DataArray, steps: int) -> NDArray[np.float64]:
    """Return evenly spaced maps over all other dimensions, fewer for large grids; shape (map, rows, columns)."""
    others, (rows, columns) = array.dims[:-2], array.shape[-2:]
    sizes = array.shape[:-2]
    keep = max(min(steps, CELLS // (rows * columns)), 1)
    total = int(np.prod(sizes))
    which = np.unique((np.arange(keep) + 0.5) * total // keep).astype(int)
    index = np.unravel_index(which, sizes)
    picked = array.isel({dim: xr.DataArray(i, dims="map") for dim, i in zip(others, index, strict=True)})
    return picked.transpose("map", ...).values.astype(np.float64)


def _whole_cells(ds: xr.Dataset) -> xr.Dataset:
    """Drop rows whose centre is a pole: such a cell has only half its height on the sphere."""
    rows = ds["field"].dims[-2]
    latitude = str(ds[rows].attrs.get("units", "")).startswith("degree")
    return ds.isel({rows: np.abs(ds[rows].values) < 90 - 1e-6}) if latitude else ds


def _covered(ds: xr.Dataset) -> xr.Dataset:
    """Drop outer rows and columns in which no map has a value."""
    valid = np.isfinite(ds["field"].values).any(axis=0)
    extents = _extent(valid.any(axis=1)), _extent(valid.any(axis=0))
    return ds.isel(dict(zip(ds["field"].dims[-2:], extents, strict=True)))


def _extent(present: NDArray[np.bool_]) -> slice:
    where = np.flatnonzero(present)
    return slice(int(where[0]), int(where[-1]) + 1)
