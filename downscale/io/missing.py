"""Missing values that readers do not mask: outside the valid range, or never written.

By CF (section 2.5.1) and the NetCDF Users' Guide, values outside ``valid_range``, ``valid_min`` and ``valid_max`` are
missing. So are cells that were never written, which hold the default fill value of their type if there is no
``_FillValue``. Values are examined only when they are read, and the first such values cause a warning.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core.indexing import IndexingSupport, LazilyIndexedArray, explicit_indexing_adapter

from downscale.errors import InputError

# Default fill values of the NetCDF library by type; bytes have none, since any byte may be valid.
DEFAULT_FILLS = {
    "i2": -32767, "u2": 65535, "i4": -2147483647, "u4": 4294967295, "i8": -9223372036854775806,
    "u8": 18446744073709551614, "f4": 9.969209968386869e36, "f8": 9.969209968386869e36,
}  # fmt: skip
FILLS = ("_FillValue", "missing_value")
RANGE = ("valid_range", "valid_min", "valid_max")
DIRECTION = r"degrees?_?(?:north|east|N|E)"
# Encodings that are still valid if values are stored in another type.
LASTING_ENCODINGS = ("source", "preferred_chunks", "grid_mapping", "bounds", "coordinates")
POSITIONS = ("latitude", "longitude", "grid_latitude", "grid_longitude")


class MissingWarning(UserWarning):
    """Values of a file without a fill value are treated as missing."""


@dataclass(eq=False)
class Rule:
    """The missing values of one variable in decoded numbers: outside ``low`` to ``high``, ``fill`` and ``others``.

    ``fill`` is the default fill value, compared within ``slack``.
    """

    name: str
    file: str
    low: float = -np.inf
    high: float = np.inf
    fill: float | None = None
    slack: float = 0.0
    other_fills: tuple[float, ...] = ()
    reported: set[str] = field(default_factory=set)

    def __dask_tokenize__(self) -> Any:
        return (self.name, self.file, self.low, self.high, self.fill, self.slack, self.other_fills)

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values with NaN where they are missing."""
        values = np.asarray(values)
        if not values.size:
            return values
        if values.dtype == object:
            raise InputError(
                f"{self.name}: expected numbers, received lists of numbers in {self.file}; choose other variables"
            )
        least, most = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
        is_default_fill, is_invalid = self._find_default_fills(values, least, most), None
        if least < self.low or most > self.high:
            is_invalid = (values < self.low) | (values > self.high)
            is_invalid = is_invalid if is_default_fill is None else is_invalid & ~is_default_fill
        for is_missing, words in (
            (is_invalid, f"lie outside the valid range from {self.low:g} to {self.high:g}"),
            (is_default_fill, f"hold the default fill value {self.fill or 0:g} of cells that were never written"),
        ):
            if is_missing is not None and is_missing.any():
                self._report(int(is_missing.sum()), words, values)
                values = np.where(is_missing, values.dtype.type(np.nan), values)
        for fill in self.other_fills:
            values = np.where(values == values.dtype.type(fill), values.dtype.type(np.nan), values)
        return values

    def _find_default_fills(self, values: NDArray[Any], least: Any, most: Any) -> NDArray[np.bool_] | None:
        """Return where values equal the fill value, which is at an end of the range of the type; None if nowhere."""
        if self.fill is None:
            return None
        if not (most >= self.fill - self.slack if self.fill > 0 else least <= self.fill + self.slack):
            return None
        return np.abs(values - values.dtype.type(self.fill)) <= self.slack if self.slack else values == self.fill

    def _report(self, count: int, words: str, values: NDArray[Any]) -> None:
        """Warn of missing values, once per kind; integers cannot mark them, and are refused."""
        if values.dtype.kind != "f":
            raise InputError(
                f"{self.name}: expected whole numbers that all are values, received {count} that {words} in "
                f"{self.file}; mark them with a _FillValue, for example with ncatted"
            )
        if words not in self.reported:
            self.reported.add(words)
            warnings.warn(
                f"{self.name}: {count} of {values.size} values that are read at once {words} in {self.file}; they "
                "count as missing",
                MissingWarning, stacklevel=2,
            )  # fmt: skip


class _MaskedArray(BackendArray):
    """An array that applies a rule to each piece on reading."""

    def __init__(self, variable: xr.Variable, rule: Rule) -> None:
        self.variable, self.rule = variable, rule
        self.shape, self.dtype = variable.shape, variable.dtype

    def __getitem__(self, key: Any) -> Any:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        return self.rule(self.variable[key].values)


def mask_missing(ds: xr.Dataset, file: str) -> xr.Dataset:
    """Return a decoded Dataset, lazily, whose fields are NaN where the file's metadata mark values as missing."""
    variables = {}
    for name, v in ((name, array.variable) for name, array in ds.data_vars.items()):
        rule = missing_rule(str(name), v, file)
        if rule is not None:
            data: Any = LazilyIndexedArray(_MaskedArray(v, rule))
            if v.chunks is not None:
                data = da.map_blocks(rule, v.data, dtype=v.dtype, meta=np.empty((0,) * v.ndim, v.dtype))
            variables[name] = xr.Variable(v.dims, data, v.attrs, v.encoding, fastpath=True)
    return ds.assign(variables) if variables else ds


