"""The command line: exit status 0 done, 1 a law is broken or a run failed, 2 the request or the input is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
import yaml
from command import command
from sample_fields import field_on, rain_on, region, relief_on, same_bits, world

import downscale
from downscale.cli.arguments import parse_bounds, parse_names, parse_pairs
from downscale.errors import OptionError
from downscale.runs import block_run

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a coarse file and the relief that goes with it, as the current folder."""
    monkeypatch.chdir(tmp_path)
    field_on(world()).to_netcdf("in.nc")
    relief_on(world()).to_netcdf("relief.nc")
    return tmp_path


def python_m(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "downscale", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment)


def test_apply_then_check(here):
    said = command("apply", "in.nc", "out.nc", "--factor", 2)
    assert (said.status, said.err) == (0, "")
    assert "ConservationReport: passed" in said.out
    assert said.out.endswith("wrote out.nc\n")
    checked = command("check", "in.nc", "out.nc")
    assert (checked.status, checked.err) == (0, "")
    assert "passed" in checked.out
    fine = downscale.open_dataset("out.nc", chunks=None)
    assert same_bits(fine.tas, xr.open_dataset("in.nc").downscale(2).tas)


def test_apply_takes_what_the_function_takes(here):
    said = command(
        "apply", "in.nc", "out.nc", "--factor", "lat:2,lon:2", "--method", "bilinear", "--orog", "relief.nc",
        "--lapse-rate", "-0.0065", "--bounds", "200:", "--chunks", "time:1,lat:5", "--complevel", "0",
        "--device", "cpu", "--vars", "tas",
    )  # fmt: skip
    assert said.status == 0, said.err
    fine = downscale.open_dataset("out.nc", chunks=None)
    options: dict[str, Any] = {"orog": relief_on(world()), "lapse_rate": -0.0065, "bounds": (200, None)}
    assert same_bits(fine.tas, xr.open_dataset("in.nc").downscale(2, "bilinear", **options).tas)
    assert "method=bilinear" in fine.attrs["history"]
    with netCDF4.Dataset("out.nc") as file:
        assert file["tas"].filters()["complevel"] == 0


def test_apply_without_conservation(here):
    said = command("apply", "in.nc", "out.nc", "--factor", 2, "--method", "bicubic", "--conserve", "none")
    assert said.status == 0
    assert said.out == "wrote out.nc\n"
    assert command("check", "in.nc", "out.nc").status == 1
    said = command("apply", "in.nc", "total.nc", "--factor", 2, "--method", "bicubic", "--conserve", "total")
    assert said.status == 0
    assert command("check", "in.nc", "total.nc", "--law", "total").status == 0


def test_existing_outputs_are_replaced_on_request_only(here):
    assert command("apply", "in.nc", "out.nc", "--factor", 2).status == 0
    before = Path("out.nc").read_bytes()
    said = command("apply", "in.nc", "out.nc", "--factor", 4)
    assert said.status == 2
    assert "expected a new file, received out.nc that exists; pass --overwrite" in said.complaint
    assert Path("out.nc").read_bytes() == before
    assert command("apply", "in.nc", "out.nc", "--factor", 4, "--overwrite").status == 0
    assert downscale.open_dataset("out.nc").sizes["lat"] == 48


def test_a_dry_run_writes_nothing(here):
    said = command("apply", "in.nc", "out.nc", "--factor", 2, "--dry-run")
    assert said.status == 0
    assert said.out.startswith("Plan\n")
    assert "3 x 12 x 16 -> 3 x 24 x 32 float64" in said.out
    assert sorted(os.listdir()) == ["in.nc", "relief.nc"]


