"""Zarr stores written in blocks: the values of NetCDF blocks, resumed runs with the same bytes, and later periods."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from command import Said, command
from run_process import contents, ended, killed, raw, started, when
from sample_fields import field_on, world

import downscale
from downscale.io.encoding import REPORT_ATTR
from downscale.runs.manifest import read_checksum

pytest.importorskip("zarr", reason="the extra zarr is not installed")

FOLDER = ".out.zarr.blocks"
APPLY = ("apply", "in.nc", "out.zarr", "--factor", 2)
METADATA = {".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 20 daily maps, as the current folder."""
    monkeypatch.chdir(tmp_path)
    field_on(world(), 20, missing=0.1).to_netcdf("in.nc", unlimited_dims=["time"])
    return tmp_path


def good(said: Said) -> Said:
    assert said.status == 0, said.err
    return said


def stored(path: str | Path) -> dict[str, bytes]:
    """The stored values of all variables of a store, and their types, as ``raw`` returns them for a file."""
    with xr.open_zarr(path, decode_cf=False, consolidated=True, chunks=None) as ds:
        return {str(name): str(v.dtype).encode() + np.asarray(v.values).tobytes() for name, v in ds.variables.items()}


def chunks(path: str | Path) -> dict[str, str]:
    """The checksums of all chunk files of a store."""
    files = [file for file in Path(path).rglob("*") if file.is_file() and file.name not in METADATA]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def top() -> set[str]:
    """The names in the current folder."""
    return set(os.listdir())


@pytest.mark.parametrize(("blocks", "zarr_format"), [(7, 2), (7, 3), (50, 3), ("1 month", 2)])
def test_a_store_has_the_values_of_the_file(here, blocks, zarr_format):
    good(command("apply", "in.nc", "out.nc", "--factor", 2, "--blocks", blocks))
    said = good(command(*APPLY, "--blocks", blocks, "--zarr-format", zarr_format))
    assert "ConservationReport: passed" in said.out
    assert said.out.endswith("wrote out.zarr\n")
    assert top() == {"in.nc", "out.nc", ".out.nc.manifest", "out.zarr", ".out.zarr.manifest"}
    assert stored("out.zarr") == raw(Path("out.nc"))
    assert (here / "out.zarr" / "zarr.json").exists() == (zarr_format == 3)
    one, other = xr.open_zarr("out.zarr"), xr.open_dataset("out.nc")
    assert one.attrs.keys() == other.attrs.keys()
    assert one.attrs["time_coverage_end"] == other.attrs["time_coverage_end"]
    found, expected = (json.loads(ds.attrs[REPORT_ATTR])["variables"]["tas"] for ds in (one, other))
    assert found == expected
    assert command("check", "in.nc", "out.zarr").status == 0


def test_the_chunks_are_those_of_one_run(here):
    """Blocks of four steps; no chunk is shared, and none is compressed again."""
    good(command(*APPLY, "--blocks", 4))
    first = chunks("out.zarr")
    assert {name for name in first if name.startswith("tas/")} == {f"tas/{i}.0.0" for i in range(5)}
    good(command("apply", "in.nc", "whole.zarr", "--factor", 2))
    assert stored("whole.zarr") == stored("out.zarr")
    good(command(*APPLY, "--blocks", 4, "--overwrite"))
    assert chunks("out.zarr") == first
    with xr.open_zarr("out.zarr") as ds:
        assert ds.time.encoding["chunks"] == (20,)


def test_files_of_chunks_are_the_own_of_a_store(here):
    """Links to the files of blocks are gone in the end."""
    good(command(*APPLY, "--blocks", 4))
    assert {file.stat().st_nlink for file in (here / "out.zarr").rglob("*") if file.is_file()} == {1}


def test_blocks_apart_are_stores_by_date(here):
    good(command(*APPLY, "--blocks", 10, "--no-merge"))
    names = sorted(path.name for path in here.glob("out_*.zarr"))
    assert names == ["out_20000101-20000110.zarr", "out_20000111-20000120.zarr"]
    good(command("apply", "in.nc", "out.nc", "--factor", 2))
    parts = [xr.open_zarr(name).tas for name in names]
    np.testing.assert_array_equal(np.concatenate(parts), xr.open_dataset("out.nc").tas)


def test_blocks_of_an_array_of_jobs(here):
    """Each block by itself and in any order; the last call only merges."""
    how = ("--blocks", 7, "--zarr-format", 3)
    good(command(*APPLY, *how))
    expected = chunks("out.zarr")
    shutil.rmtree("out.zarr")
    Path(".out.zarr.manifest").unlink()
    for block in (2, 0, 1):
        good(command(*APPLY, *how, "--resume", "--block", block))
        assert not Path("out.zarr").exists()
    said = good(command(*APPLY, *how, "--resume"))
    assert "kept 3 of 3 blocks of an earlier run, which verify" in said.out
    assert chunks("out.zarr") == expected
    assert top() == {"in.nc", "out.zarr", ".out.zarr.manifest"}
    assert "kept 3 of 3 blocks" in good(command(*APPLY, *how, "--resume")).out


