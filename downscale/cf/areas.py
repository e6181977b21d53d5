"""Cell areas stored in files, and their consistency with the grid."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr
from dask.local import get_sync
from numpy.typing import NDArray

from downscale.cf.horizontal import AREA, Horizontal
from downscale.cf.units import convert

NAMES = (AREA, "areacello")
# Stored areas may differ because of the radius, of midpoints as corners, or of land in ocean cells.
LEAST, MOST, OFF, FEW = 0.5, 2.0, 0.2, 0.05


# Maximum number of cells compared; larger grids are sampled by rows.
MOST_CELLS = 200_000


@dataclass(frozen=True, eq=False)
class OwnAreas:
    """The cell areas of a file.

    Attributes
    ----------
    name : str
        Their variable.
    field : DataArray
        As stored, rows and columns in the order of the grid.
    scale : float
        Square metres in its unit.
    ratio : (float, float)
        Smallest and largest ratio to the areas of the cells.
    fits : bool
        Whether they agree with the grid within reason.
    """

    name: str
    field: xr.DataArray
    scale: float
    ratio: tuple[float, float]
    fits: bool

    @property
    def values(self) -> NDArray[np.float64]:
        """All areas in m2."""
        return _read(self.field, self.scale)


def own_areas(ds: xr.Dataset, where: Horizontal, field: str) -> OwnAreas | None:
    """Return the areas named by ``cell_measures`` of a field or by customary names, or None if there are none."""
    words = str(ds[field].attrs.get("cell_measures") or ds[field].encoding.get("cell_measures") or "").split()
    named = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "area:"]
    usual = [str(n) for n, v in ds.variables.items() if n in NAMES or v.attrs.get("standard_name") == "cell_area"]
    rows, columns = (np.arange(size) for size in where.grid.shape)
    rows = rows[:: max(rows.size * columns.size // MOST_CELLS, 1)]
    for name in (*named, *usual):
        if name not in ds.variables or set(ds[name].dims) != set(where.dims) or ds[name].dtype.kind not in "fiu":
            continue
        scale = convert(1.0, str(ds[name].attrs.get("units") or "m2"), "m2")
        if scale is None:
            continue
        held = ds[name].transpose(*where.dims)
        some = _read(held.isel({where.y: rows}), scale)
        return OwnAreas(name, held, scale, *_fit(some, where.grid.areas(rows, columns)))
    return None


def _read(field: xr.DataArray, scale: float) -> NDArray[np.float64]:
    return np.asarray(field.compute(scheduler=get_sync).values, np.float64) * scale


def _fit(values: NDArray[np.float64], exact: NDArray[np.float64]) -> tuple[tuple[float, float], bool]:
    known = np.isfinite(values) & (values > 0) & (exact > 0)
    if not known.any():
        return (0.0, 0.0), False
    ratio = values[known] / exact[known]
    middle = float(np.median(ratio))
    # Areas at a pole are small and uncertain.
    share = exact[known] / exact[known].sum()
    near = LEAST <= middle <= MOST and float(share[np.abs(ratio / middle - 1) > OFF].sum()) <= FEW
    return (float(ratio.min()), float(ratio.max())), bool(near)


def warn_of_misfit(areas: OwnAreas, what: str) -> None:
    """Warn if the areas of a file contradict its grid."""
    if not areas.fits:
        low, high = areas.ratio
        warnings.warn(
            f"{areas.name}: expected the cell areas of the {what} in m2, received {low:.3g} to {high:.3g} times these; "
            "areas from the cells are used, repair the file",
            UserWarning,
            stacklevel=5,
        )
