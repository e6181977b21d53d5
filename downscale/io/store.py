"""Writing of Zarr stores that appear complete and checked, or not at all.

As for NetCDF, a store is written under a temporary name in the same folder, flushed, read back, checked as written,
given its check report, and only then renamed. Format 2, which every Zarr reader supports, or
format 3, both with consolidated metadata.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.conservation.report import ConservationReport
from downscale.errors import OptionError, OutputError
from downscale.io.encoding import Encodings, Packing
from downscale.io.leases import disk_errors, restore_store, scratch_beside
from downscale.io.paths import flush, plain_path, remove, require_free, scratch_name, sources_of
from downscale.io.write import Checker, Output, Storage, check_attributes, prepare, require_pass
from downscale.process.computing import compute, use_own_threads, use_temporary_threads
from downscale.process.interrupts import defer_signals, register_draft

FORMAT, FORMATS = 2, (2, 3)
MARKS = (".zgroup", ".zmetadata", "zarr.json")
INSTALL = 'pip install "downscale-climate[zarr]"'
# Encodings for NetCDF that apply here; the others concern its compression.
ZARR_ENCODINGS = ("_FillValue", "add_offset", "calendar", "dtype", "scale_factor", "units")


def check_store(path: str | Path, overwrite: bool = False, inputs: tuple[Any, ...] = ()) -> Path:
    """Return the path of a store that may be written."""
    if not Path(path).name or Path(path).suffix in (".nc", ".nc4"):
        raise OutputError(f"expected the name of a Zarr store such as fine.zarr, received {path}; use to_netcdf")
    target = plain_path(path)
    restore_store(target)
    require_free(target, overwrite, inputs)
    if target.exists() and not any((target / mark).exists() for mark in MARKS):
        raise OutputError(f"expected a Zarr store to replace, received {target} that is none; choose another name")
    return target


def write_store(
    ds: xr.Dataset, path: str | Path, checker: Checker | None, *, overwrite: bool = False,
    storage: Storage | None = None, inputs: tuple[Any, ...] = (), progress: Any = None, zarr_format: int = FORMAT,
) -> ConservationReport | None:  # fmt: skip
    """Write ``ds`` as a Zarr store; run ``checker`` on it as written before the final renaming."""
    require_zarr(path)
    if zarr_format not in FORMATS:
        raise OptionError(f"expected zarr_format 2 or 3, received {zarr_format!r}")
    target = check_store(path, overwrite, (*inputs, *sources_of(ds)))
    with progress or nullcontext():
        out = prepare(ds, storage or Storage())
        with disk_errors(target), temporary_store(target) as scratch:
            encodings = _encodings(out, zarr_format)
            dataset = _align_chunks(out.ds, encodings)
            task = dataset.to_zarr(
                scratch, mode="w-", encoding=encodings, zarr_format=zarr_format, consolidated=False, compute=False
            )  # fmt: skip
            with use_temporary_threads():
                compute(task)
            report = None if checker is None else _check_written(scratch, checker, out.packings)
            set_report(scratch, report, out.packings)
            return report


def require_zarr(path: str | Path) -> Any:
    """Return the package zarr."""
    try:
        import zarr
    except ImportError:
        raise OutputError(f"expected the package zarr to write {path}, received none; {INSTALL}") from None
    return zarr


def _encodings(out: Output, zarr_format: int) -> Encodings:
    """Return encodings for Zarr: the same chunks and values, compressed by Zstandard after a shuffle."""
    encodings: Encodings = {}
    for name, encoding in out.encodings.items():
        encodings[name] = {key: encoding[key] for key in ZARR_ENCODINGS if key in encoding}
        if encoding.get("chunksizes") is not None:
            level = int(encoding.get("complevel", 1))
            encodings[name]["chunks"] = tuple(encoding["chunksizes"])
            codec = _compressor(level, bool(encoding.get("shuffle", True)), zarr_format)
            encodings[name]["compressors"] = (codec,) if level else None
    return encodings


def _compressor(level: int, shuffle: bool, zarr_format: int) -> Any:
    from zarr.codecs import BloscCodec
    from zarr.registry import get_numcodec

    if zarr_format == FORMAT:
        codec: Any = {"id": "blosc", "cname": "zstd", "clevel": level, "shuffle": int(shuffle)}
        return get_numcodec(codec)
    return BloscCodec(cname="zstd", clevel=level, shuffle="shuffle" if shuffle else "noshuffle")


def _align_chunks(ds: xr.Dataset, encodings: Encodings) -> xr.Dataset:
    """Return ``ds`` without Dask blocks that end inside a chunk of the store, which two tasks would write at once."""
    aligned_variables = {}
    for name, variable in ds.variables.items():
        pairs = list(zip(variable.chunks or (), encodings[str(name)].get("chunks", variable.shape), strict=False))
        if any(length % size for block, size in pairs for length in block[:-1]):
            lengths = [max(max(block) // size, 1) * size for block, size in pairs]
            aligned_variables[name] = variable.chunk(dict(zip(variable.dims, lengths, strict=True)))
    return ds.assign(aligned_variables) if aligned_variables else ds


@contextmanager
def temporary_store(target: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of ``target``; its store is flushed and renamed, or removed on error."""
    # Between the two renames the store has no name; if the process is killed there, the next writer restores it.
    old = scratch_name(target, "old")
    with scratch_beside(target) as scratch:
        try:
            yield scratch
            for folder, _, files in os.walk(scratch):
                for file in (*files, ""):
                    flush(Path(folder) / file)
            with defer_signals():
                if target.exists():
                    os.replace(target, old)
                os.replace(scratch, target)
            flush(target.parent)
        finally:
            if old.exists() and not target.exists():
                os.replace(old, target)
            remove(scratch)
            if old.exists():
                with register_draft(old):
                    remove(old)


def _check_written(scratch: Path, checker: Checker, packings: Mapping[str, Packing]) -> ConservationReport:
    """Return the check report of the store as written."""
    with use_own_threads(), xr.open_zarr(scratch, chunks={}, decode_coords="all", consolidated=False) as store:
        return require_pass(checker(store), packings)


def set_report(scratch: Path, report: ConservationReport | None, packings: Mapping[str, Packing]) -> None:
    """Add a check report, if given, to the attributes of a store, and consolidate its metadata."""
    import zarr
    from zarr.errors import ZarrUserWarning

    group = zarr.open_group(scratch, mode="r+", use_consolidated=False)
    if report is not None:
        file_attrs, attrs_by_name = check_attributes(report, packings)
        group.attrs.update(file_attrs)
        for name, attrs in attrs_by_name.items():
            group[name].attrs.update(attrs)
    with warnings.catch_warnings():
        # Readers of format 3 without consolidated metadata ignore them.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(scratch, zarr_format=group.metadata.zarr_format)