@pytest.mark.parametrize("damage", ["flip", "remove", "attributes"])
def test_a_damaged_block_is_computed_again(here, damage):
    good(command(*APPLY, "--blocks", 7))
    expected = chunks("out.zarr")
    shutil.rmtree("out.zarr")
    for block in range(2):
        good(command(*APPLY, "--blocks", 7, "--block", block))
    folder = sorted((here / FOLDER).glob("out_*.zarr"))[1]
    file = folder / "tas" / "0.0.0"
    content = file.read_bytes()
    if damage == "flip":
        file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "remove":
        file.unlink()
    else:
        (folder / "tas" / ".zattrs").write_text("{}")
    said = good(command(*APPLY, "--blocks", 7, "--resume"))
    assert "kept 1 of 3 blocks" in said.out
    assert chunks("out.zarr") == expected


def test_a_changed_store_is_computed_again(here):
    good(command(*APPLY, "--blocks", 7))
    expected = chunks("out.zarr")
    file = here / "out.zarr" / "tas" / "1.0.0"
    file.write_bytes(b"\0" * file.stat().st_size)
    said = good(command(*APPLY, "--blocks", 7, "--resume"))
    assert "kept" not in said.out
    assert chunks("out.zarr") == expected


def test_stores_of_others_are_kept(here):
    xr.Dataset({"x": ("t", [1.0])}).to_zarr("out.zarr", zarr_format=2)
    before = chunks("out.zarr")
    assert "that exists; pass --overwrite" in command(*APPLY, "--blocks", 7).complaint
    assert "expected an output of an earlier run, received out.zarr" in (
        command(*APPLY, "--blocks", 7, "--resume").complaint
    )
    assert chunks("out.zarr") == before
    good(command(*APPLY, "--blocks", 7, "--overwrite"))
    assert top() == {"in.nc", "out.zarr", ".out.zarr.manifest"}


def test_a_check_that_fails_leaves_nothing(here):
    said = command(*APPLY, "--blocks", 7, "--packing", 4)
    assert said.status != 0
    assert "tas: expected the cell law within" in said.complaint
    assert top() == {"in.nc"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 2, 5])
def test_a_killed_run_is_resumed_to_the_same_bytes(here, moment):
    field_on(world(), 240, missing=0.05).to_netcdf("in.nc")
    line = ("apply", "in.nc", "out.zarr", "--factor", 8, "--blocks", 40)
    good(command("apply", "in.nc", "quiet.zarr", *line[3:]))
    process = started(here, *line)
    assert when(process, lambda: len(list(here.glob(f"{FOLDER}/.*.manifest"))) >= moment)
    status, _, _ = killed(process)
    assert status == -signal.SIGKILL
    assert not (here / "out.zarr").exists()
    said = good(command(*line, "--resume"))
    assert "of 6 blocks of an earlier run" in said.out
    assert chunks("out.zarr") == chunks("quiet.zarr")
    assert top() == {"in.nc", "out.zarr", ".out.zarr.manifest", "quiet.zarr", ".quiet.zarr.manifest"}


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes(here):
    good(command(*APPLY, "--blocks", 4))
    expected = chunks("out.zarr")
    status, _, err = ended(started(here, *APPLY, "--blocks", 4, "--overwrite", "--cluster", "local", "--workers", 2))
    assert status == 0, err
    assert chunks("out.zarr") == expected
    assert top() == {"in.nc", "out.zarr", ".out.zarr.manifest"}


# Appending.


def periods(size: int = 20, first: int = 8, **options: Any) -> None:
    """Files of a whole record and of two periods of it."""
    ds = field_on(world(), size, missing=0.1)
    ds.to_netcdf("in.nc")
    early, late = ds.isel(time=slice(first)), ds.isel(time=slice(first, None))
    early.to_netcdf("early.nc", encoding={"time": {"units": "days since 2000-01-01"}})
    late.to_netcdf("late.nc", encoding={"time": options or {"units": "days since 2000-01-01"}})


def append(source: str, *options: Any) -> Said:
    return command("apply", source, "out.zarr", "--factor", 2, "--append", *options)


