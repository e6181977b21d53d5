"""Merging of NetCDF-4 files along one dimension, with storage chunks copied without decoding.

The pieces have the same variables, types and filters. Compressed chunks are copied if chunk boundaries of a piece and
of the whole coincide; otherwise stored values are copied.
"""

from __future__ import annotations

import hashlib
import itertools
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
from downscale.io.write import write_report

if TYPE_CHECKING:
    import h5py

# Values per copy if chunks cannot be copied.
PIECE_VALUES = 4_000_000
# Smaller variables are copied by the library.
FEW_VALUES = 100_000
# Bytes per read of a checksum.
BUFFER = 1 << 22
# Attributes that must be equal in all pieces.
DECODING = ("scale_factor", "add_offset", "units", "calendar")
# The first step of each file in the merged file.
Pieces = Sequence[tuple[int, Path]]


def merge_files(
    parts: Sequence[Path], target: Path, dim: str, checksums: Sequence[str] = (),
    report: ConservationReport | None = None, packings: Mapping[str, Packing] | None = None,
) -> None:  # fmt: skip
    """Join files along ``dim`` into ``target``, which appears complete, or not at all.

    Raises an OutputError if a piece does not have its checksum, or if the file read back differs from the pieces. The
    check report of the pieces, if given, is then valid for the file and written to its attributes.
    """
    with disk_errors(target), temporary_beside(target) as scratch:
        *starts, size = itertools.accumulate(_lengths(parts, dim), initial=0)
        pieces = list(zip(starts, parts, strict=True))
        # The checksums are computed while the pieces are copied.
        with ThreadPoolExecutor(max_workers=1) as pool:
            checksums_read = pool.map(checksum, parts) if checksums else ()
            axes = _write_small(pieces, scratch, dim, size)
            _copy_fields(pieces, scratch, size, axes)
            for part, stored_checksum, actual_checksum in zip(
                parts if checksums else (), checksums, checksums_read, strict=True
            ):
                if actual_checksum != stored_checksum:
                    raise damage_error(part.name, "other bytes")
        flush(scratch)
        _require_copies(pieces, scratch, dim, axes)
        _write_coverage(scratch)
        if report is not None:
            write_report(scratch, report, packings or {})


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and bytes of all files of a store."""
    if path.is_dir():
        lines = [f"{file.relative_to(path).as_posix()} {checksum(file)}\n" for file in files_of(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256", _bufsize=BUFFER).hexdigest()  # type: ignore[call-arg]


def files_of(path: Path) -> list[Path]:
    """Return a file, or all files of a store in the order of their names."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def damage_error(name: str, received: str) -> OutputError:
    """Return the error for bytes that are not those written before."""
    return OutputError(
        f"{name}: expected what was written and checked, received {received}; check the disk, run again with --resume"
    )


@contextmanager
def _open_raw(path: Path, mode: Any = "r", **options: Any) -> Iterator[netCDF4.Dataset]:
    """Open a file without decoding its values."""
    with plain_file(path, mode, **options) as file:
        file.set_auto_maskandscale(False)
        file.set_auto_chartostring(False)
        yield file


def _lengths(parts: Sequence[Path], dim: str) -> Iterator[int]:
    """Yield the size of each file along ``dim``; all must have the same variables, other dimensions and packing."""
    first: Any = None
    for part in parts:
        with _open_raw(part) as file:
            if dim not in file.dimensions:
                raise InputError(f"expected files with the dimension {dim!r}, received none in {part}")
            properties = {}
            for name, v in file.variables.items():
                sizes = [n for key, n in zip(v.dimensions, v.shape, strict=True) if key != dim]
                attrs = [str(v.getncattr(key)) for key in DECODING if key in v.ncattrs()]
                properties[name] = v.dtype, v.dimensions, sizes, attrs
            if first is not None and properties != first:
                raise InputError(f"expected files of one making, received {part} unlike {parts[0]}; make them anew")
            first = properties
            yield len(file.dimensions[dim])


def _write_small(pieces: Pieces, scratch: Path, dim: str, size: int) -> dict[str, int]:
    """Write the file with all its attributes and small variables; return the axis of each field still to copy."""
    with _open_raw(pieces[0][1]) as first, _open_raw(scratch, "w", format=first.data_model) as target_file:
        target_file.setncatts({name: first.getncattr(name) for name in first.ncattrs()})
        for name, dimension in first.dimensions.items():
            length = size if name == dim else len(dimension)
            target_file.createDimension(name, None if dimension.isunlimited() else length)
        axes = {}
        for name, v in first.variables.items():
            _declare(target_file, name, v)
            if dim in v.dimensions and v.ndim > 1 and isinstance(v.dtype, np.dtype):
                axis = v.dimensions.index(dim)
                if math.prod(v.shape) // max(v.shape[axis], 1) * size > FEW_VALUES:
                    axes[name] = axis
        for start, part in pieces:
            with _open_raw(part) as file:
                for name, variable, place in _small_variables(file, dim, start, axes):
                    target_file[name][place] = variable[...]
    return axes


def _small_variables(file: netCDF4.Dataset, dim: str, start: int, axes: Mapping[str, int]) -> Iterator[Any]:
    """Yield name, variable and target slices of each small variable; without ``dim`` only those of the first file."""
    for name, v in file.variables.items():
        if name not in axes and (dim in v.dimensions or not start):
            offsets = [start if key == dim else 0 for key in v.dimensions]
            yield name, v, tuple(slice(a, a + n) for a, n in zip(offsets, v.shape, strict=True)) or ...


