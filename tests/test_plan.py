"""The plan says what will happen, exactly, and touches no data."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy_files import unreadable
from run_process import ROOT
from sample_fields import field_on, plane, rain_on, region, relief_on, world
from schedulers import computations
from strategies import cuttings, factor_pairs

from downscale import TerrainPenalty
from downscale.cf.coordinates import select
from downscale.engine import memory
from downscale.engine.plan import readable_bytes
from downscale.errors import OptionError, ShapeError
from downscale.nn.learned import Learned
from downscale.nn.spec import ModelSpec, Variable


@given(st.data(), factor_pairs, st.sampled_from(["float32", "float64", "int16"]))
@settings(max_examples=15)
def test_predicted_shapes_chunks_and_bytes_are_those_of_the_result(data, factor, dtype):
    ds = field_on(region(6, 8), 4, dtype=dtype)
    cut = {dim: tuple(data.draw(cuttings(size))) for dim, size in (("time", 4), ("lat", 6), ("lon", 8))}
    ds = ds.chunk(cut)
    factors = {"lat": factor[0], "lon": factor[1]}
    plan, fine = ds.downscale.plan(factors), ds.downscale(factors)
    planned = plan.variables["tas"]
    assert planned.fine_shape == fine.tas.shape
    assert planned.dtype == fine.tas.dtype
    assert planned.chunks == tuple(max(sizes) for sizes in fine.tas.chunks)
    assert planned.blocks == plan.tasks == int(np.prod(fine.tas.data.numblocks))
    assert plan.output_bytes == fine.tas.nbytes
    assert plan.factor == factors


def test_large_chunks_are_cut_along_time_as_planned(monkeypatch):
    monkeypatch.setattr(memory, "BLOCK_BYTES", 20_000)
    ds = field_on(region(), 10).chunk()
    fine, planned = ds.downscale(2), ds.downscale.plan(2).variables["tas"]
    assert fine.tas.chunks[0] == (3, 3, 3, 1)
    assert planned.blocks == 4
    assert planned.chunks == (3, 24, 32)


def test_planning_computes_nothing():
    ds = field_on(world(), missing=0.1).chunk(time=1)
    relief = relief_on(world()).chunk()
    with computations(0):
        plan = ds.downscale.plan(2, orog=relief, lapse_rate=-6.5e-3, terrain_penalty=TerrainPenalty(1e-5))
        repr(plan), plan._repr_html_(), plan.to_dict()


def test_planning_reads_nothing_of_a_file_opened_without_dask():
    """Naming the data of a lazily opened variable already reads them."""
    ds = unreadable(field_on(world()))
    assert ds.downscale.plan(2).variables["tas"].fine_shape == (3, 24, 32)
    with pytest.raises(AssertionError, match="data were read"):
        ds.downscale(2)


def test_the_plan_is_for_people_and_programs():
    ds = rain_on(world()).assign(code=(("lat", "lon"), np.ones((12, 16), "i1"), {"flag_values": [1]}), n=5)
    plan = ds.chunk(lat=6).downscale.plan(4, terrain_penalty=TerrainPenalty(1e-9, iterations=3))
    text, page = repr(plan), plan._repr_html_()
    for words in (
        "method", "sobolev", "lat x4, lon x4", "3 x 12 x 16 -> 3 x 48 x 64 float64", "2 blocks of 3 x 24 x 64",
        "law: cell, bounds [0, inf]", "code holds codes (by attribute flag_values): repeated, not averaged", "output",
        "peak memory",
    ):  # fmt: skip
        assert words in text
        assert html.escape(words) in page
    assert plan.passed_through == ("n",)
    facts = json.loads(json.dumps(plan.to_dict()))
    assert facts["variables"]["pr"]["bounds"] == [0.0, None]
    assert facts["output_bytes"] == 3 * 48 * 64 * 8
    assert facts["peak_bytes"] > facts["variables"]["pr"]["block_bytes"] > 0


def test_the_plan_tells_which_coordinates_are_lost():
    ds = field_on(plane()).assign_coords(lon2d=(("y", "x"), np.zeros((12, 16))))
    assert "lon2d: dropped, positions beside those of the grid" in repr(ds.downscale.plan(2))


@pytest.mark.parametrize(
    ("name", "attrs"),
    [
        ("nav_lat", {}), ("LON2D", {}), ("glat", {"standard_name": "latitude", "units": "degrees"}),
        ("g", {"units": "degrees_north"}), ("g", {"units": "degW"}), ("g", {"standard_name": "longitude"}),
    ],
)  # fmt: skip
def test_positions_beside_those_of_the_grid_are_no_fields_and_selecting_keeps_them(name, attrs):
    ds = field_on(world()).assign_coords({name: (("lat", "lon"), np.zeros((12, 16)), attrs)})
    assert f"{name}: dropped, positions beside those of the grid" in repr(ds.downscale.plan(2))
    assert name in select(ds.reset_coords(name), "tas").coords


def test_the_plan_escapes_what_files_say():
    ds = field_on(world(), name="<b>tas</b>")
    assert "<b>tas" not in ds.downscale.plan(2)._repr_html_()


def test_the_halo_of_the_default_reaches_three_cells_twice():
    """Seven taps look three cells to either side, inward windows at an end up to six; gaps double it."""
    ds = field_on(world(40, 40)).chunk(lat=4, lon=4)
    assert ds.downscale.plan(2).variables["tas"].halo[1] == 6
    wider = ds.downscale.plan(2, terrain_penalty=TerrainPenalty(1e-5, iterations=5)).variables["tas"]
    assert wider.halo[1] == 6 + 5


def test_a_plan_refuses_what_a_run_would_refuse():
    ds = field_on(world())
    with pytest.raises(ShapeError, match="whole number of at least 1, received 0"):
        ds.downscale.plan(0)
    with pytest.raises(OptionError, match=r"expected an argument among 'factor', .*received 'fcator'"):
        ds.downscale.plan(fcator=2)
    assert ds.downscale.plan(2, output_chunks={"time": 1}, keep_attrs=False).tasks == 1


def model_of(width: int, factor: int = 2) -> Learned:
    """A network that has learned nothing."""
    options = {"width": width, "depth": 1, "fine_width": width}
    return Learned(ModelSpec("residual", (factor, factor), (Variable("tas", "K"),), options=options))


@pytest.mark.parametrize("network", ["residual", "unet", "autoencoder", "sr_cnn"])
def test_the_plan_counts_the_features_of_every_network(network):
    ds = field_on(world()).chunk(time=1)
    planned = ds.downscale.plan(2, method=Learned(ModelSpec(network, (2, 2), (Variable("tas", "K"),))))
    plan = planned.variables["tas"]
    fine = 24 * 32 * 4
    assert not plan.compiled
    # More than a few channels, and less than a thousand.
    assert 8 * fine < plan.feature_bytes < 4000 * fine
    assert plan.block_bytes > plan.feature_bytes
    assert ds.downscale.plan(2).variables["tas"].feature_bytes == 0


def test_features_grow_with_width_and_maps_until_a_batch_is_full():
    def features(width: int, steps: int, grid: Any = None) -> int:
        ds = field_on(grid or world(), steps).chunk(time=-1)
        return ds.downscale.plan(2, method=model_of(width)).variables["tas"].feature_bytes

    one = features(16, 1)
    assert features(32, 1) > 1.8 * one
    assert features(16, 4) == pytest.approx(4 * one, rel=0.01)
    # 500 000 values are worked on at once, however many maps there are.
    large = world(100, 200)
    assert features(16, 12, large) == features(16, 6, large) > 5 * features(16, 1, large)


def test_max_memory_cuts_the_maps_of_a_network(monkeypatch):
    ds, model = field_on(world(200, 100)).chunk(), model_of(16)
    whole = ds.downscale.plan(2, method=model).variables["tas"]
    monkeypatch.setattr(memory, "FEATURE_BYTES", whole.feature_bytes // 3)
    cut = ds.downscale.plan(2, method=model).variables["tas"]
    assert cut.chunks[-2] < whole.chunks[-2]
    assert cut.feature_bytes <= whole.feature_bytes // 3
    fine = ds.downscale(2, method=model)
    assert max(fine.tas.chunks[-2]) == cut.chunks[-2]


MEASURED = """
import json, sys, threading, time
import dask, numpy as np, psutil, torch, xarray as xr
import downscale

