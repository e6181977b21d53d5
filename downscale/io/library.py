"""One lock round every call of the NetCDF and HDF5 libraries, which are not thread-safe (xarray; computes nothing).

The lock is xarray's own, so that fields which others opened are read under it too, but a thread may enter it again.
Nothing may be computed by Dask while it is held: the tasks, in other threads, would wait for it.

xarray itself reads what a file says of its variables without any lock. A file that is dropped without being closed is
therefore closed at once only in the thread that opened it, which cannot be in the middle of that.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import netCDF4
import xarray as xr
from xarray.backends import BackendEntrypoint, CachingFileManager, NetCDF4DataStore, StoreBackendEntrypoint
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from downscale.process.interrupts import shielded


class Library:
    """A re-entrant lock over xarray's locks of the libraries.

    A signal that comes while the main thread holds it, or waits for it, is heard when it is let go of: an exception in
    between would leave the locks held for ever.
    """

    def __init__(self) -> None:
        self._own = threading.local()
        self.dropped: deque[LazyFile] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock, again if this thread has it; return whether it was to be had."""
        depth = getattr(self._own, "depth", 0)
        if depth == 0 and not (NETCDF4_PYTHON_LOCK.acquire() if blocking else _taken_at_once()):
            return False
        self._own.depth = depth + 1
        return True

    def release(self) -> None:
        """Let go of the lock as often as it was taken; the last time, close the files that were put aside."""
        try:
            if self._own.depth == 1 and self.dropped:
                with shielded():
                    self._close_dropped()
        finally:
            self._own.depth -= 1
            if self._own.depth == 0:
                NETCDF4_PYTHON_LOCK.release()

    def put_aside(self, file: LazyFile) -> None:
        """Have a file closed by whoever lets go of the lock next; never waits."""
        self.dropped.append(file)

    def _close_dropped(self) -> None:
        while self.dropped:
            # They were only read: nothing is lost where one cannot be closed.
            with suppress(OSError, RuntimeError):
                self.dropped.popleft().end()

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


def _taken_at_once() -> bool:
    """Take xarray's locks if nobody holds one of them; early versions of xarray then keep those that they got."""
    taken: list[Any] = []
    for lock in NETCDF4_PYTHON_LOCK.locks:  # type: ignore[attr-defined]
        if not lock.acquire(False):
            for one in reversed(taken):
                one.release()
            return False
        taken.append(lock)
    return True


class LazyFile(CachingFileManager[Any]):
    """A file that is read later, and closed under the lock of the libraries when nothing refers to it any more."""

    def __init__(self, *how: Any, **more: Any) -> None:
        self._opened_in = threading.get_ident()
        super().__init__(*how, **more)

    def __del__(self) -> None:
        # This may run anywhere, in a thread that holds any lock: nothing here may wait.
        LIBRARY.put_aside(self)
        if threading.get_ident() == self._opened_in and LIBRARY.acquire(blocking=False):
            LIBRARY.release()

    def end(self) -> None:
        """Close the file unless another of these shares it; the lock is held."""
        super().__del__()


@atexit.register
def _leave_open() -> None:
    """Leave files open at the end of the program, as xarray does, whose modules go away."""
    del LazyFile.__del__
    LIBRARY.dropped.clear()


class LazyReader(BackendEntrypoint):
    """What xarray's own engine "netcdf4" does to read a file, with files that are closed under the lock."""

    open_dataset_parameters = (
        "filename_or_obj", "drop_variables", "mask_and_scale", "decode_times", "concat_characters", "decode_coords",
        "use_cftime", "decode_timedelta",
    )  # fmt: skip
    of_library = ("mode", "format", "clobber", "diskless", "persist", "auto_complex")

    def open_dataset(  # type: ignore[override]
        self, filename_or_obj: Any, *, group: str | None = None, autoclose: bool = False, **decoders: Any
    ) -> xr.Dataset:
        """Return a Dataset of the file or of one of its groups."""
        how = {key: decoders.pop(key) for key in self.of_library if key in decoders}
        mode, path = how.pop("mode", "r"), os.fspath(filename_or_obj)
        name = path if "://" in path else os.path.abspath(os.path.expanduser(path))
        file = LazyFile(netCDF4.Dataset, name, mode=mode, kwargs=how, lock=LIBRARY)
        store = NetCDF4DataStore(file, group=group, mode=mode, lock=LIBRARY, autoclose=autoclose)
        try:
            with file.acquire_context():
                return StoreBackendEntrypoint().open_dataset(store, **decoders)
        except BaseException:
            store.close()
            raise


@contextmanager
def library() -> Iterator[None]:
    """Hold the lock of the libraries; a signal waits until it is let go of."""
    with shielded(), LIBRARY.held():
        yield


def opened(path: str | Path, **settings: Any) -> xr.Dataset:
    """Return a Dataset of an open NetCDF file, whatever is read from it later being read under the lock."""
    with library():
        return xr.open_dataset(path, **{**settings, "engine": LazyReader})


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