def _declare(target_file: netCDF4.Dataset, name: str, variable: netCDF4.Variable) -> None:
    """Create a variable like another: type, filters, chunks, attributes."""
    attrs = {key: variable.getncattr(key) for key in variable.ncattrs()}
    options: dict[str, Any] = {"fill_value": attrs.pop("_FillValue", None)}
    if isinstance(variable.dtype, np.dtype) and variable.ndim:
        filters = variable.filters() or {}
        options.update(zlib=bool(filters.get("zlib")), shuffle=bool(filters.get("shuffle")), endian=variable.endian())
        options.update(complevel=int(filters.get("complevel") or 0), fletcher32=bool(filters.get("fletcher32")))
        chunks = variable.chunking()
        options.update(contiguous=True) if chunks == "contiguous" else options.update(chunksizes=chunks)
    target_file.createVariable(name, variable.dtype, variable.dimensions, **options).setncatts(attrs)


def _copy_fields(pieces: Pieces, scratch: Path, size: int, axes: Mapping[str, int]) -> None:
    """Copy the large fields of all pieces: by chunks if these are chunks of the merged file, else by values."""
    if not axes:
        return
    with library(), hdf5_file(scratch, "r+") as target_file, writing_errors():
        for name, axis in axes.items():
            if target_file[name].shape[axis] != size:
                target_file[name].resize(size, axis)
        for start, part in pieces:
            with hdf5_file(part) as file:
                for name, axis in axes.items():
                    piece, merged_field = file[name], target_file[name]
                    if _same_chunks(piece, merged_field, axis, start):
                        for offset, target_offset in _offsets(piece, axis, start):
                            mask, data = piece.id.read_direct_chunk(offset)
                            merged_field.id.write_direct_chunk(target_offset, data, mask)
                    else:
                        for piece_slices, merged_slices in _slices(piece, axis, start):
                            merged_field[merged_slices] = piece[piece_slices]


def _require_copies(pieces: Pieces, scratch: Path, dim: str, axes: Mapping[str, int]) -> None:
    """Raise an OutputError unless the merged file holds the stored chunks of all pieces, and their other values."""
    with _open_raw(scratch) as target_file:
        for start, part in pieces:
            with _open_raw(part) as file:
                for name, variable, place in _small_variables(file, dim, start, axes):
                    values, copied = np.asarray(variable[...]), np.asarray(target_file[name][place])
                    # Texts are objects, and NaN are compared by their bytes.
                    is_text = values.dtype == object
                    if not (np.array_equal(values, copied) if is_text else values.tobytes() == copied.tobytes()):
                        raise damage_error(name, f"other values than those of {part.name}")
    with library(), hdf5_file(scratch) as target_file:
        for start, part in pieces:
            with hdf5_file(part) as file:
                for name, axis in axes.items():
                    piece, merged_field = file[name], target_file[name]
                    if _same_chunks(piece, merged_field, axis, start):
                        pairs = ((piece.id.read_direct_chunk(a), merged_field.id.read_direct_chunk(b))
                                 for a, b in _offsets(piece, axis, start))  # fmt: skip
                    else:
                        pairs = (
                            (piece[a].tobytes(), merged_field[b].tobytes()) for a, b in _slices(piece, axis, start)
                        )
                    if any(one != other for one, other in pairs):
                        raise damage_error(name, f"other values than those of {part.name}")


def _offsets(piece: h5py.Dataset, axis: int, start: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the first index of each chunk of a piece, and its first index in the merged field."""
    offsets: list[tuple[int, ...]] = []
    piece.id.chunk_iter(lambda chunk: offsets.append(tuple(chunk.chunk_offset)))
    for offset in offsets:
        yield offset, (*offset[:axis], offset[axis] + start, *offset[axis + 1 :])


def _slices(piece: h5py.Dataset, axis: int, start: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield slices of a piece that hold a few values each, and their slices in the merged field."""
    values_per_step = math.prod(piece.shape) // max(piece.shape[axis], 1)
    step = max(PIECE_VALUES // max(values_per_step, 1), 1)
    leading = (slice(None),) * axis
    for first in range(0, piece.shape[axis], step):
        last = min(first + step, piece.shape[axis])
        yield (*leading, slice(first, last)), (*leading, slice(start + first, start + last))


def _same_chunks(piece: h5py.Dataset, merged_field: h5py.Dataset, axis: int, start: int) -> bool:
    """Return whether the chunks of a piece equal those of the merged field."""
    if piece.chunks is None or piece.chunks != merged_field.chunks or piece.dtype != merged_field.dtype:
        return False
    chunk, end = merged_field.chunks[axis], start + piece.shape[axis]
    is_aligned = start % chunk == 0 and (end % chunk == 0 or end == merged_field.shape[axis])
    properties = [dataset.id.get_create_plist() for dataset in (piece, merged_field)]
    filters = [[plist.get_filter(i)[::2] for i in range(plist.get_nfilters())] for plist in properties]
    count = math.prod(-(-n // size) for n, size in zip(piece.shape, piece.chunks, strict=True))
    return is_aligned and filters[0] == filters[1] and piece.id.get_num_chunks() == count


def _write_coverage(scratch: Path) -> None:
    """Set the time coverage of the merged file."""
    with reading(scratch, chunks=None, decode_coords="all") as ds:
        attrs = coverage(ds)
    with plain_file(scratch, "a") as file:
        for name in [name for name in file.ncattrs() if name.startswith("time_coverage_")]:
            file.delncattr(name)
        file.setncatts({**attrs, "date_created": now()})
