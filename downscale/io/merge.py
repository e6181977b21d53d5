"""Merging of NetCDF-4 files along one dimension, with storage chunks copied without decoding.

The pieces have the same variables, types and filters. Compressed chunks are copied if chunk boundaries of a piece and
of the whole coincide; otherwise stored values are copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netCDF4
import numpy as np

from downscale.conservation.report import ConservationReport
from downscale.errors import InputError
from downscale.io.attributes import coverage, now
from downscale.io.encoding import Packing
from downscale.io.leases import disk_errors, temporary_beside
from downscale.io.library import hdf5_file, library, plain_file, reading, writing_errors
from downscale.io.write import Checker, check_written

if TYPE_CHECKING:
    import h5py

# Values per copy if chunks cannot be copied.
PIECE_VALUES = 4_000_000
# Smaller variables are copied by the library.
FEW_VALUES = 100_000


def merge_files(
    parts: Sequence[Path], target: Path, dim: str, checker: Checker | None = None,
    packings: dict[str, Packing] | None = None,
) -> ConservationReport | None:  # fmt: skip
    """Join files along ``dim`` into ``target``, which appears complete and checked, or not at all."""
    with disk_errors(target), temporary_beside(target) as scratch:
        lengths = _lengths(parts, dim)
        names = _skeleton(parts, scratch, dim, lengths)
        _fill(parts, scratch, dim, lengths, names)
        _describe(scratch)
        return None if checker is None else check_written(scratch, checker, packings or {})


@contextmanager
def _raw(path: Path, mode: Any = "r", **how: Any) -> Iterator[netCDF4.Dataset]:
    """Open a file without decoding its values."""
    with plain_file(path, mode, **how) as file:
        file.set_auto_maskandscale(False)
        file.set_auto_chartostring(False)
        yield file


def _lengths(parts: Sequence[Path], dim: str) -> list[int]:
    """Return the size of each file along ``dim``."""
    first: Any = None
    lengths = []
    for part in parts:
        with _raw(part) as file:
            if dim not in file.dimensions:
                raise InputError(f"expected files with the dimension {dim!r}, received none in {part}")
            properties = {name: (v.dtype, v.dimensions, _fixed(v, dim)) for name, v in file.variables.items()}
            if first is not None and properties != first:
                raise InputError(f"expected files of one making, received {part} unlike {parts[0]}; make them anew")
            first = properties
            lengths.append(len(file.dimensions[dim]))
    return lengths


def _fixed(variable: netCDF4.Variable, dim: str) -> tuple[Any, ...]:
    """Return the properties that must be equal in all pieces: other dimensions, and packing."""
    sizes = [n for name, n in zip(variable.dimensions, variable.shape, strict=True) if name != dim]
    names = ("scale_factor", "add_offset", "units", "calendar")
    return (*sizes, *(str(variable.getncattr(name)) for name in names if name in variable.ncattrs()))


def _skeleton(parts: Sequence[Path], scratch: Path, dim: str, lengths: list[int]) -> list[str]:
    """Write the file with all its attributes and small variables; return the names of variables still to fill."""
    with _raw(parts[0]) as first, _raw(scratch, "w", format=first.data_model) as merged:
        merged.setncatts({name: first.getncattr(name) for name in first.ncattrs()})
        for name, dimension in first.dimensions.items():
            merged.createDimension(
                name, None if dimension.isunlimited() else sum(lengths) if name == dim else len(dimension)
            )
        for name, variable in first.variables.items():
            _declare(merged, name, variable)
        large_names = [
            name for name, v in first.variables.items() if dim in v.dimensions and _is_large(v, sum(lengths), dim)
        ]
        for name, variable in first.variables.items():
            if dim not in variable.dimensions:
                merged[name][...] = variable[...]
        for start, part in zip(_starts(lengths), parts, strict=True):
            with _raw(part) as file:
                for name, variable in file.variables.items():
                    if dim in variable.dimensions and name not in large_names:
                        merged[name][_where(variable.dimensions, variable.shape, dim, start)] = variable[...]
    return large_names


def _is_large(variable: netCDF4.Variable, size: int, dim: str) -> bool:
    values_per_step = math.prod(n for name, n in zip(variable.dimensions, variable.shape, strict=True) if name != dim)
    return variable.ndim > 1 and isinstance(variable.dtype, np.dtype) and values_per_step * size > FEW_VALUES


def _starts(lengths: list[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths))]


def _where(dims: tuple[str, ...], shape: tuple[int, ...], dim: str, start: int) -> tuple[slice, ...]:
    """Return the slices of a piece in the whole."""
    return tuple(slice(start, start + n) if name == dim else slice(0, n) for name, n in zip(dims, shape, strict=True))


def _declare(made: netCDF4.Dataset, name: str, variable: netCDF4.Variable) -> None:
    """Create a variable like another: type, filters, chunks, attributes."""
    attrs = {key: variable.getncattr(key) for key in variable.ncattrs()}
    options: dict[str, Any] = {"fill_value": attrs.pop("_FillValue", None)}
    if isinstance(variable.dtype, np.dtype) and variable.ndim:
        filters = variable.filters() or {}
        options.update(zlib=bool(filters.get("zlib")), shuffle=bool(filters.get("shuffle")), endian=variable.endian())
        options.update(complevel=int(filters.get("complevel") or 0), fletcher32=bool(filters.get("fletcher32")))
        chunks = variable.chunking()
        options.update(contiguous=True) if chunks == "contiguous" else options.update(chunksizes=chunks)
    made.createVariable(name, variable.dtype, variable.dimensions, **options).setncatts(attrs)


def _fill(parts: Sequence[Path], scratch: Path, dim: str, lengths: list[int], names: list[str]) -> None:
    """Copy the fields of all pieces."""
    if not names:
        return
    with _raw(parts[0]) as first:
        dims = {name: first[name].dimensions for name in names}
    with library(), hdf5_file(scratch, "r+") as merged, writing_errors():
        for name in names:
            axis = dims[name].index(dim)
            shape = list(merged[name].shape)
            if shape[axis] != sum(lengths):
                shape[axis] = sum(lengths)
                merged[name].resize(shape)
        for start, part in zip(_starts(lengths), parts, strict=True):
            with hdf5_file(part) as file:
                for name in names:
                    _copy(file[name], merged[name], dims[name].index(dim), start)


def _copy(piece: h5py.Dataset, whole: h5py.Dataset, axis: int, start: int) -> None:
    """Copy a piece to its position: by chunks if these are chunks of the whole, else by values."""
    if _same_chunks(piece, whole, axis, start):
        offsets: list[tuple[int, ...]] = []
        piece.id.chunk_iter(lambda found: offsets.append(tuple(found.chunk_offset)))
        for offset in offsets:
            mask, data = piece.id.read_direct_chunk(offset)
            target_offset = tuple(n + start * (i == axis) for i, n in enumerate(offset))
            whole.id.write_direct_chunk(target_offset, data, mask)
        return
    values_per_step = math.prod(piece.shape) // max(piece.shape[axis], 1)
    step = max(PIECE_VALUES // max(values_per_step, 1), 1)
    for first in range(0, piece.shape[axis], step):
        last = min(first + step, piece.shape[axis])
        leading = (slice(None),) * axis
        whole[(*leading, slice(start + first, start + last))] = piece[(*leading, slice(first, last))]


def _same_chunks(piece: h5py.Dataset, whole: h5py.Dataset, axis: int, start: int) -> bool:
    """Return whether the chunks of a piece equal those of the whole."""
    if piece.chunks is None or piece.chunks != whole.chunks or piece.dtype != whole.dtype:
        return False
    chunk, end = whole.chunks[axis], start + piece.shape[axis]
    is_aligned = start % chunk == 0 and (end % chunk == 0 or end == whole.shape[axis])
    return is_aligned and _filters(piece) == _filters(whole) and piece.id.get_num_chunks() == _count(piece)


def _filters(dataset: h5py.Dataset) -> list[Any]:
    properties = dataset.id.get_create_plist()
    return [(entry[0], entry[2]) for entry in map(properties.get_filter, range(properties.get_nfilters()))]


def _count(dataset: h5py.Dataset) -> int:
    return math.prod(-(-n // size) for n, size in zip(dataset.shape, dataset.chunks, strict=True))


def _describe(scratch: Path) -> None:
    """Set the time coverage of the whole."""
    with reading(scratch, chunks=None, decode_coords="all") as ds:
        attrs = coverage(ds)
    with plain_file(scratch, "a") as file:
        for name in [name for name in file.ncattrs() if name.startswith("time_coverage_")]:
            file.delncattr(name)
        file.setncatts({**attrs, "date_created": now()})
