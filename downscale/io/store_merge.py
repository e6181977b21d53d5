"""Merging of Zarr stores along one dimension, and appending to a store, without decoding of the storage chunks.

Chunks that are those of the merged store are linked, or copied where links are impossible; the values of others are
copied. The merged store is written under a temporary name and renamed at the end: until then, an existing store to
which pieces are appended stays as it is.
"""

from __future__ import annotations

import filecmp
import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.times import time_encodings
from downscale.conservation.report import ConservationReport, VariableReport
from downscale.errors import InputError, OutputError, listing
from downscale.io.attributes import coverage, now
from downscale.io.encoding import REPORT_ATTR, Packing
from downscale.io.leases import disk_errors
from downscale.io.merge import checksum, damage_error
from downscale.io.store import require_zarr, set_report, temporary_store
from downscale.process.computing import use_own_threads

GROUP_FILES, ARRAY_FILES = (".zgroup", ".zattrs", "zarr.json"), (".zarray", ".zattrs", "zarr.json")
DIMENSIONS = "_ARRAY_DIMENSIONS"
# Attributes of a variable that may differ between pieces.
REPORTED = ("conservation",)
# The parts of a check report that are the largest, and the sums, of those of the pieces.
LARGEST = ("tolerance", "max_relative_error", "max_absolute_error", "global_error")
SUMS = ("cells_checked", "cells_masked", "values_out_of_order", "cells_out_of_order")
Finish = Callable[[Path], None]


@dataclass(frozen=True)
class _Piece:
    """A store with the positions ``start`` to ``stop`` of the merged store."""

    path: Path
    group: Any
    start: int = 0
    stop: int = 0

    @property
    def arrays(self) -> dict[str, Any]:
        """The arrays by name."""
        return dict(self.group.arrays())


def merge_stores(
    parts: Sequence[Path], target: Path, dim: str, checksums: Sequence[str] = (),
    report: ConservationReport | None = None, packings: Mapping[str, Packing] | None = None, *, append: bool = False,
    finish: Finish | None = None,
) -> None:  # fmt: skip
    """Join stores along ``dim`` into ``target``, which appears complete, or not at all.

    With ``append``, an existing store at ``target`` is the first piece. Raises an OutputError if a piece does not have
    its checksum, and an InputError if the pieces do not fit. ``finish`` gets the complete store before it is renamed.
    """
    require_zarr(target)
    for part, expected in zip(parts if checksums else (), checksums, strict=True):
        if checksum(part) != expected:
            raise damage_error(part.name, "other bytes")
    is_extension = append and target.exists()
    sources = [target, *parts] if is_extension else list(parts)
    with disk_errors(target), temporary_store(target) as scratch:
        pieces = _open_pieces(sources, dim)
        if is_extension:
            _require_later(pieces, dim)
            report = _extend_report(pieces[0], report)
        _declare(pieces, scratch, dim)
        merged = _open(scratch, "r+").group
        for name, array in merged.arrays():
            _fill(scratch, name, array, pieces, dim)
        if is_extension:
            histories = [str(piece.group.attrs.get("history", "")) for piece in (pieces[1], pieces[0])]
            merged.attrs["history"] = "\n".join(filter(None, histories))
        _set_attributes(scratch, merged, report, packings or {})
        if finish is not None:
            finish(scratch)


def store_layout(path: Path, dim: str) -> dict[str, dict[str, Any]]:
    """Return the chunks of the fields of a store along ``dim``, and the encoding of its times, by variable."""
    layout: dict[str, dict[str, Any]] = {}
    with xr.open_zarr(path, chunks=None, decode_coords="all", consolidated=False) as ds:
        for name, variable in ds.data_vars.items():
            if dim in variable.dims and variable.ndim > 1 and variable.encoding.get("chunks"):
                layout[str(name)] = {"chunksizes": tuple(variable.encoding["chunks"])}
        return {**layout, **time_encodings(ds)}


def _open(path: Path, mode: Any = "r") -> _Piece:
    import zarr

    return _Piece(path, zarr.open_group(path, mode=mode, use_consolidated=False))