def test_a_planted_leak_is_found_and_located(here):
    assert command("apply", "in.nc", "out.nc", "--factor", 2).status == 0
    with netCDF4.Dataset("out.nc", "a") as file:
        file["tas"][2, 4, 6] *= 1 + 1e-4
    said = command("check", "in.nc", "out.nc")
    assert said.status == 1
    assert "FAILED" in said.out
    assert "time=2000-01-03 00:00:00, lat=-52.5, lon=78.75" in said.out
    facts = json.loads(command("check", "in.nc", "out.nc", "--json").out)
    assert facts["passed"] is False
    assert facts["variables"]["tas"]["where_relative"] == {"time": "2000-01-03 00:00:00", "lat": -52.5, "lon": 78.75}
    assert command("check", "in.nc", "out.nc", "--tolerance", "1e-3").status == 0
    assert command("check", "in.nc", "out.nc", "--vars", "tas", "--json").status == 1


def test_json_of_a_lawful_file(here):
    command("apply", "in.nc", "out.nc", "--factor", 2)
    said = command("check", "in.nc", "out.nc", "--json")
    assert said.status == 0
    assert json.loads(said.out)["passed"] is True


def test_a_run_whose_law_is_broken_ends_with_one(here, monkeypatch):
    honest = block_run.downscale_request
    monkeypatch.setattr(block_run, "downscale_request", lambda *a, **k: honest(*a, **k) * 1.001)
    said = command("apply", "in.nc", "out.nc", "--factor", 2)
    assert said.status == 1
    assert "tas: expected the cell law within 1e-12, received a largest relative error of 0.000999" in said.complaint
    assert not Path("out.nc").exists()


def test_run_a_recipe(here):
    content = {
        "title": "x2", "input": {"path": "in.nc"}, "downscale": {"factor": 2}, "statics": {"orog": "relief.nc"},
        "terrain": {"lapse_rate": -0.0065, "penalty": {"base_gradient": 1e-6, "iterations": 2}},
        "output": {"path": "out.nc", "report": "r.html"},
    }  # fmt: skip
    Path("r.yml").write_text(yaml.safe_dump(content))
    assert command("run", "r.yml", "--dry-run").status == 0
    assert not Path("out.nc").exists()
    said = command("run", "r.yml")
    assert said.status == 0, said.err
    assert "tas: terrain-gradient penalty" in said.out
    for name in ("out.nc", "r.html", "r.json"):
        assert f"wrote {name}" in said.out
        assert Path(name).exists()
    assert command("run", "r.yml").status == 2
    assert command("run", "r.yml", "--overwrite").status == 0


