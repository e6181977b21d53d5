"""A re-entrant lock around all calls of the NetCDF and HDF5 libraries, which are not thread-safe.

The lock includes xarray's own locks, so that files opened by others are read under it too; unlike these, a thread may
enter it again. Dask must not compute while it is held: the tasks, in other threads, would wait for it. xarray itself
reads the metadata of variables without a lock. A file that is dropped without being closed is therefore closed at once
only in the thread that opened it, which cannot be in the middle of such a read.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import netCDF4
import xarray as xr
from xarray.backends import BackendEntrypoint, CachingFileManager, NetCDF4DataStore, StoreBackendEntrypoint
from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

from downscale.process.interrupts import defer_signals

if TYPE_CHECKING:
    import h5py


class Library:
    """A re-entrant lock over xarray's locks of the libraries.

    A signal is deferred until the release: an exception in between would leave the locks held forever.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self.dropped_files: deque[LazyFile] = deque()

    def acquire(self, blocking: bool = True) -> bool:
        """Acquire the lock, again if this thread holds it; return whether it was acquired."""
        depth = getattr(self._local, "depth", 0)
        if depth == 0 and blocking:
            NETCDF4_PYTHON_LOCK.acquire()
        elif depth == 0:
            # Early versions of xarray keep a part of the locks if another is held.
            acquired_locks: list[Any] = []
            for lock in NETCDF4_PYTHON_LOCK.locks:  # type: ignore[attr-defined]
                if not lock.acquire(False):
                    for acquired_lock in reversed(acquired_locks):
                        acquired_lock.release()
                    return False
                acquired_locks.append(lock)
        self._local.depth = depth + 1
        return True

    def release(self) -> None:
        """Release the lock once; the last release closes the files that were put aside."""
        try:
            if self._local.depth == 1 and self.dropped_files:
                with defer_signals():
                    while self.dropped_files:
                        # Files opened for reading: no data are lost if one cannot be closed.
                        with suppress(OSError, RuntimeError):
                            self.dropped_files.popleft().end()
        finally:
            self._local.depth -= 1
            if self._local.depth == 0:
                NETCDF4_PYTHON_LOCK.release()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock within this block, and restore its state afterwards."""
        before = getattr(self._local, "depth", 0)
        try:
            self.acquire()
            yield
        finally:
            # Release locks that a Ctrl-C of a notebook left held, raised at the first line of a release.
            while self._local.depth > before:
                self.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def __reduce__(self) -> str:
        # In another process, return the lock of that process.
        return "LIBRARY"


LIBRARY = Library()


class LazyFile(CachingFileManager[Any]):
    """A lazily read file, closed under the lock of the libraries once nothing refers to it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._opened_in = threading.get_ident()
        super().__init__(*args, **kwargs)

    def __del__(self) -> None:
        # The garbage collector may call this in a thread that holds any lock: it must not wait.
        LIBRARY.dropped_files.append(self)
        if threading.get_ident() == self._opened_in and LIBRARY.acquire(blocking=False):
            LIBRARY.release()

    def end(self) -> None:
        """Close the file unless another of these shares it; the lock must be held."""
        super().__del__()


@atexit.register
def _keep_files_open() -> None:
    """Leave files open at the end of the program, like xarray, since modules are being unloaded."""
    del LazyFile.__del__
    LIBRARY.dropped_files.clear()


class LazyReader(BackendEntrypoint):
    """Like xarray's engine "netcdf4" for reading, with files that are closed under the lock."""

    open_dataset_parameters = (
        "filename_or_obj", "drop_variables", "mask_and_scale", "decode_times", "concat_characters", "decode_coords",
        "use_cftime", "decode_timedelta",
    )  # fmt: skip
    of_library = ("mode", "format", "clobber", "diskless", "persist", "auto_complex")

    def open_dataset(  # type: ignore[override]
        self, filename_or_obj: Any, *, group: str | None = None, autoclose: bool = False, **decoders: Any
    ) -> xr.Dataset:
        """Return a Dataset of the file or of one of its groups."""
        options = {key: decoders.pop(key) for key in self.of_library if key in decoders}
        mode, path = options.pop("mode", "r"), os.fspath(filename_or_obj)
        name = path if "://" in path else os.path.abspath(os.path.expanduser(path))
        file = LazyFile(netCDF4.Dataset, name, mode=mode, kwargs=options, lock=LIBRARY)
        store = NetCDF4DataStore(file, group=group, mode=mode, lock=LIBRARY, autoclose=autoclose)
        try:
            with file.acquire_context():
                return StoreBackendEntrypoint().open_dataset(store, **decoders)
        except BaseException:
            store.close()
            raise


@contextmanager
def library() -> Iterator[None]:
    """Hold the lock of the libraries; signals are deferred until its release."""
    with defer_signals(), LIBRARY.hold():
        yield


def open_file(path: str | Path, **settings: Any) -> xr.Dataset:
    """Return a Dataset of an open NetCDF file; later reads from it hold the lock."""
    with library():
        return xr.open_dataset(path, **{**settings, "engine": LazyReader})


@contextmanager
def reading(path: str | Path, **settings: Any) -> Iterator[xr.Dataset]:
    """Yield a Dataset of a NetCDF file, which is closed at the end."""
    ds = open_file(path, **settings)
    try:
        yield ds
    finally:
        with library():
            ds.close()


@contextmanager
def writing_errors() -> Iterator[None]:
    """Convert errors of the libraries on writing to errors of the operating system."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # On closing, HDF5 gives the number of the operating system only as text. NetCDF's own numbers are negative.
        match = re.search(r"errno = (\d+)", str(error))
        number = int(match[1]) if match else getattr(error, "errno", None) or 0
        raise (OSError(number, os.strerror(number)) if number > 0 else OSError(str(error).splitlines()[0])) from error


@contextmanager
def plain_file(path: str | Path, mode: Any = "r", **options: Any) -> Iterator[netCDF4.Dataset]:
    """Yield a file of the NetCDF library, under the lock while it is open."""
    errors = nullcontext() if mode == "r" else writing_errors()
    with errors, library(), netCDF4.Dataset(path, mode, **options) as file:
        yield file


@contextmanager
def hdf5_file(path: str | Path, mode: Any = "r") -> Iterator[h5py.File]:
    """Yield a file of the HDF5 library, under the lock while it is opened and closed."""
    import h5py

    with library(), writing_errors():
        file = h5py.File(path, mode, locking="best-effort")
    try:
        yield file
    finally:
        with library(), writing_errors():
            file.close()


@contextmanager
def new_file(path: str | Path, kind: str = "NETCDF4") -> Iterator[NetCDF4DataStore]:
    """Yield a new NetCDF file, of a format such as "NETCDF4_CLASSIC"."""
    with library(), writing_errors():
        store = NetCDF4DataStore.open(path, mode="w", format=kind, lock=LIBRARY)
    try:
        yield store
    finally:
        with library(), writing_errors():
            store.close()


def dump(ds: xr.Dataset, store: NetCDF4DataStore, encodings: Mapping[str, Mapping[str, Any]], **options: Any) -> None:
    """Write a Dataset in memory to an open file; lazy variables are left to the writer among the options."""
    with library(), writing_errors():
        ds.dump_to_store(store, encoding={name: dict(encoding) for name, encoding in encodings.items()}, **options)


def to_file(ds: xr.Dataset, path: str | Path, encodings: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Write a Dataset in memory to a NetCDF-4 file."""
    with new_file(path) as store:
        dump(ds, store, encodings or {})
