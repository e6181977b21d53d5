"""Zarr stores keep the promise of files: whole, lawful as written and certified, or not there at all."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from result_grids import GRIDS
from sample_fields import field_on, rain_on, region, same_bits, world

import downscale
from downscale.errors import ConservationError, OutputError
from downscale.io import store
from downscale.io.encoding import REPORT_ATTR
from downscale.output import to_netcdf, to_zarr


@pytest.fixture(autouse=True)
def _zarr(request: pytest.FixtureRequest) -> None:
    if "missing" not in request.node.name:
        pytest.importorskip("zarr", reason="the extra zarr is not installed")


def reopened(path: Path) -> xr.Dataset:
    return xr.open_zarr(path, decode_coords="all", consolidated=True).load()


@pytest.mark.parametrize("grid", GRIDS)
def test_a_store_reads_as_the_file_does(tmp_path, grid):
    ds = GRIDS[grid]()
    to_zarr(ds, tmp_path / "a.zarr")
    to_netcdf(ds, tmp_path / "a.nc")
    one, other = reopened(tmp_path / "a.zarr"), downscale.open_dataset(tmp_path / "a.nc", chunks=None).load()
    assert set(one.coords) == set(other.coords)
    for name in other.variables:
        assert one[name].dims == other[name].dims
        assert one[name].attrs.keys() == other[name].attrs.keys()
        assert one[name].dtype == other[name].dtype
    xr.testing.assert_equal(one, other)
    assert one.attrs.keys() == other.attrs.keys()


@pytest.mark.parametrize("chunks", [None, {"time": 1}, {"time": 2, "lat": 5, "lon": 7}])
def test_values_are_kept_however_they_are_cut(tmp_path, chunks):
    coarse = rain_on(world(), times=5, dtype="float32", missing=0.1)
    fine = coarse.downscale(2) if chunks is None else coarse.downscale(2).chunk(chunks)
    report = to_zarr(fine, tmp_path / "a.zarr", coarse=coarse, encoding={"pr": {"chunksizes": (2, 9, 32)}})
    back = reopened(tmp_path / "a.zarr")
    assert same_bits(back.pr, fine.pr)
    assert back.pr.encoding["chunks"] == (2, 9, 32)
    found = json.loads(back.attrs[REPORT_ATTR])
    assert found["passed"] is True
    assert found["variables"]["pr"]["max_relative_error"] == report["pr"].max_relative_error
    assert "cell conservation passed as written" in back.pr.attrs["conservation"]
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_a_law_is_checked_as_stored(tmp_path):
    coarse = field_on(world(), dtype="float32")
    with pytest.raises(ConservationError, match=r"tas: expected the cell law within 1e-06 as packed \(short integers"):
        to_zarr(coarse.downscale(2), tmp_path / "a.zarr", coarse=coarse, packing="int16")
    assert os.listdir(tmp_path) == []
    to_zarr(coarse.downscale(2), tmp_path / "a.zarr", coarse=coarse, packing="int16", tolerance=1e-3)
    assert reopened(tmp_path / "a.zarr").tas.encoding["dtype"] == np.int16


def test_a_broken_law_leaves_the_old_store(tmp_path):
    coarse = field_on(world())
    fine = coarse.downscale(2)
    to_zarr(fine, tmp_path / "a.zarr", coarse=coarse)
    before = reopened(tmp_path / "a.zarr")
    wrong = fine.copy(deep=True)
    wrong.tas[0, 3, 5] *= 1 + 1e-4
    with pytest.raises(ConservationError, match="expected the cell law within 1e-12"):
        to_zarr(wrong, tmp_path / "a.zarr", coarse=coarse, overwrite=True)
    assert os.listdir(tmp_path) == ["a.zarr"]
    xr.testing.assert_identical(reopened(tmp_path / "a.zarr"), before)
    to_zarr(2 * fine, tmp_path / "a.zarr", overwrite=True)
    assert os.listdir(tmp_path) == ["a.zarr"]
    np.testing.assert_array_equal(reopened(tmp_path / "a.zarr").tas, 2 * fine.tas)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing(tmp_path, error):
    def boom(block: np.ndarray) -> np.ndarray:
        raise error("in a block")

    ds = field_on(region()).chunk(time=1)
    broken = ds.assign(tas=ds.tas.copy(data=ds.tas.data.map_blocks(boom, meta=np.empty(0))))
    with pytest.raises(error, match="in a block"):
        to_zarr(broken, tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == []


def test_a_rename_that_fails_brings_the_old_store_back(tmp_path, monkeypatch):
    ds = field_on(region())
    to_zarr(ds, tmp_path / "a.zarr")
    honest = os.replace

    def failing(source: Any, target: Any) -> None:
        if Path(source).suffix == ".part" and Path(target).suffix == ".zarr" and not failing.failed:
            failing.failed = True
            raise OSError(5, "Input/output error")
        honest(source, target)

    failing.failed = False
    monkeypatch.setattr(store.os, "replace", failing)
    with pytest.raises(OutputError, match=r"expected to write .*a\.zarr, received: Input/output error"):
        to_zarr(2 * ds, tmp_path / "a.zarr", overwrite=True)
    assert os.listdir(tmp_path) == ["a.zarr"]
    np.testing.assert_array_equal(reopened(tmp_path / "a.zarr").tas, ds.tas)


def test_where_a_store_may_lie(tmp_path):
    ds = field_on(region())
    to_zarr(ds, tmp_path / "a.zarr")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    for path, options, match in (
        (tmp_path / "no" / "a.zarr", {}, "expected an existing folder for the output, received .*no; create it first"),
        (tmp_path / "a.zarr", {}, "expected a new file, received .*a.zarr that exists; pass --overwrite"),
        (tmp_path / "folder", {"overwrite": True}, "expected a Zarr store to replace, received .*folder that is none"),
        (tmp_path / "a.nc", {}, "expected the name of a Zarr store such as fine.zarr, received .*a.nc; use to_netcdf"),
    ):
        with pytest.raises(OutputError, match=match):
            to_zarr(ds, path, **options)
    assert (tmp_path / "folder" / "thesis.txt").exists()
    with pytest.raises(OutputError, match=r"expected the name of a NetCDF file, received .*b\.zarr; use to_zarr"):
        to_netcdf(ds, tmp_path / "b.zarr")
    opened = xr.open_zarr(tmp_path / "a.zarr", decode_coords="all")
    with pytest.raises(OutputError, match="expected an output other than the input"):
        to_zarr(opened, tmp_path / "a.zarr", overwrite=True)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    line = r'expected the package zarr to write .*a\.zarr, received none; pip install "downscale-climate\[zarr\]"'
    with pytest.raises(OutputError, match=line):
        to_zarr(field_on(region()), tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == []
