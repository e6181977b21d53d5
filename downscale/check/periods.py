"""Changes of means over periods, spread over the fine times of each period so that their means are exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import select
from downscale.errors import GridError
from downscale.request import Request
from downscale.steps.axis_downscale import axis_quantity, plan_axis
from downscale.steps.jobs import result_type


@dataclass(frozen=True, eq=False)
class Periods:
    """The coarse period of each fine time (``period``, -1 outside), and its ``fraction`` of that length."""

    dim: str
    period: NDArray[np.int64]
    fraction: NDArray[np.float64]
    sums: frozenset[str]

    @classmethod
    def between(cls, fine: xr.Dataset, coarse: xr.Dataset, dim: str, names: list[str]) -> Periods:
        """Return the periods of fine times along a dimension for some variables of both Datasets.

        Raises
        ------
        GridError
            If a fine time belongs to two periods.
        """
        request = Request(method="conservative", bounds=None)
        plan = plan_axis(select(fine, names), dim, target=coarse, request=request)
        parts = plan.subcells
        owner, empty = (array.reshape(-1, parts.count) for array in (parts.owner, parts.empty))
        period = owner.max(axis=1)
        split = ((owner != period[:, None]) & ~empty).any(axis=1)
        if split.any():
            first = fine[dim].values[int(split.argmax())]
            raise GridError(
                f"expected fine values of {dim!r} within one coarse period each, received {first} across the border of "
                "two; average the fine field to cells within the periods first"
            )
        length = plan.source.axis.measure
        total = np.bincount(period[period >= 0], weights=length[period >= 0], minlength=coarse.sizes[dim])
        fraction = np.where(period >= 0, length / total[np.maximum(period, 0)], 0.0)
        sums = {name for name in names if axis_quantity(coarse[name], plan.target)[0] == "extensive"}
        return cls(dim, period, fraction, frozenset(sums))

    def spread(
        self, fine: xr.DataArray, before: xr.DataArray, after: xr.DataArray, name: str, constraint: str,
        bounds: tuple[float | None, float | None],
    ) -> xr.DataArray:  # fmt: skip
        """Return fine values whose means (or sums) over periods change from ``before`` to ``after``, within bounds.

        Values are shifted, or scaled about a bound: a ratio about zero preserves dry times.
        """
        dims, z = fine.dims, fine.transpose(..., *before.dims[-2:])
        index = xr.DataArray(np.maximum(self.period, 0), dims=self.dim)
        old, new = (_plain(one).isel({self.dim: index}) for one in (before, after))
        if name in self.sums:
            share = xr.DataArray(self.fraction, dims=self.dim)
            old, new = old * share, new * share
        values = _plain(z).astype("f8")
        low, high = (0.0, None) if constraint == "multiplicative" else bounds
        shifted = values + (new - old)
        if constraint == "additive":
            result = shifted
        elif high is None:
            result = _scaled(values, old, new, float(low or 0.0))
        elif low is None:
            result = _scaled(values, old, new, high)
        else:
            result = xr.where(new <= old, _scaled(values, old, new, low), _scaled(values, old, new, high))
        inside = xr.DataArray(self.period >= 0, dims=self.dim)
        result = result.where(inside).astype(result_type(fine.dtype)).transpose(*dims)
        return fine.copy(data=result.data)


def _plain(field: xr.DataArray) -> xr.DataArray:
    """Return a field without coordinates, which would be aligned."""
    return field.drop_vars(list(field.coords))


def _scaled(values: xr.DataArray, old: Any, new: Any, pivot: float) -> xr.DataArray:
    """Return values scaled about a bound so that their mean changes; uniform where all values are on it."""
    distance = old - pivot
    ratio = (new - pivot) / xr.where(distance == 0, 1.0, distance)
    return xr.where(distance == 0, new + 0 * values, pivot + (values - pivot) * ratio)  # type: ignore[no-any-return]
