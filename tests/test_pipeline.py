"""A run from recipe to files: the demo, its report, its figures, and what is refused before any work is done."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from lazy_files import unreadable
from sample_fields import field_on, rain_on, region, relief_on

import downscale
from downscale.check import self_validation
from downscale.errors import ConservationError, OutputError
from downscale.request import Request
from downscale.runs import block_run, pipeline, single
from downscale.runs.demo import demo_recipe, format_comparison, prepare_folder, run_both
from downscale.runs.recipe import parse_recipe


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pipeline.Outcome]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, pipeline.run(demo_recipe(folder))


def small(tmp_path: Path, ds: xr.Dataset | None = None, **blocks: Any) -> Any:
    """A recipe that reads a small file and writes beside it."""
    source = tmp_path / "in.nc"
    if not source.exists():
        (field_on(region()) if ds is None else ds).to_netcdf(source)
    content: dict[str, Any] = {"input": {"path": str(source)}, "downscale": {"factor": 2}, "output": {"path": "out.nc"}}
    for name, block in blocks.items():
        content.setdefault(name, {}).update(block)
    for key in ("path", "map", "report"):
        if content["output"].get(key):
            content["output"][key] = str(tmp_path / content["output"][key])
    return parse_recipe(content)


def test_the_demo_writes_all_its_files(demo):
    folder, outcome = demo
    assert sorted(os.listdir(folder)) == [
        "report.html", "report.json", "tas_north_america_x4.nc", "tas_north_america_x4.png",
    ]  # fmt: skip
    assert {path.name for path in outcome.files} == set(os.listdir(folder))
    assert outcome.conservation.passed
    assert outcome.conservation.max_relative_error <= 1e-6


def test_the_demo_keeps_its_cells_in_the_file(demo):
    folder, _ = demo
    coarse = downscale.sample.open("north_america")
    fine = downscale.open_dataset(folder / "tas_north_america_x4.nc")
    report = fine.downscale.check(coarse)
    assert report.passed
    assert report["tas"].cells_checked == coarse.tas.size
    assert report.max_relative_error <= 1e-6
    np.testing.assert_allclose(fine.downscale.coarsen(4).tas, coarse.tas, rtol=1e-6)


def test_the_demo_lowers_the_penalty_and_tells_what_helps(demo):
    _, outcome = demo
    penalty, errors = outcome.terrain_penalty["tas"], outcome.self_validation["tas"]
    assert penalty["after"] < penalty["before"]
    assert set(errors) == {"blocks", "bilinear", "sobolev", "sobolev with terrain"}
    assert errors["sobolev"] < errors["bilinear"] < errors["blocks"]


def test_the_report_tells_all_to_people_and_programs(demo):
    folder, outcome = demo
    facts = json.loads((folder / "report.json").read_text())
    assert facts["conservation"]["passed"] is True
    assert facts["conservation"]["variables"]["tas"]["max_relative_error"] == outcome.conservation.max_relative_error
    assert facts["plan"]["output_bytes"] == 24 * 148 * 196 * 4
    assert facts["versions"]["downscale"] == downscale.__version__
    assert facts["recipe"]["downscale"]["factor"] == 4
    page = (folder / "report.html").read_text()
    assert page.count("<img") == page.count("alt=") == 4
    assert {"open and plan", "self-validation", "terrain penalty", "figures"} < set(facts["stages"])
    assert sum(facts["stages"].values()) == pytest.approx(facts["seconds"], abs=0.02)
    assert 0 <= facts["stages"]["the rest"] < 0.2 * facts["seconds"]
    assert facts["input"]["axes"]["time"].startswith("24 steps, 1869-06-01")
    for words in ("data:image/png;base64,", "Cell conservation", "Self-validation", "Terrain-gradient", "conserved"):
        assert words in page
    assert not re.findall(r"(?:src|href)=['\"]http", page), "a report that needs no network"


def test_the_demo_passes_the_compliance_checker(demo):
    folder, _ = demo
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    checker = shutil.which("compliance-checker", path=places)
    if checker is None:
        pytest.skip("compliance-checker is not installed")
    file = folder / "tas_north_america_x4.nc"
    done = subprocess.run(
        [checker, "--test=cf:1.11", "--criteria=normal", "--format=json", "--output=-", str(file)],
        capture_output=True, text=True,
    )  # fmt: skip
    facts = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])
    found = facts["cf:1.11"]
    errors = [message for check in found["high_priorities"] for message in check["msgs"]]
    warnings = [message for check in found["medium_priorities"] for message in check["msgs"]]
    assert errors == []
    assert all("units_metadata" in message for message in warnings), warnings


def test_running_again_replaces_the_files(demo):
    folder, _ = demo
    before = (folder / "tas_north_america_x4.nc").stat().st_mtime_ns
    pipeline.run(demo_recipe(folder))
    assert (folder / "tas_north_america_x4.nc").stat().st_mtime_ns > before
    assert len(os.listdir(folder)) == 4


def test_two_methods_side_by_side_are_measured_in_the_files(tmp_path):
    """Of a field without any detail all detail is that of the relief: so much a kilometre, correlation one."""
    field, relief = field_on(region()), tmp_path / "relief.nc"
    flat = field.assign(tas=field.tas * 0 + 280.0).drop_encoding()
    flat.tas.attrs = field.tas.attrs
    relief_on(region()).to_netcdf(relief)
    ways = (-4e-3, "conservative", {"report": "r.html"}), (8e-3, "conservative", {"path": "other.nc"})
    sides = [
        small(
            tmp_path, flat, statics={"orog": str(relief)}, terrain={"lapse_rate": rate, "relief_smoothing": 0},
            downscale={"method": method}, output=output,
        )
        for rate, method, output in ways
    ]  # fmt: skip
    _, beside = run_both(*sides, "a <note>")
    first, second = beside.sides
    assert [first["per_km"], second["per_km"]] == pytest.approx([-4, 8], rel=1e-4)
    assert [first["relief_correlation"], second["relief_correlation"]] == pytest.approx([-1, 1], rel=1e-4)
    assert second["detail"] == pytest.approx(2 * first["detail"], rel=1e-3)
    assert second["gradient"] == pytest.approx(2 * first["gradient"], rel=1e-3)
    assert max(first["cell_error"], second["cell_error"]) <= 1e-6
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["side_by_side"] == [dict(side) for side in beside.sides]
    page = (tmp_path / "r.html").read_text()
    assert "a &lt;note&gt;" in page
    for line in format_comparison(beside).splitlines()[1:]:
        assert line.split()[-1] in page


def test_a_dry_run_reads_no_data_and_writes_nothing(tmp_path, monkeypatch):
    recipe = small(tmp_path, output={"map": "m.png", "report": "r.html"})
    honest = single.open_dataset
    monkeypatch.setattr(single, "open_dataset", lambda *a, **k: unreadable(honest(*a, **k)))
    outcome = pipeline.run(recipe, dry_run=True)
    assert os.listdir(tmp_path) == ["in.nc"]
    assert outcome.files == []
    assert outcome.conservation is None
    assert outcome.plan.variables["tas"].fine_shape == (3, 24, 32)


def test_a_run_without_extras(tmp_path):
    outcome = pipeline.run(small(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["in.nc", "out.nc"]
    assert outcome.conservation.passed
    assert outcome.self_validation == {}  # only a report would tell it


@pytest.mark.parametrize("conserve", ["cell", "total", None])
@pytest.mark.parametrize("method", ["sobolev", "bicubic"])
def test_each_law_is_judged_by_what_was_imposed(tmp_path, conserve, method):
    """Bounds come with the cell law only; the total law does not fail for want of them."""
    recipe = small(tmp_path, rain_on(region()), downscale={"factor": 2, "conserve": conserve, "method": method})
    outcome = pipeline.run(recipe)
    if conserve is None:
        assert outcome.conservation is None
    else:
        assert outcome.conservation["pr"].law == conserve
        assert outcome.conservation.passed
    fine = downscale.open_dataset(tmp_path / "out.nc")
    assert (float(fine.pr.min()) < 0) == (conserve != "cell")


def test_bounds_by_name_are_imposed_and_judged(tmp_path):
    recipe = small(tmp_path, downscale={"factor": 2, "bounds": {"tas": [270.0, None]}})
    assert pipeline.run(recipe).conservation["tas"].values_out_of_bounds == 0
    assert float(downscale.open_dataset(tmp_path / "out.nc").tas.min()) >= 270


def test_a_file_of_codes_alone_is_written(tmp_path):
    codes = (("lat", "lon"), np.arange(192, dtype="i2").reshape(12, 16), {"flag_values": np.arange(192, dtype="i2")})
    ds = field_on(region()).assign(code=codes).drop_vars("tas")
    outcome = pipeline.run(small(tmp_path, ds, output={"map": "m.png", "report": "r.html"}))
    assert outcome.conservation is None
    assert (tmp_path / "m.png").exists()
    np.testing.assert_array_equal(downscale.open_dataset(tmp_path / "out.nc").code, codes[1].repeat(2, 0).repeat(2, 1))


def test_outputs_are_checked_before_any_work(tmp_path, monkeypatch):
    """Another run's facts are not replaced, no two outputs share a name, and no input is one."""
    monkeypatch.setattr(block_run, "downscale_request", lambda *a, **k: pytest.fail("work was done"))
    relief_on(region()).to_netcdf(tmp_path / "relief.nc")
    statics = {"orog": str(tmp_path / "relief.nc")}
    (tmp_path / "old.json").write_text("precious")
    for output, match in (
        ({"report": "old.html"}, "expected a new file, received .*old.json that exists"),
        ({"report": "x.json"}, "expected different names for all outputs, received .*x.json"),
        ({"map": "out.nc"}, "expected different names for all outputs"),
        ({"map": "m.foo"}, "expected a map file of type 'eps'.*received 'm.foo'; use .png"),
        ({"map": "no/m.png"}, "expected an existing folder for the output, received .*no; create it"),
        ({"path": "in.nc", "overwrite": True}, "expected an output other than the input, received .*in.nc for both"),
        ({"report": "in.nc", "overwrite": True}, "expected an output other than the input"),
        ({"path": "relief.nc", "overwrite": True}, "expected an output other than the input, received .*relief.nc"),
    ):
        with pytest.raises(OutputError, match=match):
            pipeline.run(small(tmp_path, output=output, statics=statics, terrain={"lapse_rate": -6.5e-3}))
    assert sorted(os.listdir(tmp_path)) == ["in.nc", "old.json", "relief.nc"]
    assert (tmp_path / "old.json").read_text() == "precious"


