"""Lossy storage with fewer bits per value: packed short integers and rounded mantissas.

Both change values, so the file is checked as stored. Rounding to ``n`` bits of the mantissa changes a value by at most
``2**-(n + 1)`` of itself; packing changes all values of a variable by at most half a step.

References
----------
Zender (2016), Geoscientific Model Development; Kloewer, Razinger, Dominguez, Dueben and Palmer (2021), Nature
Computational Science.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.errors import OptionError, OutputError, listing
from downscale.process.computing import computed

SHORT = "int16"
# The lowest short integer marks missing values; a few more are reserved for rounding at both ends.
FILL = -(2**15)
CODES = 65_530
MANTISSA = {4: 23, 8: 52}
Packing = str | int


def parse_packing(packing: Any, names: list[str], ds: xr.Dataset) -> dict[str, Packing]:
    """Return the packing of each variable: "int16", or the number of mantissa bits to keep.

    Parameters
    ----------
    packing : None, "int16", int, or mapping of name to these
        One for all of ``names``, or by name.
    names : list of str
        The fields that can be packed.

    Raises
    ------
    OptionError
        If it is none of these, or names an unknown variable.

    Examples
    --------
    >>> ds = xr.Dataset({"tas": ("x", np.zeros(2, "f4")), "pr": ("x", np.zeros(2, "f4"))})
    >>> parse_packing({"tas": "int16", "pr": 12}, ["tas", "pr"], ds)
    {'tas': 'int16', 'pr': 12}
    """
    if packing is None:
        return {}
    asked = dict(packing) if isinstance(packing, Mapping) else dict.fromkeys(names, packing)
    for name, how in asked.items():
        if name not in names:
            raise OptionError(f"expected packing of a field among {listing(names)}, received {name!r}")
        _require_legal(str(name), how, ds[name].dtype.itemsize)
    return {str(name): how for name, how in asked.items() if how is not None}


def _require_legal(name: str, how: Any, size: int) -> None:
    most = MANTISSA[size]
    whole = isinstance(how, int | np.integer) and not isinstance(how, bool)
    if how is None or how == SHORT or (whole and 1 <= how <= most):
        return
    raise OptionError(
        f"{name}: expected packing to be None, 'int16' or the mantissa bits to keep (1 to {most}), received {how!r}"
    )


def rounded(ds: xr.Dataset, packings: Mapping[str, Packing]) -> xr.Dataset:
    """Return ``ds`` with the mantissas of some variables rounded; lazy fields stay lazy."""
    made = {}
    for name, how in packings.items():
        if how != SHORT:
            variable = ds[name].variable
            data, bits = variable.data, int(how)
            lazy = isinstance(data, da.Array)
            less = data.map_blocks(round_bits, bits, dtype=data.dtype) if lazy else round_bits(np.asarray(data), bits)
            made[name] = variable.copy(deep=False, data=less)
    for name, variable in made.items():
        variable.encoding = dict(ds[name].encoding)
    return ds.assign({name: (v.dims, v.data, v.attrs, v.encoding) for name, v in made.items()})


def round_bits(values: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Round floats to the nearest value with ``bits`` mantissa bits, ties to even; the sign and zero are kept.

    Examples
    --------
    >>> round_bits(np.array([1.0, 1.1, -300.7], "f4"), 4)
    array([   1.    ,    1.125, -304.   ], dtype=float32)
    """
    values = np.ascontiguousarray(values)
    drop = MANTISSA[values.dtype.itemsize] - bits
    if drop <= 0:
        return values
    kind = np.dtype(f"u{values.dtype.itemsize}").type
    codes = values.view(kind)
    # Add half a step, less one unit if the last kept bit is even: ties go to even.
    up = kind((1 << (drop - 1)) - 1) + ((codes >> kind(drop)) & kind(1))
    less = ((codes + up) & ~kind((1 << drop) - 1)).view(values.dtype)
    # NaN and infinity are not rounded, and the largest numbers must not become infinite.
    return np.where(np.isfinite(values) & np.isfinite(less), less, values)


def short_encodings(ds: xr.Dataset, packings: Mapping[str, Packing]) -> dict[str, dict[str, Any]]:
    """Return the encodings of the variables to be packed as short integers.

    The step is a power of two and the offset a multiple of it. Zero, and any bound that is such a multiple, is
    therefore exact in float32 and in float64. Lazy fields are computed once for their range.

    Raises
    ------
    OutputError
        If a field has infinite values.
    """
    names = [name for name, how in packings.items() if how == SHORT]
    ends = computed(*[(_end(ds[name], np.fmin), _end(ds[name], np.fmax)) for name in names])
    made = {}
    for name, (low, high) in zip(names, ends, strict=True):
        if math.isinf(low) or math.isinf(high):
            raise OutputError(
                f"{name}: expected finite values to pack, received {low:g} to {high:g}; leave out packing"
            )
        scale, offset = scale_and_offset(float(low), float(high))
        kind = ds[name].dtype.type
        packed = {"dtype": SHORT, "_FillValue": np.int16(FILL)}
        made[name] = {**packed, "scale_factor": kind(scale), "add_offset": kind(offset)}
    return made


def _end(field: xr.DataArray, which: Any) -> Any:
    """Return the smallest or largest value, NaN if there is none; lazy if the field is."""
    data = field.data
    if not isinstance(data, da.Array):
        return which.reduce(np.asarray(data), axis=None) if data.size else np.nan

    def ends(block: np.ndarray[Any, Any], axis: Any, keepdims: bool) -> Any:
        return which.reduce(block, axis=axis, keepdims=keepdims)

    return da.reduction(data, ends, ends, dtype=data.dtype) if data.size else np.nan


def scale_and_offset(low: float, high: float) -> tuple[float, float]:
    """Return the step, a power of two, and the offset, a multiple of it, that pack a range into short integers.

    Examples
    --------
    >>> scale, offset = scale_and_offset(0.0, 100.0)
    >>> scale, (0.0 - offset) / scale, (100.0 - offset) / scale
    (0.001953125, -25600.0, 25600.0)
    """
    if math.isnan(low):
        return 1.0, 0.0
    wide = high - low
    scale = 2.0 ** math.ceil(math.log2(wide / CODES)) if wide > 0 else _unit_in(low)
    return scale, scale * round((low + high) / 2 / scale)


def _unit_in(value: float) -> float:
    """Return the unit in the last place of a value (float32), a power of two."""
    return 2.0 ** (math.frexp(value)[1] - 24) if value else 1.0


def enough_bits(tolerance: float, packing: Packing, error: float) -> int | None:
    """Return the fewest mantissa bits that conserve to ``tolerance``: by the bound, or by the measured error.

    Examples
    --------
    >>> enough_bits(1e-6, 12, 6e-5), enough_bits(1e-6, "int16", 1e-4)
    (18, 19)
    """
    sure = math.ceil(-math.log2(tolerance)) - 1
    likely = sure if packing == SHORT else int(packing) + math.ceil(math.log2(max(error / tolerance, 1)))
    bits = max(min(sure, likely), 1)
    return bits if bits < MANTISSA[8] else None


def words(packing: Packing) -> str:
    """Return a description of the packing of a variable, for its attributes."""
    if packing == SHORT:
        return "short integers over the range of values"
    return f"{packing} mantissa bits kept, rounded to nearest even"
