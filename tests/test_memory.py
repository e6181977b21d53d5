"""Memory of large maps: areas in bands, the limit, and what the plan counts."""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import psutil
import pytest
import xarray as xr
from sample_fields import field_on, plane, region, relief_on, world

import downscale
from downscale.cf import coordinates
from downscale.engine.memory import READING_BYTES, SMOOTHING_COPIES, STATIC_COPIES, ExtraMemory
from downscale.errors import OptionError
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.request import Request
from downscale.steps import jobs
from downscale.steps.jobs import fit_chunks
from downscale.steps.prepare import plan_maps
from downscale.steps.terrain import terrain_term


@pytest.mark.parametrize("grid", [world(7, 9), region(8, 10), plane(6, 11)], ids=["world", "region", "plane"])
def test_areas_of_some_cells_are_those_of_all(grid: Any) -> None:
    rows, columns = np.array([0, 3, 4, -1]), np.array([2, 5])
    np.testing.assert_array_equal(grid.areas(rows, columns), grid.cell_area[np.ix_(rows, columns)])


@pytest.mark.parametrize("cells", [7, 40, 10**9])
@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_areas_of_a_large_grid_are_written_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int, suffix: str
) -> None:
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    ds = field_on(region(30, 20), 2)
    whole = ds.downscale(2)
    assert not isinstance(whole.areacella.data, da.Array)
    monkeypatch.setattr(coordinates, "EAGER_AREAS", 100)
    monkeypatch.setattr(coordinates, "BAND_CELLS", cells)
    fine = ds.downscale(2)
    assert isinstance(fine.areacella.data, da.Array)
    xr.testing.assert_equal(fine.compute(), whole)
    path = tmp_path / f"fine{suffix}"
    write = downscale.to_netcdf if suffix == ".nc" else downscale.to_zarr
    report = write(fine, path, coarse=ds)
    assert report is not None
    assert report.passed
    with xr.open_dataset(path, decode_coords="all", engine=None if suffix == ".nc" else "zarr") as read:
        np.testing.assert_array_equal(read.areacella, whole.areacella)
        assert read.tas.attrs.get("cell_measures", read.tas.encoding.get("cell_measures")) is None or (
            "areacella" in read.coords
        )
        np.testing.assert_array_equal(read.tas, whole.tas)


def test_fine_fields_and_chunks_of_the_input_count() -> None:
    ds = field_on(region(40, 50), 2).chunk({"time": 1})
    relief, mask = relief_on(region(40, 50)).orog, xr.ones_like(relief_on(region(40, 50)).orog)
    cells = 80 * 100
    plain = ds.downscale.plan(2).variables["tas"]
    assert plain.static_bytes == 3 * 40 * 50 * ds.tas.dtype.itemsize
    masked = ds.downscale.plan(2, mask=mask).variables["tas"]
    assert masked.static_bytes - plain.static_bytes == 8 * cells * (1 + STATIC_COPIES)
    assert masked.block_bytes > plain.block_bytes
    both = ds.downscale.plan(2, mask=mask, orog=relief, lapse_rate=-6.5e-3).variables["tas"]
    assert both.static_bytes - masked.static_bytes >= 16 * cells
    assert both.block_bytes > masked.block_bytes
    rough = ds.downscale.plan(2, mask=mask, orog=relief, lapse_rate=-6.5e-3, relief_smoothing=0).variables["tas"]
    assert both.static_bytes - rough.static_bytes == 8 * cells * SMOOTHING_COPIES


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("width", [0.0, 1.0, 10.0])
def test_a_terrain_term_takes_no_more_copies_than_are_counted(masked: bool, width: float) -> None:
    lat, lon = CellAxis(np.linspace(-60, 60, 301), "latitude"), CellAxis(np.linspace(0, 300, 401), "longitude")
    grid = RectilinearGrid(lat, lon)
    map_plan = plan_maps(field_on(grid, 1), Request(factor=2, orog=relief_on(grid), lapse_rate=-6.5e-3))
    orog = np.asarray(map_plan.statics["orog"], np.float64)
    mask = np.ones(orog.shape) if masked else None
    job = map_plan.jobs["tas"]
    terrain_term(orog, -6.5e-3, width, job, mask)
    tracemalloc.start()
    terrain_term(orog, -6.5e-3, width, job, mask)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= orog.nbytes * (STATIC_COPIES + SMOOTHING_COPIES * (width > 0))


