"""Writers of NetCDF files and Zarr stores that check conservation as written."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import xarray as xr

from downscale.check.conservation import check_conservation
from downscale.conservation.report import ConservationReport
from downscale.io.paths import sources_of
from downscale.io.write import Storage, write_checked
from downscale.process.computing import progress_bar

Encoding = Mapping[str, Mapping[str, Any]]
T = TypeVar("T")


def _with_arguments_of(reference: Callable[..., T], **more: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return a decorator that gives a function the signature of another, and all of these arguments in a call.

    ``more`` are further keywords with their defaults.
    """
    signature = inspect.signature(reference)
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in more.items()]
    signature = signature.replace(parameters=[*signature.parameters.values(), *added])

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def call(*arguments: Any, **keywords: Any) -> T:
            try:
                bound = signature.bind(*arguments, **keywords)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            bound.apply_defaults()
            return function(**bound.arguments)

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def to_netcdf(
    ds: xr.Dataset | xr.DataArray, path: str | Path, *, coarse: Any = None, overwrite: bool = False, complevel: int = 1,
    law: str = "cell", tolerance: float | None = None, bounds: Any = "auto", mask: Any = None, na_thres: float = 1.0,
    packing: Any = None, encoding: Encoding | None = None, profile: Any = None, attrs: Mapping[str, Any] | None = None,
    footprint: Any = None, quantity: Any = None, orderings: str | None = None,
) -> ConservationReport | None:  # fmt: skip
    """Write a fine field as CF-1.11 NetCDF and check conservation as written.

    The file appears under its name only after it is complete and flushed. With ``coarse``, it is also read back and
    must pass the conservation check; its attributes then hold the check report.

    Parameters
    ----------
    ds : Dataset or DataArray
        Field to write; lazy fields are computed block by block.
    path : str or Path
        Output file; its folder must exist.
    coarse : Dataset or DataArray, optional
        The coarse field whose cell means the file must conserve.
    overwrite : bool
        Replace an existing file (never an input).
    complevel : int
        Deflate level, 0 to 9.
    law, tolerance, bounds, mask, na_thres, footprint, quantity, orderings
        As in :func:`downscale.check_conservation`.
    packing : None, "int16", int, or mapping of name to these
        None (default) stores values in their own data type. "int16" packs the range of each field into short integers;
        zero stays zero. It computes lazy fields twice, first for their range. An integer rounds the mantissa to that
        number of bits (to nearest, ties to even), which makes files smaller without a second pass. Both change values:
        conservation is checked as stored. If it fails, no file is written and the error names the remedy.
    encoding : mapping of name to mapping, optional
        ``chunksizes``, ``complevel``, ``shuffle``, ``fletcher32`` or a floating-point ``dtype`` per variable.
    profile : None, "cordex-esd", or mapping
        Attributes, names and types that an archive requires (:mod:`downscale.io.attributes`). A mapping has the name of
        the profile under "name", and global attributes.
    attrs : mapping, optional
        Global attributes, which override all others; None drops one.

    Returns
    -------
    ConservationReport or None
        The check report of the file, if ``coarse`` was given.

    Raises
    ------
    OptionError, InputError
        If the request does not fit the result; raised before any computation.
    OutputError, ConservationError
        If writing or the conservation check fails; no file remains.
    """
    storage = Storage(complevel, packing, encoding, profile, attrs)
    return _write(
        write_checked, ds, path, coarse, overwrite, storage, law=law, tolerance=tolerance, bounds=bounds, mask=mask,
        na_thres=na_thres, footprint=footprint, quantity=quantity, orderings=orderings,
    )  # fmt: skip


@_with_arguments_of(to_netcdf, zarr_format=2)
def to_zarr(
    ds: xr.Dataset | xr.DataArray, path: str | Path, *, zarr_format: int, **options: Any
) -> ConservationReport | None:
    """Write a fine field as a Zarr store with CF attributes and check conservation as written.

    Needs the extra ``zarr``. ``zarr_format`` is 2, which every reader supports, or 3; metadata are consolidated. Open
    the store with ``xarray.open_zarr(path, decode_coords="all")``. The folder that holds the store must exist. Other
    arguments, result and errors are those of :func:`downscale.to_netcdf`; ``complevel`` is the level of Zstandard,
    ``chunksizes`` are the chunks.
    """
    from downscale.io.store import write_store

    storage = Storage(**{entry.name: options.pop(entry.name) for entry in fields(Storage)})
    return _write(functools.partial(write_store, zarr_format=zarr_format), ds, path, storage=storage, **options)


def _write(
    write: Callable[..., ConservationReport | None], ds: xr.Dataset | xr.DataArray, path: str | Path, coarse: Any,
    overwrite: bool, storage: Storage, **check_options: Any,
) -> ConservationReport | None:  # fmt: skip
    """Write with ``write`` and check conservation against ``coarse``, if given."""
    if isinstance(ds, xr.DataArray):
        ds = ds.to_dataset(name=ds.name or "field")
    checker = None if coarse is None else lambda fine: check_conservation(coarse, fine, **check_options)
    inputs = () if coarse is None else sources_of(coarse)
    return write(ds, path, checker, overwrite=overwrite, storage=storage, inputs=inputs, progress=progress_bar())
