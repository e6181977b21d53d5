"""The expected fine field of a known method, for the check of grids that do not nest."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from downscale.api import downscale
from downscale.cf.bounds import bounds_name
from downscale.cf.coordinates import horizontal_variables
from downscale.cf.horizontal import horizontal
from downscale.cf.quantities import variable_bounds
from downscale.check.comparison import Overlapping
from downscale.errors import DownscaleError

# For other files: smooth methods first, then conservative remapping.
METHODS = ("sobolev", "conservative", "bilinear")
# Other methods, if a file names one of them.
RECORDED = (*METHODS, "bicubic")
TERRAIN = ("lapse_rate=", "terrain_penalty(")
# Settings that this package records in its files.
SETTINGS = re.compile(r"method=(?P<method>\w+)(?:, taps=(?P<taps>\d+) order=(?P<order>[\d.]+))?")


@dataclass(frozen=True, eq=False)
class Expected:
    """Computes the expected fine field of one variable, with the options that were used for the fine field."""

    coarse: xr.Dataset
    name: str
    mask: Any = None
    na_thres: float = 1.0
    quantity: str | None = None

    def field(self, x: xr.DataArray, y: xr.DataArray, comparison: Overlapping) -> tuple[str, xr.DataArray | None]:
        """Return the method closest to the first map, and its field on all maps in the order of ``y``.

        Returns None as the field if no method accepts the grids.
        """
        first = {dim: [0] for dim in y.dims[:-2]}
        candidates: list[tuple[float, dict[str, Any]]] = []
        bounded = variable_bounds(x, self.name, "auto") != (None, None)
        for options in _candidates(comparison.fine.attrs, bounded):
            prediction = self._made(x.isel(first), y.isel(first), comparison, options)
            if prediction is not None:
                candidates.append((_distance(prediction, y.isel(first)), options))
        if not candidates:
            return "", None
        _, options = min(candidates, key=lambda each: each[0])
        return str(options["method"]), self._made(x, y, comparison, options)

    def _made(
        self, x: xr.DataArray, y: xr.DataArray, comparison: Overlapping, options: dict[str, Any]
    ) -> xr.DataArray | None:
        where = horizontal(self.coarse)
        others = [n for n in horizontal_variables(self.coarse, where) if n != self.name]
        ds = self.coarse.drop_vars([*others, self.name]).assign({self.name: x})
        try:
            with warnings.catch_warnings():
                # Warnings about the input are given elsewhere.
                warnings.simplefilter("ignore")
                dataset = downscale(
                    ds, target_grid=_cells(comparison), data_vars=[self.name], mask=self.mask, na_thres=self.na_thres,
                    quantity=self.quantity, check="skip", **options,
                )  # fmt: skip
        except DownscaleError:
            return None
        return dataset[self.name].transpose(*y.dims[:-2], *comparison.at_fine.dims)  # type: ignore[index,no-any-return]


def is_plain(attrs: Any) -> bool:
    """Return whether the settings of a file contain no terrain term."""
    return not any(word in str(attrs.get("downscale_settings", "")) for word in TERRAIN)


def _candidates(attrs: Any, bounded: bool) -> list[dict[str, Any]]:
    """Return the options of the methods that may have produced a file, its recorded settings first."""
    candidates: list[dict[str, Any]] = []
    match = SETTINGS.search(str(attrs.get("downscale_settings", "")))
    if match is not None and match["method"] in RECORDED:
        options = {} if match["taps"] is None else {"taps": int(match["taps"]), "order": float(match["order"])}
        candidates.append({"method": match["method"], **options})
    candidates += [{"method": method} for method in METHODS if {"method": method} not in candidates]
    return candidates + ([{"method": "sobolev", "bounds": None}] if bounded else [])


def _cells(comparison: Overlapping) -> xr.Dataset:
    """Return the cells of the fine grid without any fields."""
    fine, where = comparison.fine, comparison.at_fine
    names = [*where.dims, *(bounds_name(fine, dim) for dim in where.dims)]
    names += [] if where.mapping is None else [where.mapping.name]
    cells = fine[[name for name in names if name in fine.variables]]
    cells = cells.drop_vars([name for name in cells.coords if name not in names])
    if where.mapping is not None and where.mapping.name not in cells.variables:
        cells = cells.assign_coords({where.mapping.name: ((), np.int32(0), dict(where.mapping.attrs))})
    return cells.set_coords([str(name) for name in cells.data_vars])


def _distance(made: xr.DataArray, field: xr.DataArray) -> float:
    """Return the mean square difference of two fields over cells with values in both."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.asarray(made.values, np.float64) - np.asarray(field.values, np.float64)
    valid = np.isfinite(difference)
    return float(np.mean(difference[valid] ** 2)) if valid.any() else np.inf