def test_the_demo_in_its_own_process(tmp_path):
    done = python_m("demo", "--out", "d", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert sorted(os.listdir(tmp_path / "d")) == [
        "report.html", "report.json", "tas_north_america_x4.nc", "tas_north_america_x4.png",
        "tas_north_america_x4_learned.nc", "tas_north_america_x4_learned.png",
    ]  # fmt: skip
    for name in ("tas_north_america_x4.nc", "tas_north_america_x4_learned.nc"):
        assert command("check", "sample:north_america", tmp_path / "d" / name).status == 0
    facts = json.loads((tmp_path / "d" / "report.json").read_text())
    for side in facts["side_by_side"]:
        assert side["cell_error"] <= 1e-6
        # Both add what is colder where relief is higher, and both help one scale further up.
        assert side["per_km"] < -1
        assert side["coarser_ratio"] < 1
        assert f"{side['detail']:.3g}" in done.stdout
    page = (tmp_path / "d" / "report.html").read_text()
    assert page.count("<img") == 5
    assert "is no proof of skill" in page


def test_one_line_in_its_own_process(tmp_path):
    done = python_m("apply", "no.nc", "out.nc", "--factor", "4", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "downscale: expected an existing file, received no.nc; check the path\n"
    assert os.listdir(tmp_path) == []


def test_info_names_versions_devices_and_options():
    said = command("info")
    assert said.status == 0
    facts = dict(line.split("  ", 1) for line in said.out.splitlines())
    assert facts["downscale"].strip() == downscale.__version__
    assert facts["option check"].strip() == "raise"
    assert "cpu" in facts["devices"]
    assert {"python", "numpy", "xarray", "dask", "torch", "netCDF4"} <= set(facts)


def test_help():
    said = command("--help")
    assert said.status == 0
    for name in ("demo", "run", "apply", "check", "info"):
        assert name in said.out
        assert command(name, "--help").status == 0
    nothing = command()
    assert nothing.status == 2
    assert "Usage" in nothing.err
    assert len(nothing.err.splitlines()) > 5


@pytest.mark.parametrize("word", ["frobnicate", "--frob"])
def test_unknown_commands_and_options(here, word):
    said = command(word)
    assert said.status == 2
    assert word in said.complaint
    said = command("apply", "in.nc", "out.nc", "--factor", 2, "--frob")
    assert said.status == 2
    assert "No such option: --frob" in said.complaint
    assert command("apply", "in.nc").complaint == "downscale: Missing argument 'OUT.nc'."


def test_warnings_are_one_line(here):
    ds = rain_on(region())
    ds["pr"][0, 3, 4] = -1.0
    ds.to_netcdf("wet.nc")
    said = command("apply", "wet.nc", "out.nc", "--factor", 2)
    assert said.status == 0
    assert "downscale: warning: pr: expected coarse values within the bounds [0, none], received -1" in said.err
    assert all(line.startswith("downscale: warning: ") for line in said.err.splitlines())


def test_an_interrupted_run_says_so(here, monkeypatch):
    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(block_run, "downscale_request", stop)
    said = command("apply", "in.nc", "out.nc", "--factor", 2)
    assert said.status == 130
    assert said.complaint == "downscale: interrupted; nothing incomplete was left behind"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (MemoryError("too much"), 1, "MemoryError: too much"),
        (RuntimeError("NetCDF: HDF error"), 2, "expected readable data, received NetCDF: HDF error; a file is damaged"),
        (ZeroDivisionError("a\nbug"), 1, "internal error: ZeroDivisionError: a bug; please report it"),
    ],
)
def test_no_traceback_whatever_happens(here, monkeypatch, error, status, words):
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(block_run, "downscale_request", fail)
    monkeypatch.setattr(sys, "orig_argv", ["downscale"])
    said = command("apply", "in.nc", "out.nc", "--factor", 2)
    assert said.status == status
    assert words in said.complaint


def test_damaged_data_are_the_inputs_fault(here):
    ds = field_on(region())
    ds.to_netcdf("zipped.nc", encoding={"tas": {"zlib": True, "chunksizes": (1, 12, 16)}})
    content = Path("zipped.nc").read_bytes()
    deflated = content.index(b"\x78\x5e") if b"\x78\x5e" in content else content.index(b"\x78")
    Path("damaged.nc").write_bytes(content[: deflated + 40] + bytes(200) + content[deflated + 240 :])
    said = command("apply", "damaged.nc", "out.nc", "--factor", 2)
    assert said.status == 2
    assert "a file is damaged, get it again" in said.complaint
    assert not Path("out.nc").exists()


def test_small_grammars():
    assert parse_pairs("4", "factor") == 4
    assert parse_pairs(" lat : 4 ,lon:2", "factor") == {"lat": 4, "lon": 2}
    for text in ("x", "2.5", "lat:x", "lat:2,", ":2", "lat:2,3", ""):
        with pytest.raises(OptionError, match="expected factor"):
            parse_pairs(text, "factor")
    assert parse_names("tas, pr") == ["tas", "pr"]
    assert parse_names(None) is parse_names("") is None
    assert parse_bounds("auto") == "auto"
    assert parse_bounds("none") is None
    assert [parse_bounds(text) for text in ("0:1", ":1", "0:", ":")] == [(0, 1), (None, 1), (0, None), (None, None)]
    for text in ("x", "0", "0:1:2", "a:b", ""):
        with pytest.raises(OptionError, match=r"expected bounds as auto, none, LOW:HIGH or NAME=LOW:HIGH,\.\.\."):
            parse_bounds(text)
    assert np.isfinite(parse_bounds("-1e3:1e3")).all()