@pytest.mark.parametrize(("first", "zarr_format"), [(8, 3), (10, 2)])
def test_a_later_period_is_appended(here, first, zarr_format):
    """Also where a chunk would hold steps of both periods, and where the periods count their times otherwise."""
    periods(20, first, units="hours since 1999-12-01")
    good(command("apply", "in.nc", "whole.zarr", "--factor", 2))
    how = ("--blocks", 4, "--zarr-format", zarr_format)
    assert good(append("early.nc", *how)).out.endswith("wrote out.zarr\n")
    old = chunks("out.zarr")
    good(append("late.nc", *how))
    with xr.open_zarr("out.zarr") as ds, xr.open_zarr("whole.zarr") as whole:
        xr.testing.assert_equal(ds.load(), whole.load())
        assert ds.attrs["time_coverage_end"] == whole.attrs["time_coverage_end"]
        assert ds.tas.encoding["chunks"][0] == 4
        assert ds.time.encoding["units"] == "days since 2000-01-01"
        found, expected = (json.loads(s.attrs[REPORT_ATTR])["variables"]["tas"] for s in (ds, whole))
        assert found == expected
    new = chunks("out.zarr")
    prefix = "tas/c/" if zarr_format == 3 else "tas/"
    whole_chunks = [name for name in old if name.startswith(prefix) and int(name[len(prefix)]) < first // 4]
    assert whole_chunks
    assert all(new[name] == old[name] for name in whole_chunks)
    assert command("check", "in.nc", "out.zarr").status == 0
    assert top() == {"in.nc", "early.nc", "late.nc", "out.zarr", ".out.zarr.manifest", "whole.zarr"}


def test_an_appended_period_is_not_appended_again(here):
    periods()
    good(append("early.nc"))
    good(append("late.nc"))
    before = read_checksum(Path("out.zarr"))
    assert "kept 1 of 1 block of an earlier run" in good(append("late.nc", "--resume")).out
    assert "expected times after 2000-01-20" in append("late.nc").complaint
    assert "expected times after 2000-01-20" in append("early.nc", "--resume").complaint
    assert read_checksum(Path("out.zarr")) == before
    assert top() == {"in.nc", "early.nc", "late.nc", "out.zarr", ".out.zarr.manifest"}


def test_an_append_killed_before_its_last_renaming_is_resumed(here):
    """The manifest of the new store lies beside the old one."""
    periods()
    good(append("early.nc"))
    shutil.copytree("out.zarr", "old.zarr")
    good(append("late.nc", "--blocks", 4))
    expected = chunks("out.zarr")
    shutil.rmtree("out.zarr")
    Path("old.zarr").rename("out.zarr")
    good(append("late.nc", "--blocks", 4, "--resume"))
    assert chunks("out.zarr") == expected
    history = xr.open_zarr("out.zarr").attrs["history"].splitlines()
    assert len(history) == 2
    assert all(" downscale " in line for line in history)


@pytest.mark.slow
def test_a_killed_append_leaves_the_old_store(here):
    periods(240, 8)
    good(append("early.nc"))
    old = stored("out.zarr")
    line = ("apply", "late.nc", "out.zarr", "--factor", 2, "--append", "--blocks", 8)
    process = started(here, *line)
    assert when(process, lambda: len(list(here.glob(f"{FOLDER}/.*.manifest"))) >= 2)
    killed(process)
    if stored("out.zarr") != old:
        pytest.skip("the run ended before it was killed")
    good(command(*line, "--resume"))
    good(command("apply", "in.nc", "whole.zarr", "--factor", 2))
    xr.testing.assert_equal(xr.open_zarr("out.zarr").load(), xr.open_zarr("whole.zarr").load())
    assert not Path(FOLDER).exists()


def test_what_cannot_be_appended(here):
    periods()
    good(append("early.nc"))
    before = contents(here), read_checksum(Path("out.zarr"))
    ds = xr.open_dataset("late.nc").load()
    ds.isel(lat=slice(8)).to_netcdf("part.nc")
    ds.assign_coords(lon=ds.lon + 1).assign(lon_bnds=(("lon", "bnds"), ds.lon_bnds.values + 1)).to_netcdf("moved.nc")
    ds.rename(tas="ts").to_netcdf("other.nc")
    cut = ds.copy()
    cut.tas.attrs["units"] = "degC"
    cut.to_netcdf("units.nc")
    for name, words in {
        "part.nc": "expected the type and grid of out.zarr",
        "moved.nc": "expected the values of out.zarr",
        "other.nc": "expected the variables",
        "units.nc": "tas: expected units 'K' as in out.zarr, received 'degC'",
        "early.nc": "expected times after 2000-01-08",
    }.items():
        said = append(name)
        assert words in said.complaint, (name, said.err)
        shutil.rmtree(FOLDER, ignore_errors=True)
        Path(name).unlink() if name != "early.nc" else None
    assert (contents(here), read_checksum(Path("out.zarr"))) == before
    late = ("apply", "late.nc")
    for line, words in [
        ((*late, "out.nc", "--append"), "expected a Zarr store to append to, received out.nc"),
        ((*late, "out.zarr", "--append", "--no-merge"), "expected append or blocks that stay apart"),
        ((*late, "out.zarr", "--append", "--overwrite"), "expected append or overwrite, received both"),
    ]:
        assert words in command(*line, "--factor", 2).complaint
    assert (contents(here), read_checksum(Path("out.zarr"))) == before


def test_a_store_changed_since_is_not_extended(here):
    periods()
    good(append("early.nc"))
    file = Path("out.zarr/tas/0.0.0")
    content = file.read_bytes()
    file.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    assert "expected out.zarr as it was checked, received other bytes" in append("late.nc").complaint


def test_a_format_is_two_or_three(here):
    with pytest.raises(downscale.errors.OptionError, match="expected zarr_format 2 or 3, received 4"):
        downscale.to_zarr(field_on(world()), "a.zarr", zarr_format=4)