size, maps, workers = map(int, sys.argv[1:])
torch.set_num_threads(1)
dask.config.set(scheduler="threads", num_workers=workers)
rain = np.random.default_rng(0).gamma(0.3, 2, (4 * maps, size, size)).astype("f4")
attrs = {"units": "mm h-1", "standard_name": "rainfall_rate"}
lat, lon = ("lat", np.linspace(40, 50, size), {"units": "degrees_north"}), ("lon", np.linspace(0, 10, size))
ds = xr.Dataset({"pr": (("time", "lat", "lon"), rain, attrs)}, {"lat": lat, "lon": lon}).chunk(time=maps)
ds.isel(time=slice(1), lat=slice(20), lon=slice(20)).chunk().downscale(4, method="rain").compute()
planned, me, seen, over = ds.downscale.plan(4, method="rain").peak_bytes, psutil.Process(), [], threading.Event()

def watch():
    while not over.wait(0.01):
        seen.append(me.memory_info().rss)

thread = threading.Thread(target=watch)
thread.start()
fine = ds.downscale(4, method="rain").pr.data
fine.map_blocks(lambda block: np.full((1, 1, 1), block.mean()), chunks=(1, 1, 1), dtype="f8").compute()
over.set()
thread.join()
print(json.dumps([planned, max(seen), me.memory_info().rss]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("size", "maps", "workers"), [(60, 8, 1), (200, 4, 1), (60, 8, 2)])
def test_the_plan_of_a_network_is_what_is_resident(size, maps, workers):
    line = [sys.executable, "-c", MEASURED, str(size), str(maps), str(workers)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr
    planned, peak, _ = json.loads(done.stdout)
    assert planned == pytest.approx(peak, rel=0.25)


def test_sizes_in_words():
    assert [readable_bytes(n) for n in (0, 999, 1_000, 2_500_000_000, 3 * 10**15)] == [
        "0 B", "999 B", "1 kB", "2.5 GB", "3e+03 TB",
    ]  # fmt: skip