def test_what_reading_takes_counts_where_files_are_read(tmp_path: Path) -> None:
    """Whatever is done to the values before; not where they are in memory."""
    ds = field_on(region(40, 50), 2)
    ds.to_netcdf(tmp_path / "in.nc")
    held = ds.chunk({"time": 1}).downscale.plan(2).variables["tas"].static_bytes
    for given in (
        downscale.open_dataset(tmp_path / "in.nc", chunks={"time": 1}),
        xr.open_dataset(tmp_path / "in.nc").chunk({"time": 1}),
        xr.open_dataset(tmp_path / "in.nc", chunks={"time": 1}).assign(tas=lambda one: one.tas + 0),
    ):
        given.tas.attrs.update(ds.tas.attrs)
        assert given.downscale.plan(2).variables["tas"].static_bytes == held + READING_BYTES


def test_fine_fields_make_bands_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    job = next(iter(downscale_jobs(field_on(plane(400, 50), 1)).values()))
    data = da.zeros((1, 400, 50), dtype="f4", chunks=-1)
    monkeypatch.setattr(jobs, "block_budget", lambda features, whole: 160_000 - whole)
    free, masked, held = (
        max(fit_chunks(data, job, extra).chunks[1])
        for extra in (ExtraMemory(), ExtraMemory(0, 40), ExtraMemory(80_000, 0))
    )
    assert masked < free
    assert held < free


def downscale_jobs(ds: xr.Dataset) -> dict[str, Any]:
    from downscale.request import Request
    from downscale.steps.prepare import plan_maps

    return plan_maps(ds, Request(factor=2)).jobs


def test_a_limit_without_room_for_what_is_held_is_refused() -> None:
    ds = field_on(region(40, 50), 2).chunk({"time": 1})
    now = psutil.Process().memory_info().rss
    with downscale.set_options(max_memory=f"{now / 1e9:.3f}GB"), pytest.raises(OptionError, match="max_memory"):
        ds.downscale.plan(2)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_a_large_map_stays_within_the_limit_and_the_plan(tmp_path: Path) -> None:
    rows, columns = 2000, 4000
    lat, lon = 20 + 0.01 * np.arange(rows), 0.01 * np.arange(columns)
    values = np.random.default_rng(0).random((1, rows, columns)).astype("f4")
    xr.Dataset(
        {"tas": (("time", "lat", "lon"), values, {"units": "K"})},
        {"time": np.array(["2000-01-01"], "M8[ns]"), "lat": ("lat", lat, {"units": "degrees_north"}),
         "lon": ("lon", lon, {"units": "degrees_east"})},
    ).to_netcdf(tmp_path / "in.nc")  # fmt: skip
    line = [sys.executable, "-m", "downscale", "apply", tmp_path / "in.nc", tmp_path / "out.nc", "--factor", "3"]
    line += ["--max-memory", "1GB"]
    said = subprocess.run([*line, "--dry-run"], capture_output=True, text=True, check=True).stdout
    planned = float(said.split("peak memory")[1].split("about ")[1].split(" MB")[0]) * 1e6
    # The limit is about what the process allocates: pages of files and libraries are the system's to take back.
    running, most, own = subprocess.Popen(line, stdout=subprocess.DEVNULL), 0, 0
    pause = threading.Event()
    while running.poll() is None:
        try:
            info = psutil.Process(running.pid).memory_info()
            most, own = max(most, info.rss), max(own, info.rss - info.shared)
        except psutil.Error:
            break
        pause.wait(0.05)
    assert running.wait() == 0
    assert own < 1e9
    assert planned == pytest.approx(most, rel=0.3)


def test_areas_and_positions_that_are_no_products_count() -> None:
    """Corners of cells on the earth outweigh a field."""
    lat, lon = np.meshgrid(np.linspace(40, 45, 12), np.linspace(5, 12, 14), indexing="ij")
    mesh = xr.Dataset(
        {"tas": (("time", "y", "x"), np.ones((2, 12, 14), "f4"), {"units": "K"})},
        {"lat": (("y", "x"), lat + 0.01 * lon, {"units": "degrees_north", "standard_name": "latitude"}),
         "lon": (("y", "x"), lon - 0.01 * lat, {"units": "degrees_east", "standard_name": "longitude"})},
    ).chunk({"time": 1})  # fmt: skip
    assert mesh.downscale.plan(3).variables["tas"].static_bytes > 400 * 9 * 12 * 14
