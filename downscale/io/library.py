"""One lock round every call of the NetCDF and HDF5 libraries, which know no threads (xarray; computes nothing).

The lock is xarray's own, so that fields which others opened are read under it too, but a thread may enter it again.
Nothing may be computed by Dask while it is held: the tasks, in other threads, would wait for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr
from xarray.backends import NetCDF4DataStore
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from downscale.process.interrupts import shielded


class Library:
    """A re-entrant lock over xarray's locks of the libraries.

    A signal that comes while the main thread holds it, or waits for it, is heard when it is let go of: an exception in
    between would leave the locks held for ever.
    """

    def __init__(self) -> None:
        self._own = threading.local()

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock, again if this thread has it; return whether it was to be had."""
        depth = getattr(self._own, "depth", 0)
        if depth == 0 and not NETCDF4_PYTHON_LOCK.acquire(blocking):
            return False
        self._own.depth = depth + 1
        return True

    def release(self) -> None:
        """Let go of the lock as often as it was taken."""
        self._own.depth -= 1
        if self._own.depth == 0:
            NETCDF4_PYTHON_LOCK.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock within this block, after which it is as it was before."""
        before = getattr(self._own, "depth", 0)
        try:
            self.acquire()
            yield
        finally:
            # What a Ctrl-C of a notebook leaves held, raised at the first line of a release, is let go of here.
            while self._own.depth > before:
                self.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        # In another process it is the lock of that process.
        return "LIBRARY"


LIBRARY = Library()


@contextmanager
def library() -> Iterator[None]:
    """Hold the lock of the libraries; a signal waits until it is let go of."""
    with shielded(), LIBRARY.held():
        yield


def opened(path: str | Path, **settings: Any) -> xr.Dataset:
    """Return a Dataset of an open NetCDF file, whatever is read from it later being read under the lock."""
    with library():
        return xr.open_dataset(path, **{"engine": "netcdf4", "lock": LIBRARY, **settings})


@contextmanager
def reading(path: str | Path, **settings: Any) -> Iterator[xr.Dataset]:
    """Give a Dataset of a NetCDF file, which is closed again in the end."""
    ds = opened(path, **settings)
    try:
        yield ds
    finally:
        with library():
            ds.close()


@contextmanager
def plain_file(path: str | Path, mode: Any = "r", **how: Any) -> Iterator[netCDF4.Dataset]:
    """Give a file of the NetCDF library, under the lock for as long as it is open."""
    with library(), netCDF4.Dataset(path, mode, **how) as file:
        yield file


@contextmanager
def new_file(path: str | Path, kind: str = "NETCDF4") -> Iterator[NetCDF4DataStore]:
    """Give a NetCDF file that is made anew, of a format such as "NETCDF4_CLASSIC"."""
    with library():
        store = NetCDF4DataStore.open(path, mode="w", format=kind, lock=LIBRARY)
    try:
        yield store
    finally:
        with library():
            store.close()


def to_file(ds: xr.Dataset, path: str | Path, encodings: dict[str, Any] | None = None) -> None:
    """Write a Dataset that is in memory to a NetCDF-4 file."""
    with new_file(path) as store, library():
        ds.dump_to_store(store, encoding=dict(encodings or {}))
