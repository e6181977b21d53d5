"""A field that is opened and never read: its data raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing


class Unreadable(BackendArray):
    """Stands for the data of a file that a test must not touch."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)

    def __getitem__(self, key: Any) -> Any:
        raise AssertionError("data were read")


def unreadable(ds: xr.Dataset) -> xr.Dataset:
    """The same Dataset with data variables that raise when read, as if opened without Dask."""
    made = {}
    for name, variable in ds.data_vars.items():
        data = indexing.LazilyIndexedArray(Unreadable(variable.shape, variable.dtype))
        made[name] = xr.Variable(variable.dims, data, variable.attrs, variable.encoding)
    return ds.assign(made)