def widen_floats(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset, lazily, whose floating-point numbers have 4 or 8 bytes, which every format can store."""
    names = [n for n, v in ds.variables.items() if v.dtype.kind == "f" and v.dtype.itemsize not in (4, 8)]
    for name in names:
        variable = ds[name].variable
        wider = variable.astype("f4" if variable.dtype.itemsize < 4 else "f8")
        wider.encoding = {key: value for key, value in variable.encoding.items() if key in LASTING_ENCODINGS}
        ds = ds.assign_coords({name: wider}) if name in ds.coords else ds.assign({name: wider})
        if variable.dtype.itemsize > 8:
            warnings.warn(f"{name}: {variable.dtype} is read as float64", MissingWarning, stacklevel=2)
    return ds


def missing_rule(name: str, variable: xr.Variable, file: str) -> Rule | None:
    """Return the rule for missing values of a decoded variable that its reader does not mask, or None."""
    units = str(variable.attrs.get("units", ""))
    is_position = variable.attrs.get("standard_name") in POSITIONS or re.fullmatch(DIRECTION, units)
    if variable.dtype.kind not in "fiu" or not variable.ndim or is_position:
        return None
    stored_type = np.dtype(variable.encoding.get("dtype", variable.dtype))
    scale, offset = 1.0, 0.0
    with suppress(TypeError, ValueError, IndexError):
        scale = float(np.ravel(variable.encoding.get("scale_factor", 1.0))[0])
        offset = float(np.ravel(variable.encoding.get("add_offset", 0.0))[0])
    is_packed = scale != 1.0 or offset != 0.0
    slack = 0.5 * abs(scale) if is_packed and stored_type.kind in "iu" else 0.0
    rule = Rule(name, file, slack=slack)
    rule.low, rule.high = _range(variable, stored_type, scale, offset, is_packed)
    has_fill = any(key in variable.encoding or key in variable.attrs for key in FILLS)
    is_unsigned = str(variable.encoding.get("_Unsigned", "")).lower() == "true"
    kind = f"{stored_type.kind}{stored_type.itemsize}"
    if not has_fill and kind in DEFAULT_FILLS and not is_unsigned and "flag_values" not in variable.attrs:
        fill = float(np.float32(DEFAULT_FILLS[kind])) if kind == "f4" else DEFAULT_FILLS[kind]
        rule.fill = fill * scale + offset if is_packed else fill
    if variable.dtype.kind == "f":
        rule.other_fills = tuple(_other_fills(variable))
    if rule.fill is None and not rule.other_fills and not (np.isfinite(rule.low) or np.isfinite(rule.high)):
        return None
    return rule


def _range(
    variable: xr.Variable, stored_type: np.dtype[Any], scale: float, offset: float, is_packed: bool
) -> tuple[float, float]:
    """Return the lowest and the highest valid value in decoded numbers; infinite if not given."""
    low, high = -np.inf, np.inf
    for key in RANGE:
        limit = variable.attrs.get(key)
        if limit is None or isinstance(limit, str | bytes):
            continue
        numbers = np.ravel(np.asarray(limit))
        has_all_limits = numbers.size == (2 if key == RANGE[0] else 1)
        if numbers.dtype.kind not in "fiu" or not has_all_limits or not np.isfinite(numbers).all():
            continue
        # Limits of the decoded type are in decoded numbers, all others in stored ones (NetCDF Users' Guide).
        is_decoded = is_packed and stored_type.kind in "iu" and numbers.dtype.kind == "f"
        if is_packed and not is_decoded:
            if str(variable.encoding.get("_Unsigned", "")).lower() == "true" and numbers.dtype.kind == "i":
                numbers = numbers.astype(f"u{numbers.dtype.itemsize}")
            numbers = np.sort(numbers.astype("f8") * scale + offset) + 0.5 * abs(scale) * np.array([-1, 1])
        elif variable.dtype.kind == "f":
            numbers = numbers.astype(variable.dtype)
        # A negative scale exchanges the ends.
        is_reversed = is_packed and not is_decoded and scale < 0
        if key != ("valid_min" if is_reversed else "valid_max"):
            low = max(low, float(numbers[0]))
        if key != ("valid_max" if is_reversed else "valid_min"):
            high = min(high, float(numbers[-1]))
    return (low, high) if low < high else (-np.inf, np.inf)


def _other_fills(variable: xr.Variable) -> list[float]:
    """Return fill values that readers ignore: numbers as text, or of another precision than the values."""
    fills = []
    for key in FILLS:
        fill = variable.encoding.get(key)
        if fill is None or "scale_factor" in variable.encoding:
            continue
        for value in np.ravel(np.asarray(fill)):
            try:
                number = float(np.asarray(value, "f8").astype(variable.dtype))
            except (TypeError, ValueError):  # words
                continue
            if np.isfinite(number) and (isinstance(value, str | bytes) or number != float(value)):
                fills.append(number)
    return fills
