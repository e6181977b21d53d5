"""Results to files and stores: checked as written, certified, or not there at all (knows no recipe, no plan)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.check.conservation import check_conservation
from downscale.conservation.report import ConservationReport
from downscale.io.read import sources_of
from downscale.io.write import Storage, write_checked
from downscale.process.progress import progress_bar

Encoding = Mapping[str, Mapping[str, Any]]


def to_netcdf(
    ds: xr.Dataset | xr.DataArray, path: str | Path, *, coarse: Any = None, overwrite: bool = False, complevel: int = 1,
    law: str = "cell", tolerance: float | None = None, bounds: Any = "auto", mask: Any = None, na_thres: float = 1.0,
    packing: Any = None, encoding: Encoding | None = None, profile: Any = None, attrs: Mapping[str, Any] | None = None,
    footprint: Any = None, quantity: Any = None,
) -> ConservationReport | None:  # fmt: skip
    """Write a fine field as CF-1.11 NetCDF, checked as written and certified.

    The file appears under its name only when it is complete, flushed and, where ``coarse`` is given, found to keep the
    law when read back; then it carries a certificate in its attributes.

    Parameters
    ----------
    ds : Dataset or DataArray
        What to write; lazy fields are computed block by block.
    path : str or Path
        The file; its folder must exist.
    coarse : Dataset or DataArray, optional
        The coarse field whose budgets the file must keep.
    overwrite : bool
        Replace an existing file (never one of the inputs).
    complevel : int
        Deflate level, 0 to 9.
    law, tolerance, bounds, mask, na_thres, footprint, quantity
        As in :func:`downscale.check_conservation`.
    packing : None, "int16", int, or mapping of name to these
        None (default) stores values in their own data type. "int16" packs the range of each field into short integers;
        zero stays zero. It computes lazy fields twice, first for their range. A whole number rounds to so many bits of
        the mantissa (to nearest, ties to even), which makes files smaller without a second pass. Both change values:
        the law is checked as stored, and where it is broken there is no file but a line with the remedy.
    encoding : mapping of name to mapping, optional
        ``chunksizes``, ``complevel``, ``shuffle``, ``fletcher32`` or a floating-point ``dtype`` of single variables.
    profile : None, "cordex-esd", or mapping
        Attributes, names and types that an archive asks for (:mod:`downscale.io.profiles`); a mapping has the name of
        the profile under "name", and global attributes.
    attrs : mapping, optional
        Global attributes, laid over all others; None drops one.

    Returns
    -------
    ConservationReport or None
        What was found in the file, if ``coarse`` was given.

    Raises
    ------
    OptionError, InputError
        If the request does not fit the result; before anything is computed.
    OutputError, ConservationError
        Nothing is left behind then.
    """
    storage = Storage(complevel, packing, encoding, profile, attrs)
    judging = {"law": law, "tolerance": tolerance, "bounds": bounds, "mask": mask, "na_thres": na_thres,
               "footprint": footprint, "quantity": quantity}  # fmt: skip
    return _written(write_checked, ds, path, coarse, overwrite, storage, judging)


def to_zarr(
    ds: xr.Dataset | xr.DataArray, path: str | Path, *, coarse: Any = None, overwrite: bool = False, complevel: int = 1,
    law: str = "cell", tolerance: float | None = None, bounds: Any = "auto", mask: Any = None, na_thres: float = 1.0,
    packing: Any = None, encoding: Encoding | None = None, profile: Any = None, attrs: Mapping[str, Any] | None = None,
    footprint: Any = None, quantity: Any = None,
) -> ConservationReport | None:  # fmt: skip
    """Write a fine field as a Zarr store with CF attributes, checked as written and certified.

    Needs the extra ``zarr``. Format 2 with consolidated metadata; open it with
    ``xarray.open_zarr(path, decode_coords="all")``.

    Parameters
    ----------
    ds, coarse, overwrite, complevel, law, tolerance, bounds, mask, na_thres, packing, encoding, profile, attrs,
    footprint, quantity
        As in :func:`downscale.to_netcdf`; a level is that of Zstandard, ``chunksizes`` are the chunks.
    path : str or Path
        The folder of the store; the folder above must exist.

    Returns
    -------
    ConservationReport or None
        What was found in the store, if ``coarse`` was given.

    Raises
    ------
    OptionError, InputError
        If the request does not fit the result; before anything is computed.
    OutputError, ConservationError
        Nothing is left behind then.
    """
    from downscale.io.store import write_store

    storage = Storage(complevel, packing, encoding, profile, attrs)
    judging = {"law": law, "tolerance": tolerance, "bounds": bounds, "mask": mask, "na_thres": na_thres,
               "footprint": footprint, "quantity": quantity}  # fmt: skip
    return _written(write_store, ds, path, coarse, overwrite, storage, judging)


def _written(
    write: Callable[..., ConservationReport | None], ds: xr.Dataset | xr.DataArray, path: str | Path, coarse: Any,
    overwrite: bool, storage: Storage, judging: dict[str, Any],
) -> ConservationReport | None:  # fmt: skip
    """Write by ``write`` what is to be judged against ``coarse``, if there is one."""
    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name or "field")
    checker = None if coarse is None else lambda made: check_conservation(coarse, made, **judging)
    inputs = () if coarse is None else sources_of(coarse)
    return write(ds, path, checker, overwrite=overwrite, storage=storage, inputs=inputs, progress=progress_bar())