def test_no_part_of_a_pattern_is_overwritten(tmp_path):
    for i in range(3):
        field_on(region()).isel(time=[i]).to_netcdf(tmp_path / f"part_{i}.nc")
    before = (tmp_path / "part_2.nc").read_bytes()
    recipe = parse_recipe({
        "input": {"path": str(tmp_path / "part_*.nc")}, "downscale": {"factor": 2},
        "output": {"path": str(tmp_path / "part_2.nc"), "overwrite": True},
    })  # fmt: skip
    with pytest.raises(OutputError, match="expected an output other than the input"):
        pipeline.run(recipe)
    assert (tmp_path / "part_2.nc").read_bytes() == before


def test_a_run_whose_law_is_broken_leaves_nothing(tmp_path, monkeypatch):
    honest = block_run.downscale_request

    def leaking(*arguments: Any, **options: Any) -> xr.Dataset:
        return honest(*arguments, **options) * 1.001

    recipe = small(tmp_path, output={"map": "m.png", "report": "r.html"})
    monkeypatch.setattr(block_run, "downscale_request", leaking)
    with pytest.raises(ConservationError, match="tas: expected the cell law within 1e-12"):
        pipeline.run(recipe)
    assert os.listdir(tmp_path) == ["in.nc"]


def test_where_the_demo_may_write(tmp_path):
    prepare_folder(tmp_path / "new")
    prepare_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="expected a folder, received the file"):
        prepare_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="expected an existing parent folder, received"):
        prepare_folder(tmp_path / "no" / "demo")


