"""Fields on the grids that files come in, small and reproducible, for tests of everything above the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid

NAMES = {"latitude": "lat", "longitude": "lon", "projected": "xy"}
ATTRS: dict[str, dict[str, str]] = {
    "latitude": {"standard_name": "latitude", "units": "degrees_north"},
    "longitude": {"standard_name": "longitude", "units": "degrees_east"},
    "projected-y": {"standard_name": "projection_y_coordinate", "units": "m"},
    "projected-x": {"standard_name": "projection_x_coordinate", "units": "m"},
}


def world(rows: int = 12, columns: int = 16, west: float = 0.0) -> RectilinearGrid:
    """A global grid of equal degrees."""
    lat = CellAxis(np.linspace(-90, 90, rows + 1), "latitude")
    return RectilinearGrid(lat, CellAxis(west + np.linspace(0, 360, columns + 1), "longitude"))


def region(rows: int = 12, columns: int = 16, south: float = 30.0, west: float = 10.0) -> RectilinearGrid:
    """A region of one-degree cells."""
    lat = CellAxis(south + np.arange(rows + 1.0), "latitude")
    return RectilinearGrid(lat, CellAxis(west + np.arange(columns + 1.0), "longitude"))


def plane(rows: int = 12, columns: int = 16, step: float = 1000.0) -> RectilinearGrid:
    """A projected grid in metres, rows from north to south."""
    y = CellAxis(2e5 - step * np.arange(rows + 1.0), "projected")
    return RectilinearGrid(y, CellAxis(6e5 + step * np.arange(columns + 1.0), "projected"))


GRIDS = {"world": world, "region": region, "plane": plane}


def coordinates(grid: RectilinearGrid) -> dict[str, Any]:
    """CF coordinates of a grid with bounds: lat and lon, or y and x."""
    made: dict[str, Any] = {}
    for letter, axis in (("y", grid.y), ("x", grid.x)):
        name = letter if axis.kind == "projected" else NAMES[axis.kind]
        attrs = ATTRS[f"projected-{letter}" if axis.kind == "projected" else axis.kind]
        made[name] = (name, axis.centres, {**attrs, "bounds": f"{name}_bnds"})
        made[f"{name}_bnds"] = ((name, "bnds"), np.stack([axis.edges[:-1], axis.edges[1:]], axis=1))
    return made


def field_on(
    grid: RectilinearGrid,
    times: int = 3,
    *,
    dtype: str = "float64",
    missing: float = 0.0,
    seed: int = 0,
    name: str = "tas",
    low: float = 270.0,
    **attrs: Any,
) -> xr.Dataset:
    """A rough field with ``missing`` of its cells NaN; values from ``low`` upwards, with many at ``low`` if it is 0."""
    rng = np.random.default_rng(seed)
    values = low + rng.gamma(0.7, 8.0, (times, *grid.shape))
    if low == 0:
        values = np.maximum(values - 4.0, 0.0)
    values[rng.uniform(size=values.shape) < missing] = np.nan
    coords = coordinates(grid)
    y, x = (key for key in coords if not key.endswith("_bnds"))
    attrs = {"standard_name": "air_temperature", "units": "K", "long_name": "a field", **attrs}
    time = xr.Variable("time", np.arange(times), {"units": "days since 2000-01-01", "calendar": "noleap"})
    field = xr.Variable(("time", y, x), values.astype(dtype), attrs)
    ds = xr.Dataset({name: field}, {"time": time, **coords}, {"title": "a test"})
    return xr.decode_cf(ds, decode_coords=False)


def rain_on(grid: RectilinearGrid, times: int = 3, **options: Any) -> xr.Dataset:
    """A field of which many cells are exactly dry."""
    rain = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}
    return field_on(grid, times, **{"name": "pr", "low": 0.0, **rain, **options})


def relief_on(grid: RectilinearGrid, factor: tuple[int, int] = (2, 2), seed: int = 1) -> xr.Dataset:
    """Rough mountains on the refinement of a grid."""
    fine = grid.refine(*factor)
    coords = coordinates(fine)
    y, x = (key for key in coords if not key.endswith("_bnds"))
    values = np.random.default_rng(seed).gamma(0.8, 700.0, fine.shape)
    attrs = {"standard_name": "surface_altitude", "units": "m"}
    return xr.Dataset({"orog": ((y, x), values, attrs)}, coords)


def random_field(
    shape: tuple[int, ...], seed: int = 0, missing: float = 0.0, mean: float = 280.0, scale: float = 10.0
) -> torch.Tensor:
    """Normal values of which ``missing`` are NaN."""
    rng = np.random.default_rng(seed)
    field = torch.from_numpy(rng.standard_normal(shape) * scale + mean)
    field[torch.from_numpy(rng.uniform(size=shape) < missing)] = torch.nan
    return field


def untouched(ds: Any) -> Any:
    """A deep copy that keeps what xarray's copies share, to be compared by :func:`assert_same` afterwards."""
    copy = ds.copy(deep=True)
    variables = _variables(copy)
    for name, variable in _variables(ds).items():
        variables[name].encoding = dict(variable.encoding)
    copy.encoding = dict(ds.encoding)
    return copy


def _variables(obj: Any) -> dict[Any, Any]:
    if isinstance(obj, xr.Dataset):
        return dict(obj.variables)
    return {None: obj.variable, **{name: coord.variable for name, coord in obj.coords.items()}}


def assert_same(one: Any, other: Any) -> None:
    """Values, names, dimensions, attributes and encodings are all equal."""
    xr.testing.assert_identical(one, other)
    assert one.encoding == other.encoding
    theirs = _variables(other)
    for name, variable in _variables(one).items():
        assert variable.encoding == theirs[name].encoding, name
        assert variable.dtype == theirs[name].dtype, name


def same_bits(one: Any, other: Any) -> bool:
    """Two arrays agree in every bit, NaN with NaN."""
    a, b = np.asarray(one), np.asarray(other)
    gaps = np.isnan(a) & np.isnan(b) if a.dtype.kind == b.dtype.kind == "f" else False
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | gaps).all())
