"""Selecting variables never changes cells, at any door: a world whose bounds are no midpoints anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from command import command
from training_recipes import recipe_content

import downscale
from downscale.cf.coordinates import select
from downscale.cf.horizontal import horizontal
from downscale.check.conservation import cell_error
from downscale.check.self_validation import self_validation
from downscale.errors import GridError
from downscale.request import Request
from downscale.training.fit import train
from downscale.training.schema import parse_training

ROWS, COLUMNS, STEPS = 16, 20, 4


def pairs(edges: Any) -> np.ndarray:
    return np.stack([edges[:-1], edges[1:]], axis=1)


def stretched() -> xr.Dataset:
    """Gaussian rows, uneven columns, layers and periods, in two fields on maps and one in layers."""
    rng = np.random.default_rng(0)
    nodes, weights = np.polynomial.legendre.leggauss(ROWS)
    rows = np.degrees(np.arcsin(np.clip(np.r_[-1, -1 + np.cumsum(weights)], -1, 1)))
    columns = np.r_[0, np.cumsum(rng.uniform(0.6, 1.4, COLUMNS))]
    columns *= 360 / columns[-1]
    periods = xr.date_range("2001-01-01", periods=STEPS + 1, freq="5D").values
    layers = np.array([1000.0, 850.0, 700.0, 300.0])
    coords = {
        "time": ("time", periods[1:], {"standard_name": "time", "bounds": "time_bnds"}),
        "time_bnds": (("time", "bnds"), pairs(periods)),
        "lev": ("lev", layers[:-1] - 20, {"units": "hPa", "positive": "down", "bounds": "lev_bnds"}),
        "lev_bnds": (("lev", "bnds"), pairs(layers)),
        "lat": ("lat", np.degrees(np.arcsin(nodes)), {"units": "degrees_north", "bounds": "lat_bnds"}),
        "lat_bnds": (("lat", "bnds"), pairs(rows)),
        "lon": ("lon", columns[:-1] + 0.3 * np.diff(columns), {"units": "degrees_east", "bounds": "lon_bnds"}),
        "lon_bnds": (("lon", "bnds"), pairs(columns)),
    }
    maps = ("time", "lat", "lon")
    kelvin, mean = {"units": "K", "standard_name": "air_temperature"}, {"cell_methods": "time: mean"}
    tas = 270 + np.cumsum(np.cumsum(rng.normal(size=(STEPS, ROWS, COLUMNS)), axis=1), axis=2)
    return xr.Dataset(
        {
            "tas": (maps, tas.astype("f4"), {**kelvin, **mean}),
            "ts": (maps, (tas + 1).astype("f4"), {**kelvin, **mean}),
            "ta": (("time", "lev", "lat", "lon"), np.stack([tas] * 3, 1).astype("f4"), {**kelvin, **mean}),
        },
        coords,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return stretched()


@pytest.fixture
def folder(ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    ds.to_netcdf(tmp_path / "in.nc", encoding={"time": {"units": "days since 2000-01-01"}})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path: str) -> xr.Dataset:
    with xr.open_dataset(path, decode_coords="all") as made:
        return made.load()


@pytest.mark.parametrize("factor", [2, {"lat": 2, "lon": 3}, {"time": 5, "lat": 2}, {"lev": 2}])
def test_downscale_and_its_accessor(ds, factor):
    for source in (ds, ds.reset_coords([name for name in ds.coords if str(name).endswith("_bnds")]), ds.chunk(time=2)):
        given = ds[["ta"]].assign_coords(ds.coords) if isinstance(factor, dict) and "lev" in factor else source
        name = "ta" if given is not source else "tas"
        whole = given.downscale(factor)
        for some in (given.downscale(factor, data_vars=name), downscale.downscale(given, factor, data_vars=[name]),
                     select(given, name).downscale(factor)):  # fmt: skip
            np.testing.assert_array_equal(some[name], whole[name])
            xr.testing.assert_equal(some.lat_bnds, whole.lat_bnds)
        # What a method of xarray leaves of a Dataset is either the same cells or refused.
        for lost in (given[name], given[[name]]):
            with pytest.raises(GridError, match=r"expected (its bounds|bounds of)"):
                lost.downscale(factor)


def test_averages_areas_weights_and_checks(ds):
    fine = ds.downscale(2)
    only = select(ds, "tas")
    np.testing.assert_array_equal(downscale.coarsen(select(fine, "tas"), 2).tas, downscale.coarsen(fine, 2).tas)
    np.testing.assert_allclose(downscale.coarsen(fine, 2).tas, ds.tas, rtol=1e-6)
    np.testing.assert_array_equal(downscale.cell_area(only), downscale.cell_area(ds))
    xr.testing.assert_identical(downscale.weights(only, 2), downscale.weights(ds, 2))
    for pair in ((ds, select(fine, "tas")), (only, fine), (only, fine.tas), (only, fine[["tas"]])):
        report = downscale.check_conservation(*pair)
        assert report.passed, report
        assert set(report.variables) == {"tas"}
        assert float(cell_error(*pair).tas_relative_error.max()) < 1e-6
    months = ds.downscale({"time": 5})
    assert downscale.check_conservation(only, months).passed
    assert downscale.check_conservation(only, months.reset_coords(["time_bnds", "lat_bnds", "lon_bnds"])).passed
    target = fine.drop_vars(["tas", "ts", "ta"])
    np.testing.assert_array_equal(only.downscale(target_grid=target).tas, fine.tas)
    error = cell_error(only, fine)
    np.testing.assert_array_equal(horizontal(error).grid.cell_area, horizontal(ds).grid.cell_area)


def test_self_validation(ds):
    whole, only = self_validation(ds, Request(factor=2)), self_validation(ds, Request(factor=2, data_vars="tas"))
    assert only == {"tas": whole["tas"]}
    assert whole["tas"]["sobolev"] < whole["tas"]["blocks"]


@pytest.mark.slow
def test_blur_and_deconvolution(ds):
    # Instruments look at equal columns.
    edges = np.linspace(0, 360, COLUMNS + 1)
    ds = ds.assign_coords(lon=("lon", edges[:-1] + 9, ds.lon.attrs), lon_bnds=(("lon", "bnds"), pairs(edges)))
    whole, only = downscale.blur(ds, "gaussian:2000km"), downscale.blur(ds, "gaussian:2000km", data_vars="tas")
    np.testing.assert_array_equal(only.tas, whole.tas)
    np.testing.assert_array_equal(downscale.blur(select(ds, "tas"), "gaussian:2000km").tas, whole.tas)
    with pytest.raises(GridError, match="'lat': expected its bounds"):
        downscale.blur(ds.tas, "gaussian:2000km")


@pytest.mark.parametrize("more", [
    (), ("--blocks", "2"), pytest.param(("--factor", "lat:2,lon:2,time:5"), marks=pytest.mark.slow)
])  # fmt: skip
def test_apply_check_and_inspect(folder, more):
    for out, select_ranges in (("all.nc", ()), ("one.nc", ("--vars", "tas"))):
        said = command("apply", "in.nc", out, "--factor", "2", *more, *select_ranges)
        assert said.status == 0, said.err
    whole, one = written("all.nc"), written("one.nc")
    assert set(one.data_vars) == {"tas"}
    np.testing.assert_array_equal(one.tas, whole.tas)
    for name in ("lat_bnds", "lon_bnds", "time_bnds"):
        np.testing.assert_array_equal(one[name], whole[name])
    for out in ("all.nc", "one.nc"):
        said = command("check", "in.nc", out)
        assert said.status == 0, said.out + said.err
    said = command("inspect", "one.nc", "--factor", "2")
    assert said.status == 0, said.err


@pytest.mark.slow
def test_run_with_report(folder):
    facts = {}
    for name, some in (("all", {}), ("one", {"variables": ["tas"]})):
        recipe = {
            "input": {"path": "in.nc", **some}, "downscale": {"factor": 2},
            "output": {"path": f"{name}.nc", "report": f"{name}.html", "map": f"{name}.png"},
        }  # fmt: skip
        (folder / f"{name}.yml").write_text(yaml.safe_dump(recipe))
        said = command("run", f"{name}.yml")
        assert said.status == 0, said.err
        facts[name] = json.loads((folder / f"{name}.json").read_text())
    np.testing.assert_array_equal(written("one.nc").tas, written("all.nc").tas)
    scores = [facts[name]["self_validation"]["tas"] for name in ("all", "one")]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_encode(ds, folder):
    content = recipe_content(folder, steps=2, round=2)
    content["data"] = {**content["data"], "factor": 2, "statics": [], "pairs": [{"fine": "sample:north_america"}]}
    decoder = {"name": "autoencoder", "options": {"width": 4, "levels": 0, "latent": 2, "fine_width": 2}}
    code = {"task": "compression", "code": {"channels": 1, "width": 4}, "network": decoder}
    model = train(parse_training({**content, **code}))
    ds = ds.drop_vars(["ts", "ta"]).reset_coords(["lat_bnds", "lon_bnds", "time_bnds"])
    small, only = downscale.encode(ds, model), downscale.encode(select(ds, "tas"), model)
    xr.testing.assert_equal(small.tas_code_1, only.tas_code_1)
    np.testing.assert_array_equal(horizontal(small).grid.y.edges, horizontal(ds).grid.y.edges[::2])
    assert downscale.check_conservation(small, select(ds, "tas")).passed
    ds.to_netcdf("tas.nc", encoding={"time": {"units": "days since 2000-01-01"}})
    said = command("encode", "tas.nc", "code.nc", "--method", model)
    assert said.status == 0, said.err