def _dims(array: Any) -> tuple[str, ...]:
    """Return the names of the dimensions of an array, in either format."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get(DIMENSIONS, ())
    return tuple(map(str, names))


def _chunks(array: Any) -> tuple[int, ...]:
    """Return the lengths of the stored chunks of an array, in either format."""
    return tuple(getattr(array, "shards", None) or array.chunks)


def _attrs(array: Any) -> dict[str, Any]:
    return {key: value for key, value in array.attrs.asdict().items() if key not in (*REPORTED, DIMENSIONS)}


def _stored(array: Any, dim: str) -> tuple[Any, ...]:
    """Return what must be equal in all pieces: format, type, dimensions, other sizes and packing."""
    sizes = [n for key, n in zip(_dims(array), array.shape, strict=True) if key != dim]
    return array.metadata.zarr_format, array.dtype, _dims(array), sizes, str(array.fill_value)


def _open_pieces(paths: Sequence[Path], dim: str) -> list[_Piece]:
    """Return the pieces in order; all must have the same variables, grid and attributes."""
    pieces: list[_Piece] = []
    for path in paths:
        piece = _open(path)
        arrays = piece.arrays
        lengths = {array.shape[_dims(array).index(dim)] for array in arrays.values() if dim in _dims(array)}
        if len(lengths) != 1:
            raise InputError(f"expected a store with the dimension {dim!r}, received {path}; choose another")
        start = pieces[-1].stop if pieces else 0
        pieces.append(replace(piece, start=start, stop=start + lengths.pop()))
        _require_alike(pieces[0], pieces[0].arrays, pieces[-1], arrays, dim)
    return pieces


def _require_alike(
    first: _Piece, first_arrays: Mapping[str, Any], piece: _Piece, arrays: Mapping[str, Any], dim: str
) -> None:
    if arrays.keys() != first_arrays.keys():
        words = f"the variables {listing(first_arrays)}", listing(arrays)
        raise InputError(f"{piece.path.name}: expected {words[0]} of {first.path.name}, received {words[1]}")
    for name, array in arrays.items() if piece is not first else ():
        other, prefix = first_arrays[name], f"{piece.path.name}: {name}: expected"
        if _stored(array, dim) != _stored(other, dim):
            raise InputError(f"{prefix} the type and grid of {first.path.name}, received others; write another store")
        attrs, expected = _attrs(array), _attrs(other)
        keys = sorted(key for key in {*attrs, *expected} if attrs.get(key) != expected.get(key))
        if keys:
            raise InputError(
                f"{prefix} {keys[0]} {expected.get(keys[0])!r} as in {first.path.name}, received "
                f"{attrs.get(keys[0])!r}; write another store"
            )
        if dim not in _dims(array) and array[...].tobytes() != other[...].tobytes():
            raise InputError(f"{prefix} the values of {first.path.name}, received others; write another store")


def _require_later(pieces: Sequence[_Piece], dim: str) -> None:
    """Raise an InputError unless the pieces follow the store to which they are appended."""
    old, new = pieces[0].arrays.get(dim), pieces[1].arrays.get(dim)
    if old is not None and new is not None and old.dtype.kind in "iuf" and not new[0] > old[-1]:
        raise InputError(
            f"expected {dim} after {old[-1]} ({old.attrs.get('units', '')}), the last of {pieces[0].path.name}, "
            f"received {new[0]}; append a later period"
        )


# The merged store.


def _declare(pieces: Sequence[_Piece], scratch: Path, dim: str) -> None:
    """Write the metadata of the merged store: those of the first piece, with other lengths along ``dim``."""
    size, first = pieces[-1].stop, pieces[0]
    scratch.mkdir()
    for file in GROUP_FILES:
        if (first.path / file).exists():
            facts = json.loads((first.path / file).read_text(encoding="utf-8"))
            facts.pop("consolidated_metadata", None)
            (scratch / file).write_text(json.dumps(facts, indent=2), encoding="utf-8")
    for name, array in first.arrays.items():
        (scratch / name).mkdir(parents=True)
        for file in ARRAY_FILES:
            if (first.path / name / file).exists():
                facts = json.loads((first.path / name / file).read_text(encoding="utf-8"))
                if "shape" in facts and dim in _dims(array):
                    _lengthen(facts, array, _dims(array).index(dim), size)
                (scratch / name / file).write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _lengthen(facts: dict[str, Any], array: Any, axis: int, size: int) -> None:
    """Set the length of an array in its metadata; times and their bounds are stored in one chunk."""
    facts["shape"][axis] = size
    if math.prod(facts["shape"]) <= 2 * size:
        chunks = facts["chunks"] if "chunks" in facts else facts["chunk_grid"]["configuration"]["chunk_shape"]
        chunks[axis] = size


def _fill(scratch: Path, name: str, array: Any, pieces: Sequence[_Piece], dim: str) -> None:
    """Write the chunks of an array: each is linked if a piece has it, else its values are copied and compared."""
    first = pieces[0]
    if dim not in _dims(array):
        for index in _chunk_indices(array):
            _link(first, name, first.group[name], index, scratch, array, index)
        return
    axis = _dims(array).index(dim)
    length, size = _chunks(array)[axis], array.shape[axis]
    sources = [(piece, piece.group[name]) for piece in pieces]
    for number, begin in enumerate(range(0, size, length)):
        end = min(begin + length, size)
        whole = next((source for source in sources if _has_chunk(*source, array, axis, begin, end)), None)
        if whole is not None:
            shifted = (begin - whole[0].start) // length
            for index in _chunk_indices(array, axis):
                place = (*index[:axis], number, *index[axis + 1 :])
                _link(whole[0], name, whole[1], (*place[:axis], shifted, *place[axis + 1 :]), scratch, array, place)
            continue
        values = np.concatenate([
            source[_along(source, axis, max(begin, piece.start) - piece.start, min(end, piece.stop) - piece.start)]
            for piece, source in sources if piece.start < end and begin < piece.stop
        ], axis=axis)  # fmt: skip
        array[_along(array, axis, begin, end)] = values
        if array[_along(array, axis, begin, end)].tobytes() != values.tobytes():
            raise damage_error(name, "other values than those of its pieces")


def _along(array: Any, axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if i == axis else slice(None) for i in range(array.ndim))


def _chunk_indices(array: Any, axis: int | None = None) -> Iterator[tuple[int, ...]]:
    """Yield the indices of the chunks of an array; of its first chunks along ``axis``, if given."""
    counts = [-(-n // size) for n, size in zip(array.shape, _chunks(array), strict=True)]
    yield from itertools.product(*(range(1 if i == axis else n) for i, n in enumerate(counts)))


def _has_chunk(piece: _Piece, source: Any, array: Any, axis: int, begin: int, end: int) -> bool:
    """Return whether a piece has a stored chunk with the steps ``begin`` to ``end`` and nothing else."""
    if begin < piece.start or end > piece.stop or (begin - piece.start) % _chunks(array)[axis]:
        return False
    return _chunks(source) == _chunks(array) and _codecs(source) == _codecs(array)


def _codecs(array: Any) -> list[str]:
    return [str(getattr(array, key, None)) for key in ("filters", "serializer", "compressors", "order")]


def _link(piece: _Piece, name: str, source: Any, index: Any, scratch: Path, array: Any, place: Any) -> None:
    """Link the file of a chunk into the merged store; where links are impossible, copy and compare it."""
    file = piece.path / name / source.metadata.encode_chunk_key(index)
    copy = scratch / name / array.metadata.encode_chunk_key(place)
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, copy)
    except FileNotFoundError:  # a chunk that has only missing values is not stored
        return
    except OSError:
        shutil.copyfile(file, copy)
        if not filecmp.cmp(file, copy, shallow=False):
            raise damage_error(name, f"other values than those of {piece.path.name}") from None


# Attributes.


def _set_attributes(
    scratch: Path, merged: Any, report: ConservationReport | None, packings: Mapping[str, Packing]
) -> None:
    """Set the time coverage and the check report of the merged store."""
    with use_own_threads(), xr.open_zarr(scratch, chunks={}, decode_coords="all", consolidated=False) as ds:
        attrs = coverage(ds)
    kept = {key: value for key, value in merged.attrs.asdict().items() if not key.startswith("time_coverage_")}
    merged.attrs.put({**kept, **attrs, "date_created": now()})
    set_report(scratch, report, packings)


def _extend_report(old: _Piece, report: ConservationReport | None) -> ConservationReport | None:
    """Return the report of the pieces merged with that in the attributes of the store to which they are appended."""
    stored = json.loads(str(old.group.attrs.get(REPORT_ATTR, "{}"))).get("variables", {})
    variables = {} if report is None else report.variables
    if stored.keys() != variables.keys():
        raise InputError(
            f"expected the check report of {old.path.name} for {listing(variables) or 'no variable'}, received that of "
            f"{listing(stored) or 'none'}; write another store"
        )
    merged = {name: _extend(entry, stored[name], old.path) for name, entry in variables.items()}
    return None if report is None else ConservationReport(merged)


def _extend(entry: VariableReport, stored: Mapping[str, Any], path: Path) -> VariableReport:
    for key in ("law", "compared"):
        if stored.get(key) != getattr(entry, key):
            raise OutputError(
                f"{entry.name}: expected the {key} {stored.get(key)!r} of the check of {path.name}, received "
                f"{getattr(entry, key)!r}; write another store"
            )
    changes = {key: max(getattr(entry, key), stored[key]) for key in LARGEST if stored.get(key) is not None}
    changes |= {key: getattr(entry, key) + stored[key] for key in SUMS if stored.get(key) is not None}
    return replace(entry, **changes)
