"""Threads: many that write at once, as many as Dask is told, and nothing that other threads of the process notice."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from command import command
from run_process import ROOT
from sample_fields import field_on, world

import downscale

WRITERS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np, xarray as xr, downscale
folder, lazy = sys.argv[1], sys.argv[2] == "lazy"
ds = xr.Dataset({'tas': (('time', 'lat','lon'), np.random.rand(4, 10,12)+280, {'units':'K'})},
                {'lat': np.arange(40,60,2.), 'lon': np.arange(0,24,2.)})
ds.to_netcdf(f"{folder}/in.nc")
def job(i):
    coarse = downscale.open_dataset(f"{folder}/in.nc", chunks={"time": 1}) if lazy else ds
    passed = downscale.to_netcdf(coarse.downscale(2), f"{folder}/{i}.nc", coarse=coarse).passed
    with downscale.open_dataset(f"{folder}/{i}.nc") as made:
        return passed and bool(np.isfinite(made.tas.mean().compute()))
with ThreadPoolExecutor(4) as pool:
    print(all(pool.map(job, range(8))))
"""


@pytest.mark.parametrize("how", ["in memory", "lazy"])
def test_a_pool_of_threads_writes_and_reads_at_once(tmp_path, how):
    line = [sys.executable, "-c", WRITERS, str(tmp_path), how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def written(kind: str, ds: xr.Dataset, folder: Path) -> None:
    """Write a fine field in one of the ways."""
    fine = ds.downscale(2)
    if kind == "zarr":
        pytest.importorskip("zarr")
        downscale.to_zarr(fine, folder / "a.zarr", coarse=ds, overwrite=True)
    elif kind == "library":
        encoding = {"tas": {"fletcher32": True, "chunksizes": tuple(fine.tas.shape)}}
        downscale.to_netcdf(fine, folder / "a.nc", coarse=ds, overwrite=True, encoding=encoding)
    else:
        downscale.to_netcdf(fine, folder / "a.nc", coarse=ds, overwrite=True)


WAYS = ["chunks", "library", "zarr"]


@pytest.mark.parametrize("kind", WAYS)
def test_the_configuration_of_dask_is_never_touched(tmp_path, monkeypatch, kind):
    ds = field_on(world(), 4).chunk(time=1)
    seen = []
    monkeypatch.setattr(dask.config, "set", lambda *a, **k: seen.append((a, k)))
    written(kind, ds, tmp_path)
    # What zarr and xarray set for themselves is theirs.
    assert not [one for one in seen if {"pool", "scheduler", "num_workers"} & {*one[1], *(one[0][0] if one[0] else ())}]


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("how", ["num_workers", "pool", "synchronous"])
def test_as_many_threads_compute_as_dask_is_told(tmp_path, kind, how):
    ds, seen = field_on(world(), 6), set[int]()

    def noted(block: Any) -> Any:
        if block.size:
            seen.add(threading.get_ident())
        return block

    field = ds.tas.chunk(time=1)
    lazy = ds.assign(tas=field.copy(data=field.data.map_blocks(noted, dtype=field.dtype)))
    with ThreadPoolExecutor(1) as pool:
        settings = {"num_workers": {"num_workers": 1}, "pool": {"pool": pool}, "synchronous": {"scheduler": how}}[how]
        with dask.config.set(**settings):
            written(kind, lazy, tmp_path)
        if how == "pool":
            assert seen == {pool.submit(threading.get_ident).result()}
    if how == "synchronous":
        assert seen == {threading.get_ident()}
    assert seen
    # Threads of one pool after another: each computation has one.
    assert len(seen) <= 3


def test_a_command_leaves_no_trace_in_its_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    field_on(world(), 2).to_netcdf("in.nc")
    before = copy.deepcopy(dask.config.config), dict(os.environ), gc.get_threshold(), sys.unraisablehook
    assert command("apply", "in.nc", "out.nc", "--factor", 2).status == 0
    assert (dask.config.config, dict(os.environ), gc.get_threshold(), sys.unraisablehook) == before
    assert np.isfinite(xr.open_dataset("out.nc").tas).all()
