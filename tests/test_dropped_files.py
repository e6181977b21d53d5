"""Lazy files that are dropped: closed under the lock of the libraries, without waiting, and none is left open."""

from __future__ import annotations

import copy
import gc
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from run_process import ROOT
from xarray.backends.locks import HDF5_LOCK, NETCDFC_LOCK

import downscale
from downscale.io.library import LIBRARY, LazyFile, library, open_file

HANDLES = Path("/proc/self/fd")
counted = pytest.mark.skipif(not HANDLES.exists(), reason="open files are counted under /proc")

# As xarray does, attributes are read without a lock by the thread that opens, while another one drops files.
BESIDE = """
import sys, threading, time
import netCDF4
from downscale.io.library import library, open_file
kept, other, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
bundles, free, over = [], threading.Event(), threading.Event()
def drop():
    while not over.is_set():
        if bundles:
            bundle = bundles.pop()
            while bundle:
                bundle.pop()
            free.set()
worker = threading.Thread(target=drop)
worker.start()
end = time.monotonic() + seconds
while time.monotonic() < end:
    files = [open_file(other, decode_cf=False) for _ in range(6)]
    with library():
        file = netCDF4.Dataset(kept)
    free.clear()
    bundles.append(files)
    del files
    for variable in file.variables.values():
        [variable.getncattr(name) for name in variable.ncattrs()], variable.filters(), variable.chunking()
    free.wait()
    with library():
        file.close()
over.set()
worker.join()
print("whole")
"""


def written(path: Path, fields: int = 1) -> Path:
    attrs = {f"a{i}": "x" * i for i in range(12)} if fields > 1 else {}
    xr.Dataset({f"v{i}": ("time", np.arange(8.0), attrs) for i in range(fields)}).to_netcdf(path)
    return path


def copies(folder: Path, number: int) -> list[Path]:
    """Files of their own: HDF5 opens one file once only."""
    first = written(folder / "0.nc")
    return [first, *(Path(shutil.copy(first, folder / f"{i}.nc")) for i in range(1, number))]


def handles(folder: Path) -> int:
    """How many files of a folder this process has open."""
    found = 0
    for handle in HANDLES.iterdir():
        try:
            found += handle.readlink().parent == folder
        except OSError:
            continue  # the handle of the listing itself
    return found


def in_a_thread(call: Callable[[], Any]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.slow
def test_a_file_that_another_thread_drops_never_crashes_the_one_that_opens(tmp_path):
    kept, other = written(tmp_path / "kept.nc", 30), written(tmp_path / "other.nc", 30)
    line = [sys.executable, "-X", "faulthandler", "-c", BESIDE, str(kept), str(other), "10"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "whole\n", "")


@counted
@pytest.mark.parametrize("door", [open_file, downscale.open_dataset])
@pytest.mark.parametrize("cycle", [False, True])
def test_dropped_files_are_closed_at_once(tmp_path, door, cycle):
    for path in copies(tmp_path, 300 if door is open_file else 20):
        ds = door(path)
        if cycle:
            ring: list[Any] = [ds]
            ring.append(ring)
            del ring
    del ds
    gc.collect()
    assert handles(tmp_path) == 0
    assert not LIBRARY.dropped_files


@counted
def test_dropping_never_waits_and_whoever_lets_go_closes(tmp_path):
    held = [open_file(path) for path in copies(tmp_path, 50)]
    taken, go = threading.Event(), threading.Event()

    def hold() -> None:
        with library():
            taken.set()
            go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait(60)
    held.clear()
    gc.collect()
    assert handles(tmp_path) == 50
    go.set()
    thread.join()
    assert handles(tmp_path) == 0


@counted
@pytest.mark.parametrize("use", ["lock", "open"])
def test_a_file_that_another_thread_drops_waits_for_the_next_use_of_the_library(tmp_path, use):
    other = written(tmp_path / "other.nc")
    held = [open_file(path) for path in copies(tmp_path, 5)]
    in_a_thread(held.clear)
    gc.collect()
    assert handles(tmp_path) == 5
    if use == "lock":
        with library():
            pass
    else:
        open_file(other).close()
    assert handles(tmp_path) == 0


@counted
def test_what_is_dropped_under_the_lock_is_closed_with_its_end(tmp_path):
    path = written(tmp_path / "a.nc")
    with library():
        open_file(path)
        gc.collect()
        assert handles(tmp_path) == 1
    assert handles(tmp_path) == 0


@counted
def test_a_file_that_a_copy_shares_stays_open(tmp_path):
    path = written(tmp_path / "a.nc")
    one = LazyFile(netCDF4.Dataset, str(path), mode="r", lock=LIBRARY)
    one.acquire()
    two = copy.copy(one)
    del one
    gc.collect()
    assert handles(tmp_path) == 1
    assert two.acquire().isopen()
    del two
    gc.collect()
    assert handles(tmp_path) == 0


@pytest.mark.parametrize("held", [HDF5_LOCK, NETCDFC_LOCK])
def test_a_lock_that_is_not_to_be_had_takes_none(held):
    # Of xarray's own lock, its parts are asked for (a private interface).
    with held:
        assert not LIBRARY.acquire(blocking=False)
    assert not HDF5_LOCK.locked()
    assert not NETCDFC_LOCK.locked()
    with library():
        assert HDF5_LOCK.locked()
        assert NETCDFC_LOCK.locked()


@pytest.mark.parametrize("how", [{}, {"decode_cf": False}, {"chunks": {}}, {"decode_times": False}, {"group": "g"}])
def test_files_are_read_as_by_xarray(tmp_path, how):
    path = tmp_path / "a.nc"
    values = np.array([[1, -9], [3, 4]], dtype="i2")
    ds = xr.Dataset({"a": (("time", "x"), values, {"_FillValue": np.int16(-9), "scale_factor": 0.5})})
    ds = ds.assign_coords(time=("time", [0, 1], {"units": "days since 2000-01-01"}))
    ds.to_netcdf(path)
    ds.to_netcdf(path, mode="a", group="g")
    with open_file(path, **how) as ours, xr.open_dataset(path, engine="netcdf4", **how) as theirs:
        xr.testing.assert_identical(ours, theirs)
        assert ours.encoding == theirs.encoding
        for name in theirs.variables:
            assert str(ours[name].encoding) == str(theirs[name].encoding)
            assert ours[name].chunks == theirs[name].chunks


def test_an_option_that_nobody_knows_is_an_error_and_leaves_nothing_open(tmp_path):
    path = written(tmp_path / "a.nc")
    with pytest.raises(TypeError, match="no_such"):
        open_file(path, no_such=1)
    if HANDLES.exists():
        gc.collect()
        assert handles(tmp_path) == 0


def test_a_program_ends_in_silence_with_files_open_and_put_aside(tmp_path):
    path = written(tmp_path / "a.nc")
    code = (
        "import sys, threading; from downscale.io.library import open_file\n"
        "kept, held = open_file(sys.argv[1]), [open_file(sys.argv[1])]\n"
        "t = threading.Thread(target=held.clear); t.start(); t.join()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
