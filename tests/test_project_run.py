"""Projections as a whole: means of the adjusted cells, orders, resumed runs, grids that cross, calendars."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml
from project_fields import daily, model

import downscale
from downscale.cli.main import main
from downscale.errors import DownscaleError, InputError, OutputError
from downscale.projections.api import project
from downscale.projections.outcome import Projection
from downscale.projections.run import run_project

NAMES = ("tas", "tasmin", "tasmax", "pr")
# By month, which takes a tenth of the time of days of the year.
MONTHLY = {"group": "month", "quantiles": 20}
VARIABLES = {"tas": MONTHLY, "tasmin": None, "tasmax": None, "tasrange": MONTHLY, "tasskew": MONTHLY, "pr": MONTHLY}
QUICK = {"climatology_quantiles": 1, "report": False, "scores": {"baselines": [], "indices": False}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: Any) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    fields = {"observations": daily((2001, 2004), names=NAMES), "model": model((2001, 2004), names=NAMES),
              "ssp585": model((2051, 2053), names=NAMES, shift=5.0, seed=7)}  # fmt: skip
    for name, ds in fields.items():
        ds.to_netcdf(folder / f"{name}.nc")
    return {name: str(folder / f"{name}.nc") for name in fields}


@pytest.fixture(scope="module")
def result(inputs: dict[str, str], tmp_path_factory: Any) -> Projection:
    folder = tmp_path_factory.mktemp("results") / "out"
    return run(inputs, folder)


def run(inputs: dict[str, Any], folder: Path, **options: Any) -> Projection:
    return project(
        inputs["model"], inputs["observations"], scenario={"ssp585": inputs["ssp585"]}, reference="2001-2003",
        validation="2004", output=folder, name="M",
        **{"blocks": "2 years", "variables": VARIABLES, **QUICK, **options},
    )  # fmt: skip


@pytest.mark.slow
def test_fine_fields_conserve_the_adjusted_ones_in_the_files(result: Projection) -> None:
    assert set(result.files) == {("M", "historical"), ("M", "ssp585")}
    for key, path in result.adjusted.items():
        adjusted, fine = downscale.open_dataset(path), result.open(key[1])
        report = downscale.check_conservation(adjusted, fine)
        assert report.passed
        assert set(report.variables) == set(NAMES)
        assert fine.sizes["lat"] == 4
        assert fine.time.dt.calendar == adjusted.time.dt.calendar


@pytest.mark.slow
def test_variables_are_in_order_in_the_files(result: Projection) -> None:
    for key in result.files:
        fine = result.open(key[1]).load()
        assert bool((fine.tasmin <= fine.tas).all())
        assert bool((fine.tas <= fine.tasmax).all())
        assert bool((fine.pr >= 0).all())


@pytest.mark.slow
def test_the_change_of_the_fine_means_is_that_of_the_adjusted_ones(result: Projection) -> None:
    adjusted, fine = (
        [ds[list(NAMES)].astype(np.float64).mean("time") for ds in opened]
        for opened in ([result.open_adjusted(name) for name in ("ssp585", "historical")],
                       [downscale.coarsen(result.open(name), 2) for name in ("ssp585", "historical")])
    )  # fmt: skip
    for name in NAMES:
        change, own = adjusted[0][name] - adjusted[1][name], fine[0][name] - fine[1][name]
        np.testing.assert_allclose(own, change, rtol=0, atol=1e-6 * float(abs(adjusted[0][name]).max()))


@pytest.mark.slow
def test_scores_signals_and_report_are_written(inputs: dict[str, str], tmp_path: Path) -> None:
    scores = {"baselines": ["raw + bilinear", "BCSD"], "days": True}
    assessment = run(inputs, tmp_path / "out", report=True, scores=scores).assessments["M"]
    assert assessment.scores is not None
    assert list(assessment.scores.candidate.values) == ["observations", "fine", "raw + bilinear", "BCSD"]
    assert set(assessment.signals) == {"ssp585"}
    page = next(path for path in assessment.files if path.suffix == ".html").read_text()
    for words in ("2001-2003", "2004", "tasrange", "conserved", "tasmin"):
        assert words in page


@pytest.mark.slow
def test_a_bias_is_removed_and_a_warming_kept(inputs: dict[str, str], result: Projection) -> None:
    observed = xr.open_dataset(inputs["observations"]).sel(time=slice("2001", "2003"))
    fine = result.open().sel(time=slice("2001", "2003"))
    raw = xr.open_dataset(inputs["model"]).sel(time=slice("2001", "2003"))
    for name in NAMES:
        wanted = float(observed[name].mean())
        assert abs(float(fine[name].mean()) - wanted) < 0.2 * abs(float(raw[name].mean()) - wanted) + 0.02 * wanted


@pytest.mark.slow
def test_a_resumed_run_keeps_what_verifies(inputs: dict[str, str], tmp_path: Path) -> None:
    first = run(inputs, tmp_path / "out")
    files = [path for paths in first.files.values() for path in paths] + list(first.adjusted.values())
    before = {path: path.read_bytes() for path in files}
    lost = first.files["M", "ssp585"][0]
    lost.unlink()
    with pytest.raises(OutputError, match="resume"):
        run(inputs, tmp_path / "out")
    again = run(inputs, tmp_path / "out", resume=True)
    assert again.files == first.files
    for path in files:
        if path != lost:
            assert path.read_bytes() == before[path]
    old, new = (xr.open_dataset(path) for path in (lost, again.files["M", "ssp585"][0]))
    assert old[list(NAMES)].equals(new[list(NAMES)])


@pytest.mark.slow
def test_a_further_scenario_keeps_what_is_there(inputs: dict[str, str], tmp_path: Path) -> None:
    first = run(inputs, tmp_path / "out")
    kept = [*first.files["M", "historical"], *first.files["M", "ssp585"], *first.adjusted.values(),
            *(tmp_path / "out" / "adjusted" / "adjustment").iterdir()]  # fmt: skip
    times = {path: path.stat().st_mtime_ns for path in kept}
    more = {"ssp585": inputs["ssp585"], "ssp126": inputs["ssp585"]}
    again = project(
        inputs["model"], inputs["observations"], scenario=more, reference="2001-2003", validation="2004", name="M",
        output=tmp_path / "out", resume=True, blocks="2 years", variables=VARIABLES, **QUICK,
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert set(again.files) == {("M", "historical"), ("M", "ssp585"), ("M", "ssp126")}


def test_a_missing_package_is_named_before_any_work(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "xsdba", None)
    with pytest.raises(InputError, match=r"xsdba.*downscale-climate\[project\]"):
        run(inputs, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_command_plans_a_recipe(
    inputs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yml"
    content = {"models": {"M": {"historical": inputs["model"]}}, "observations": inputs["observations"],
               "output": {"path": str(tmp_path / "out")}}  # fmt: skip
    recipe.write_text(yaml.safe_dump(content))
    assert main(["project", str(recipe), "--dry-run", "--blocks", "1 year"]) == 0
    assert "tasmin <= tas" in capsys.readouterr().out
    recipe.write_text(yaml.safe_dump({**content, "observations": "missing.nc"}))
    assert main(["project", str(recipe)]) == 2
    assert "missing.nc" in capsys.readouterr().err


@pytest.mark.slow
def test_one_store_per_experiment(inputs: dict[str, str], tmp_path: Path, result: Projection) -> None:
    change = {
        "models": {"M": {"historical": inputs["model"]}}, "observations": inputs["observations"],
        "variables": VARIABLES, "periods": {"reference": "2001-2003", "validation": "2004"},
        "downscale": {"climatology_quantiles": 1}, "scores": {"baselines": [], "indices": False},
        "output": {"path": str(tmp_path / "out"), "format": "zarr", "blocks": "2 years", "report": False},
    }  # fmt: skip
    stored = run_project(change)
    assert [path.name for path in stored.files["M", "historical"]] == ["multi_day_M_historical.zarr"]
    xr.testing.assert_equal(stored.open()[list(NAMES)].load(), result.open()[list(NAMES)].load())


@pytest.mark.slow
def test_datasets_give_what_files_give(inputs: dict[str, str], result: Projection, tmp_path: Path) -> None:
    loaded = {name: xr.open_dataset(path).load() for name, path in inputs.items()}
    own = run({name: ds.drop_encoding() for name, ds in loaded.items()}, tmp_path / "out")
    for name in ("historical", "ssp585"):
        xr.testing.assert_equal(own.open(name)[list(NAMES)].load(), result.open(name)[list(NAMES)].load())


def test_a_dry_run_writes_nothing(inputs: dict[str, str], tmp_path: Path) -> None:
    plan = repr(run(inputs, tmp_path / "out", dry_run=True))
    assert not list(tmp_path.iterdir())
    for words in ("tasmin <= tas", "quantiles", "4 x 4", "2001-2003"):
        assert words in plan


@pytest.mark.parametrize("calendar", ["noleap", "360_day"])
def test_fine_fields_have_the_calendar_of_the_model(inputs: dict[str, str], tmp_path: Path, calendar: str) -> None:
    out = project(
        model((2001, 2003), calendar=calendar), inputs["observations"], scenario=model((2041, 2042), calendar=calendar),
        output=tmp_path / "out", variables={"tas": MONTHLY}, **QUICK,
    )  # fmt: skip
    fine = out.open("scenario")
    assert fine.time.dt.calendar == calendar
    assert any(calendar in note for note in out.notes)
    assert downscale.check_conservation(out.open_adjusted("scenario"), fine).passed


@pytest.mark.slow
def test_observations_may_cut_the_cells_of_the_model(inputs: dict[str, str], tmp_path: Path) -> None:
    observed = daily((2001, 2002), cells=5, width=0.4, names=("tas",))
    out = project(model((2001, 2002)), observed, output=tmp_path / "out", variables={"tas": MONTHLY}, **QUICK)
    fine = out.open()
    assert fine.sizes["lat"] == fine.sizes["lon"] == 5
    adjusted = downscale.open_dataset(out.adjusted["model", "historical"])
    assert downscale.check_conservation(adjusted, fine).passed


@pytest.mark.slow
def test_humidity_stays_within_bounds(tmp_path: Path) -> None:
    observed, historical = daily((2001, 2003), names=("hurs",)), model((2001, 2003), names=("hurs",), shift=0.0)
    out = project(historical, observed, output=tmp_path / "out", variables={"hurs": MONTHLY}, **QUICK)
    fine = out.open().load()
    assert float(fine.hurs.max()) <= 100
    assert float(out.open_adjusted().hurs.max()) > 99
    assert downscale.check_conservation(out.open_adjusted(), fine).passed


@pytest.mark.slow
def test_members_of_a_cascade_conserve_each_cell(inputs: dict[str, str], tmp_path: Path) -> None:
    out = project(inputs["model"], inputs["observations"], output=tmp_path / "out",
                  variables={"pr": MONTHLY}, method="cascade", members=2, **QUICK)  # fmt: skip
    fine = out.open()
    assert fine.sizes["realization"] == 2
    assert downscale.check_conservation(downscale.open_dataset(out.adjusted["model", "historical"]), fine).passed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"blocks": "2 weeks"}, "blocks"),
        ({"members": 3}, "members"),
        ({"metod": "cascade"}, "metod"),
        ({"variables": ["hurs"]}, "hurs"),
    ],
)
def test_faults_are_one_line_and_leave_nothing(
    inputs: dict[str, str], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DownscaleError, match=words) as caught:
        run(inputs, tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
