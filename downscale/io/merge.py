"""Merging of NetCDF-4 files along one dimension, with storage chunks copied without decoding.

The pieces have the same variables, types and filters. Compressed chunks are copied if chunk boundaries of a piece and
of the whole coincide; otherwise stored values are copied.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netCDF4
import numpy as np

from downscale.conservation.report import ConservationReport
from downscale.errors import InputError, OutputError
from downscale.io.attributes import coverage, now
from downscale.io.encoding import Packing
from downscale.io.leases import disk_errors, temporary_beside
from downscale.io.library import hdf5_file, library, plain_file, reading, writing_errors
from downscale.io.paths import flush
from downscale.io.write import sign

if TYPE_CHECKING:
    import h5py

# Values per copy if chunks cannot be copied.
PIECE_VALUES = 4_000_000
# Smaller variables are copied by the library.
FEW_VALUES = 100_000
# Bytes per read of a checksum.
BUFFER = 1 << 22


def merge_files(
    parts: Sequence[Path], target: Path, dim: str, checksums: Sequence[str] = (),
    report: ConservationReport | None = None, packings: Mapping[str, Packing] | None = None,
) -> None:  # fmt: skip
    """Join files along ``dim`` into ``target``, which appears complete, or not at all.

    Raises an OutputError if a piece does not have its checksum, or if the file read back differs from the pieces. The
    check report of the pieces, if given, is then valid for the file and written to its attributes.
    """
    with disk_errors(target), temporary_beside(target) as scratch:
        lengths = _lengths(parts, dim)
        # The checksums are computed while the pieces are copied.
        with ThreadPoolExecutor(max_workers=1) as pool:
            actual = pool.map(checksum, parts) if checksums else ()
            axes = _skeleton(parts, scratch, dim, lengths)
            _copy_fields(parts, scratch, dim, lengths, axes)
            for part, expected, received in zip(parts, checksums, actual, strict=False):
                if received != expected:
                    raise _damage(part.name, "other bytes")
        flush(scratch)
        _require_copies(parts, scratch, dim, lengths, axes)
        _describe(scratch)
        if report is not None:
            sign(scratch, report, packings or {})


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256", _bufsize=BUFFER).hexdigest()  # type: ignore[call-arg]


def _damage(name: str, received: str) -> OutputError:
    return OutputError(
        f"{name}: expected what was written and checked, received {received}; check the disk, run again with --resume"
    )


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


def _skeleton(parts: Sequence[Path], scratch: Path, dim: str, lengths: list[int]) -> dict[str, int]:
    """Write the file with all its attributes and small variables; return the axis of each field still to copy."""
    with _raw(parts[0]) as first, _raw(scratch, "w", format=first.data_model) as merged:
        merged.setncatts({name: first.getncattr(name) for name in first.ncattrs()})
        for name, dimension in first.dimensions.items():
            merged.createDimension(
                name, None if dimension.isunlimited() else sum(lengths) if name == dim else len(dimension)
            )
        for name, variable in first.variables.items():
            _declare(merged, name, variable)
        large_axes = {name: variable.dimensions.index(dim) for name, variable in first.variables.items()
                      if dim in variable.dimensions and _is_large(variable, sum(lengths), dim)}  # fmt: skip
        for name, variable in first.variables.items():
            if dim not in variable.dimensions:
                merged[name][...] = variable[...]
        for start, part in zip(_starts(lengths), parts, strict=True):
            with _raw(part) as file:
                for name, variable in file.variables.items():
                    if dim in variable.dimensions and name not in large_axes:
                        merged[name][_where(variable.dimensions, variable.shape, dim, start)] = variable[...]
    return large_axes


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


def _copy_fields(parts: Sequence[Path], scratch: Path, dim: str, lengths: list[int], axes: dict[str, int]) -> None:
    """Copy the large fields of all pieces: by chunks if these are chunks of the whole, else by values."""
    if not axes:
        return
    with library(), hdf5_file(scratch, "r+") as merged, writing_errors():
        for name, axis in axes.items():
            shape = list(merged[name].shape)
            if shape[axis] != sum(lengths):
                shape[axis] = sum(lengths)
                merged[name].resize(shape)
        for start, part in zip(_starts(lengths), parts, strict=True):
            with hdf5_file(part) as file:
                for name, axis in axes.items():
                    piece, whole = file[name], merged[name]
                    if _same_chunks(piece, whole, axis, start):
                        for offset, target_offset in _offsets(piece, axis, start):
                            mask, data = piece.id.read_direct_chunk(offset)
                            whole.id.write_direct_chunk(target_offset, data, mask)
                    else:
                        for place, target_place in _slices(piece, axis, start):
                            whole[target_place] = piece[place]


def _require_copies(parts: Sequence[Path], scratch: Path, dim: str, lengths: list[int], axes: dict[str, int]) -> None:
    """Raise an OutputError unless the merged file holds the stored chunks of all pieces, and their other values."""
    with _raw(scratch) as merged:
        for start, part in zip(_starts(lengths), parts, strict=True):
            with _raw(part) as file:
                for name, variable in file.variables.items():
                    if name in axes or (dim not in variable.dimensions and start):
                        continue
                    place = _where(variable.dimensions, variable.shape, dim, start)
                    values, copied = np.asarray(variable[...]), np.asarray(merged[name][place])
                    # Texts are objects, and NaN are compared by their bytes.
                    is_text = values.dtype == object
                    if not (np.array_equal(values, copied) if is_text else values.tobytes() == copied.tobytes()):
                        raise _damage(name, f"other values than those of {part.name}")
    with library(), hdf5_file(scratch) as merged:
        for start, part in zip(_starts(lengths), parts, strict=True):
            with hdf5_file(part) as file:
                for name, axis in axes.items():
                    piece, whole = file[name], merged[name]
                    if _same_chunks(piece, whole, axis, start):
                        pairs = ((piece.id.read_direct_chunk(a), whole.id.read_direct_chunk(b))
                                 for a, b in _offsets(piece, axis, start))  # fmt: skip
                    else:
                        pairs = ((piece[a].tobytes(), whole[b].tobytes()) for a, b in _slices(piece, axis, start))
                    if any(one != other for one, other in pairs):
                        raise _damage(name, f"other values than those of {part.name}")


def _offsets(piece: h5py.Dataset, axis: int, start: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the first index of each chunk of a piece, and its first index in the whole."""
    offsets: list[tuple[int, ...]] = []
    piece.id.chunk_iter(lambda chunk: offsets.append(tuple(chunk.chunk_offset)))
    for offset in offsets:
        yield offset, (*offset[:axis], offset[axis] + start, *offset[axis + 1 :])


def _slices(piece: h5py.Dataset, axis: int, start: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield slices of a piece that hold a few values each, and their slices in the whole."""
    values_per_step = math.prod(piece.shape) // max(piece.shape[axis], 1)
    step = max(PIECE_VALUES // max(values_per_step, 1), 1)
    leading = (slice(None),) * axis
    for first in range(0, piece.shape[axis], step):
        last = min(first + step, piece.shape[axis])
        yield (*leading, slice(first, last)), (*leading, slice(start + first, start + last))


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