def test_self_validation_judges_one_scale_up():
    """On a smooth field interpolation beats blocks; a field too small to coarsen is not judged."""
    ds = field_on(region(24, 32))
    lat, lon = np.meshgrid(ds.lat, ds.lon, indexing="ij")
    ds["tas"][:] = 280 + np.sin(np.deg2rad(8 * lat)) + np.cos(np.deg2rad(9 * lon))
    errors = self_validation.self_validation(ds, Request(factor=2))["tas"]
    assert errors["sobolev"] < errors["bilinear"] < errors["blocks"]
    assert self_validation.self_validation(field_on(region(4, 4)), Request(factor=2)) == {}
    odd = self_validation.self_validation(field_on(region(25, 31)), Request(factor=2))
    assert set(odd["tas"]) == {"blocks", "bilinear", "sobolev"}


def test_self_validation_weighs_by_area():
    guess = field_on(region()).tas
    area = downscale.cell_area(guess)
    np.testing.assert_allclose(self_validation.weighted_rmse(guess + 2.0, guess, area), 2.0)
    truth = guess.copy()
    truth[:, 0] += 3.0
    expected = np.sqrt(9.0 * area[0].sum() / area.sum())
    np.testing.assert_allclose(self_validation.weighted_rmse(guess, truth, area), expected)
    np.testing.assert_allclose(self_validation.weighted_rmse(guess, truth.where(truth.lat > 31), area), 0.0)


def test_samples_of_maps_are_spread_over_the_record():
    ds = field_on(region(), 100)
    where = downscale.plan(ds, 2)
    from downscale.cf.horizontal import horizontal

    taken = self_validation.sample_maps(ds, horizontal(ds), 12)
    assert taken.sizes["time"] == 12
    assert taken.time[0] == ds.time[0]
    assert taken.time[-1] == ds.time[-1]
    assert where.variables["tas"].coarse_shape[0] == 100
