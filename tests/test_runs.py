"""Runs in blocks in this process: the values of a run in one, seals that hold or are made anew, merged files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import yaml
from command import Said, command
from hypothesis import given
from hypothesis import strategies as st
from run_process import contents, raw
from sample_fields import field_on, rain_on, region, relief_on, world

import downscale
from downscale.errors import InputError, OutputError
from downscale.io import merge
from downscale.io.merge import merge_files
from downscale.runs import block_run, manifest, pipeline, single
from downscale.runs.blocks import plan_blocks
from downscale.runs.recipe import load_recipe, parse_recipe

FOLDER = ".out.nc.blocks"
APPLY = ("apply", "in.nc", "out.nc", "--factor", 2)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 20 daily maps, as the current folder."""
    monkeypatch.chdir(tmp_path)
    field_on(world(), 20, missing=0.1).to_netcdf("in.nc", unlimited_dims=["time"])
    return tmp_path


def whole(*options: Any) -> dict[str, bytes]:
    """The values of a run in one."""
    assert command("apply", "in.nc", "whole.nc", "--factor", 2, "--overwrite", *options).status == 0
    return raw(Path("whole.nc"))


def good(said: Said) -> Said:
    assert said.status == 0, said.err
    return said


@pytest.mark.parametrize("blocks", [1, 7, 20, 50, "1 month", "3 days"])
def test_any_cutting_gives_the_same_bytes(here, blocks):
    said = good(command(*APPLY, "--blocks", blocks))
    assert "ConservationReport: passed" in said.out
    assert said.out.endswith("wrote out.nc\n")
    assert contents(here) == {"in.nc", "out.nc", ".out.nc.manifest"}
    assert raw(Path("out.nc")) == whole()
    assert good(command("check", "in.nc", "out.nc")).err == ""
    one, other = (xr.open_dataset(name, decode_times=False) for name in ("out.nc", "whole.nc"))
    with one, other:
        said = [{k: v for k, v in ds.attrs.items() if k not in ("history", "date_created")} for ds in (one, other)]
        assert said[0] == said[1]
        assert one.tas.attrs == other.tas.attrs
        assert one.encoding["unlimited_dims"] == other.encoding["unlimited_dims"] == {"time"}


@pytest.mark.parametrize("packing", [[], ["--packing", "9", "--tolerance", "0.01"], ["--complevel", "0"]])
def test_any_storage_is_merged_as_it_is(here, packing):
    good(command(*APPLY, "--blocks", 6, *packing))
    assert raw(Path("out.nc")) == whole(*packing)
    with netCDF4.Dataset("out.nc") as one, netCDF4.Dataset("whole.nc") as other:
        assert one.data_model == other.data_model
        assert one["tas"].filters() == other["tas"].filters()
        assert json.loads(one.conservation_certificate) == json.loads(other.conservation_certificate)


def test_codes_times_and_what_has_no_time_are_merged(here):
    ds = field_on(region(), 20, missing=0.1)
    codes = np.arange(20 * 12 * 16, dtype="i2").reshape(20, 12, 16) % 7
    flags = {"flag_values": np.arange(7, dtype="i2"), "flag_meanings": "a b c d e f g"}
    ds["code"] = (("time", "lat", "lon"), codes, flags)
    ds["still"] = ds.tas[3].drop_vars("time")
    ds["label"] = ("time", [f"day {i}" for i in range(20)])
    ds["number"] = ("time", np.arange(20.0))
    ds.to_netcdf("in.nc")
    good(command(*APPLY, "--blocks", 6))
    assert raw(Path("out.nc")) == whole()


def test_blocks_left_apart_are_named_by_their_dates(here):
    said = good(command(*APPLY, "--blocks", 7, "--no-merge"))
    names = ["out_20000101-20000107.nc", "out_20000108-20000114.nc", "out_20000115-20000120.nc"]
    assert [line for line in said.out.splitlines() if line.startswith("wrote")] == [f"wrote {name}" for name in names]
    assert contents(here) == {"in.nc", *names, *(f".{name}.manifest" for name in names)}
    made = downscale.open_dataset("out_*.nc")
    assert downscale.check_conservation(xr.open_dataset("in.nc"), made).passed
    for name in names:
        with netCDF4.Dataset(name) as file:
            assert json.loads(file.conservation_certificate)["passed"] is True
    again = command(*APPLY, "--blocks", 7, "--no-merge")
    assert again.status == 2
    assert "exists" in again.complaint
    good(command(*APPLY, "--blocks", 7, "--no-merge", "--overwrite"))


def test_the_report_of_blocks_is_that_of_the_whole(here):
    content = {"input": {"path": "in.nc"}, "downscale": {"factor": 2}, "output": {"path": "w.nc"}}
    one = pipeline.run(parse_recipe(content)).conservation.to_dict()
    content["output"] = {"path": "out.nc", "blocks": 7, "merge": False}
    assert pipeline.run(parse_recipe(content)).conservation.to_dict() == one
    outcome = pipeline.run(parse_recipe(content), resume=True)
    assert (outcome.kept, outcome.blocks) == (3, 3)
    assert outcome.conservation.to_dict() == json.loads(json.dumps(one, default=str))


def test_chunks_are_copied_as_they_are_stored(here):
    """No byte of a stored chunk is made anew: those of the merged file are those of the blocks."""
    field_on(world(36, 72), 40, dtype="float32").to_netcdf("in.nc")
    good(command("apply", "in.nc", "b.nc", "--factor", 4, "--blocks", 10, "--no-merge"))
    good(command("apply", "in.nc", "out.nc", "--factor", 4, "--blocks", 10))
    parts = sorted(Path().glob("b_*.nc"))
    assert len(parts) == 4
    merge_files(parts, Path("m.nc"), "time")
    assert raw(Path("m.nc"))["tas"] == raw(Path("out.nc"))["tas"]

    def chunks(path: Path) -> list[bytes]:
        with h5py.File(path) as file:
            own = file["tas"].id
            return [own.read_direct_chunk(own.get_chunk_info(i).chunk_offset)[1] for i in range(own.get_num_chunks())]

    assert chunks(Path("m.nc")) == [chunk for part in parts for chunk in chunks(part)]


def test_files_that_are_no_pieces_of_one_record(here):
    good(command(*APPLY, "--blocks", 10, "--no-merge"))
    good(command("apply", "in.nc", "other.nc", "--factor", 4, "--blocks", 10, "--no-merge"))
    parts = [next(Path().glob("out_*.nc")), next(Path().glob("other_*.nc"))]
    with pytest.raises(InputError, match=r"expected files of one making, received other_.*; make them anew"):
        merge_files(parts, Path("m.nc"), "time")
    with pytest.raises(InputError, match="expected files with the dimension 'level', received none in out_"):
        merge_files(parts, Path("m.nc"), "level")
    assert not list(Path().glob("*m.nc*"))


# Seals.


@pytest.fixture
def apart(here: Path) -> dict[str, int]:
    """Three blocks with their times of change."""
    good(command(*APPLY, "--blocks", 7, "--no-merge"))
    return changes()


def changes() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(Path().glob("out_*.nc"))}


def resumed(before: dict[str, int], *others: Any) -> list[int]:
    """Which blocks a run with --resume makes anew; all values are right in the end."""
    good(command(*APPLY, "--blocks", 7, "--no-merge", "--resume", *others))
    after = changes()
    assert set(after) == set(before)
    values = b"".join(raw(Path(name))["tas"].removeprefix(b"float64") for name in after)
    assert values == whole(*others)["tas"].removeprefix(b"float64")
    for name in after:
        assert manifest.manifest_path(Path(name)).exists()
    return [i for i, name in enumerate(sorted(after)) if after[name] != before[name]]


def test_what_verifies_is_kept(apart):
    assert resumed(apart) == []


@pytest.mark.parametrize("place", [100, -100, "middle"])
def test_one_byte(apart, place):
    path = Path(sorted(apart)[1])
    content = bytearray(path.read_bytes())
    place = len(content) // 2 if place == "middle" else place
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, apart[path.name]))
    assert resumed(apart) == [1]


def test_a_truncated_block(apart):
    path = Path(sorted(apart)[2])
    path.write_bytes(path.read_bytes()[:-1])
    assert resumed(apart) == [2]


def test_a_block_that_is_gone(apart):
    Path(sorted(apart)[0]).unlink()
    assert resumed(apart) == [0]


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "null", '{"format": 1}', "\x00"])
def test_a_block_without_a_seal_that_says_so(apart, text):
    seal = manifest.manifest_path(Path(sorted(apart)[1]))
    seal.unlink()
    if text is not None:
        seal.write_text(text)
    assert resumed(apart) == [1]


def test_a_block_under_the_name_of_another(apart):
    one, other = (Path(name) for name in sorted(apart)[:2])
    other.write_bytes(one.read_bytes())
    manifest.manifest_path(other).write_bytes(manifest.manifest_path(one).read_bytes())
    assert resumed(apart) == [1]


def test_blocks_of_another_request(apart):
    assert resumed(apart, "--bounds", "0:") == [0, 1, 2]
    assert resumed(changes(), "--complevel", "3") == [0, 1, 2]


def test_blocks_of_another_version(apart, monkeypatch):
    monkeypatch.setattr(manifest, "__version__", "0.0.0")
    assert resumed(apart) == [0, 1, 2]


def test_blocks_of_an_input_that_has_changed(apart):
    os.utime("in.nc", ns=(0, 0))
    assert resumed(apart) == [0, 1, 2]


def test_titles_and_chunks_are_no_other_request(apart):
    assert resumed(apart, "--chunks", "time:3") == []


@given(st.data())
def test_no_other_words_have_the_same_fingerprint(data):
    base = {"input": {"path": "a.nc"}, "downscale": {"factor": 2}, "output": {"path": "b.nc"}}
    changed = [
        {**base, "downscale": {"factor": 3}}, {**base, "downscale": {"factor": 2, "method": "bilinear"}},
        {**base, "input": {"path": "c.nc"}}, {**base, "validate": {"tolerance": 1e-3}},
        {**base, "terrain": {"lapse_rate": -0.006}}, {**base, "output": {"path": "b.nc", "packing": 9}},
        {**base, "input": {"path": "a.nc", "variables": ["tas"]}}, {**base, "statics": {"orog": "z.nc"}},
    ]  # fmt: skip
    same = [
        {**base, "title": "x", "description": "y"}, {**base, "output": {"path": "c.nc", "blocks": 3, "merge": False}},
        {**base, "output": {"path": "b.nc", "map": "m.png", "report": "r.html", "overwrite": True}},
        {**base, "dask": {"profiles": {"x": {"scheduler_address": "tcp://a:1"}}}},
    ]  # fmt: skip
    print_of = lambda content: manifest.fingerprint(parse_recipe(content), [])  # noqa: E731
    assert print_of(data.draw(st.sampled_from(changed))) != print_of(base)
    assert print_of(data.draw(st.sampled_from(same))) == print_of(base)


def test_the_statics_and_masks_are_inputs_too(here):
    relief_on(world()).to_netcdf("relief.nc")
    options = ("--blocks", 10, "--orog", "relief.nc", "--lapse-rate", "-0.006", "--resume")
    good(command(*APPLY, *options))
    before = Path("out.nc").stat().st_mtime_ns
    good(command(*APPLY, *options))
    assert Path("out.nc").stat().st_mtime_ns == before
    relief_on(world(), seed=2).to_netcdf("relief.nc")
    good(command(*APPLY, *options))
    assert Path("out.nc").stat().st_mtime_ns != before


# Runs that are gone on with.


def test_a_job_array_and_its_last_step(here):
    """Blocks in any order, each by a run of its own; the last run verifies, merges and reports."""
    content = {
        "input": {"path": "in.nc"}, "downscale": {"factor": 2},
        "output": {"path": "out.nc", "blocks": 7, "report": "r.html", "map": "m.png"},
    }  # fmt: skip
    Path("r.yml").write_text(yaml.safe_dump(content))
    said = good(command("run", "r.yml", "--dry-run"))
    assert "3 blocks of up to 7 steps along time (--block 0 to 2), then merged" in said.out
    assert contents(here) == {"in.nc", "r.yml"}
    for index in (2, 0):
        said = good(command("run", "r.yml", "--resume", "--block", index))
        assert said.out.splitlines()[-1].startswith(f"wrote {FOLDER}/out_")
    assert not Path("out.nc").exists()
    refused = command("run", "r.yml")
    assert refused.status == 2
    assert "expected no blocks of an earlier run, received" in refused.complaint
    assert "pass --resume to resume it or --overwrite to start again" in refused.complaint
    said = good(command("run", "r.yml", "--resume"))
    assert "kept 2 of 3 blocks of an earlier run, which verify" in said.out
    assert raw(Path("out.nc")) == whole()
    Path("whole.nc").unlink()
    assert contents(here) == {"in.nc", "r.yml", "out.nc", ".out.nc.manifest", "r.html", "r.json", "m.png"}
    before = Path("out.nc").stat().st_mtime_ns
    good(command("run", "r.yml", "--resume"))
    assert Path("out.nc").stat().st_mtime_ns == before
    assert command("run", "r.yml", "--block", 3, "--resume").complaint == (
        "downscale: expected a block from 0 to 2, received 3"
    )
    assert command("run", "r.yml", "--block", -1, "--resume").status == 2


def test_beginning_anew(here):
    good(command(*APPLY, "--blocks", 7, "--block", 1))
    path = next(Path(FOLDER).glob("out_*.nc"))
    before = path.stat().st_mtime_ns
    good(command(*APPLY, "--blocks", 7, "--block", 1, "--overwrite"))
    assert path.stat().st_mtime_ns != before
    good(command(*APPLY, "--blocks", 7, "--overwrite"))
    assert contents(here) == {"in.nc", "out.nc", ".out.nc.manifest"}
    assert command(*APPLY, "--blocks", 7).status == 2


def test_a_merged_file_that_was_changed_is_made_anew(here):
    good(command(*APPLY, "--blocks", 7))
    with netCDF4.Dataset("out.nc", "a") as file:
        file["tas"][0, 0, 0] += 1
    good(command(*APPLY, "--blocks", 7, "--resume"))
    assert raw(Path("out.nc")) == whole()


def test_a_plain_run_over_a_sealed_one_leaves_no_seal(here):
    good(command(*APPLY, "--blocks", 7))
    good(command(*APPLY, "--overwrite"))
    assert contents(here) == {"in.nc", "out.nc"}


def flip(path: Path) -> None:
    """Change the lowest bit of one stored value, which no conservation check would find."""
    with netCDF4.Dataset(path, "a") as file:
        file.set_auto_mask(False)
        values = file["tas"][0, 0, :1].view("u4") ^ 1
        file["tas"][0, 0, 0] = values.view("f4")[0]


def assert_damaged_block_is_found(monkeypatch, name: str, damage) -> None:
    """Check that a merge refuses the damaged second block in one line, and that ``--resume`` computes it again."""
    with monkeypatch.context() as patch:
        patch.setattr(block_run, name, damage)
        said = command(*APPLY, "--blocks", 7)
    assert said.status == 2
    assert "out_20000108-20000114.nc: expected what was written and checked, received other bytes" in said.complaint
    assert not Path("out.nc").exists()
    assert "kept 2 of 3 blocks" in good(command(*APPLY, "--blocks", 7, "--resume")).out
    assert raw(Path("out.nc")) == whole()


def test_a_block_damaged_before_the_merge_is_found(here, monkeypatch):
    merge_files = block_run.merge_files

    def damage(parts, *rest):
        flip(parts[1])
        return merge_files(parts, *rest)

    assert_damaged_block_is_found(monkeypatch, "merge_files", damage)


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "\x00"], ids=["missing", "empty", "cut", "list", "binary"])
def test_a_manifest_that_is_unreadable_at_the_merge_is_one_line(here, monkeypatch, text):
    """A block whose manifest is lost after it was computed counts as damaged, and is computed again."""
    read_checksum = block_run.read_checksum

    def damage(path):
        if path.name == "out_20000108-20000114.nc":
            entry = manifest.manifest_path(path)
            entry.unlink() if text is None else entry.write_text(text)
        return read_checksum(path)

    assert_damaged_block_is_found(monkeypatch, "read_checksum", damage)


@pytest.mark.parametrize("factor", [2, 40], ids=["values", "chunks"])
def test_damage_of_the_merged_file_is_found(here, monkeypatch, factor):
    flush = merge.flush

    def damage(path):
        flush(path)
        flip(path)

    monkeypatch.setattr(merge, "flush", damage)
    said = command("apply", "in.nc", "out.nc", "--factor", factor, "--blocks", 7)
    assert said.status == 2
    assert "tas: expected what was written and checked, received other values than those of out_" in said.complaint
    assert not Path("out.nc").exists()


def test_a_result_of_another_date_is_kept_on_resume(here):
    good(command(*APPLY, "--blocks", 7))
    os.utime("out.nc", (1, 1))
    assert "kept 3 of 3 blocks" in good(command(*APPLY, "--blocks", 7, "--resume")).out


def test_resume_alone_cuts_by_size(here):
    said = good(command(*APPLY, "--resume"))
    assert contents(here) == {"in.nc", "out.nc", ".out.nc.manifest"}
    assert said.err == ""
    assert "kept 1 of 1 block of" in good(command(*APPLY, "--resume")).out


def test_inputs_without_time_are_one_block(here):
    field_on(world(), 1).isel(time=0).drop_vars("time").to_netcdf("in.nc")
    good(command(*APPLY, "--blocks", "1 year", "--no-merge"))
    assert contents(here) == {"in.nc", "out.nc", ".out.nc.manifest"}


def test_steps_that_are_coupled_are_not_cut(here):
    field_on(world(), 20, cell_methods="time: mean").to_netcdf("in.nc")
    words = ("apply", "in.nc", "out.nc", "--factor", "time:2,lat:2,lon:2")
    said = command(*words, "--blocks", 5)
    assert said.status == 2
    assert "expected no blocks along 'time', whose steps a factor or target along it couples" in said.complaint
    good(command(*words, "--resume"))
    assert downscale.open_dataset("out.nc").sizes["time"] == 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--blocks", "often"), 'expected blocks as a number of steps or as "5 years", "1 month", received \'often\''),
        (("--blocks", 7, "--packing", "int16"), "expected packing in bits for blocks that are merged, received"),
        (("--cluster", "nowhere"), "expected a cluster among 'local', 'slurm', 'pbs', 'cuda' or an address"),
        (("--block", 5, "--blocks", 7), "expected a block from 0 to 2, received 5"),
    ],
)
def test_what_is_refused_before_any_work(here, options, words):
    said = command(*APPLY, *options)
    assert said.status == 2
    assert words in said.complaint
    assert contents(here) == {"in.nc"}


def test_ranges_of_single_blocks_are_good_apart(here):
    good(command(*APPLY, "--blocks", 7, "--no-merge", "--packing", "int16", "--tolerance", "1e-3"))
    assert len(list(Path().glob("out_*.nc"))) == 3


def test_a_broken_law_is_told_and_what_is_done_stays(here, monkeypatch):
    honest = block_run.downscale_request
    count = [0]

    def leaking(*arguments: Any, **options: Any) -> xr.Dataset:
        count[0] += 1
        return honest(*arguments, **options) * (1.001 if count[0] == 2 else 1)

    monkeypatch.setattr(block_run, "downscale_request", leaking)
    said = command(*APPLY, "--blocks", 7)
    assert said.status == 1
    assert "expected the cell law within" in said.complaint
    assert "1 of 3 blocks are done; run again with --resume once that is fixed" in said.complaint
    assert not list(here.rglob("*.part"))
    good(command(*APPLY, "--blocks", 7, "--resume"))


def test_rain_keeps_its_bounds_in_blocks(here):
    rain_on(world(), 20).to_netcdf("in.nc")
    good(command(*APPLY, "--blocks", 6))
    assert raw(Path("out.nc")) == whole()


def test_times_without_units_are_stored_alike_in_all_blocks(here):
    """The whole record needs hours, its first block would do with days."""
    times = np.array(["2000-01-01", "2000-01-02", "2000-01-03T06", "2000-01-04"], "M8[ns]")
    field_on(world(), 4).assign_coords(time=times).drop_encoding().to_netcdf("in.nc")
    good(command(*APPLY, "--blocks", 2))
    assert raw(Path("out.nc")) == whole()


def test_blocks_of_a_run_that_was_cut_otherwise_go_in_the_end(here):
    good(command(*APPLY, "--blocks", 7, "--block", 0))
    good(command(*APPLY, "--blocks", 5, "--resume"))
    assert contents(here) == {"in.nc", "out.nc", ".out.nc.manifest"}


def test_several_files_are_one_record(here):
    """Blocks end where the run says, not where files do."""
    ds = xr.open_dataset("in.nc")
    for i, part in enumerate((slice(0, 3), slice(3, 15), slice(15, 20))):
        ds.isel(time=part).to_netcdf(f"part_{i}.nc")
    good(command("apply", "part_*.nc", "out.nc", "--factor", 2, "--blocks", 7))
    assert raw(Path("out.nc")) == whole()


def test_bars_are_for_terminals(here, capsys):
    """None otherwise; where one is wanted it counts blocks."""
    assert good(command(*APPLY, "--blocks", 5)).err == ""
    with downscale.set_options(progress="on"):
        said = good(command(*APPLY, "--blocks", 5, "--overwrite"))
    assert "4/4" in said.err


def test_memory_is_passed_on(here, monkeypatch):
    seen = []
    honest = block_run.downscale_to_file

    def produce(*arguments: Any, **options: Any) -> Any:
        seen.append(downscale.get_options()["max_memory"])
        return honest(*arguments, **options)

    monkeypatch.setattr(block_run, "downscale_to_file", produce)
    with downscale.set_options(max_memory=None):
        good(command(*APPLY, "--blocks", 10, "--max-memory", "20GB"))
    assert seen == ["20GB"] * 2
    said = command(*APPLY, "--blocks", 10, "--max-memory", "much", "--overwrite")
    assert "option 'max_memory': expected a size" in said.complaint


# What passes by itself, and what does not.


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_run, "FIRST_WAIT", 0.0)
    monkeypatch.setattr(block_run, "LONGEST_WAIT", 0.001)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT])
def test_what_passes_is_tried_again(here, monkeypatch, impatient, number):
    faults = [OSError(number, "for a moment")] * 2
    honest = block_run.downscale_request

    def shaky(*arguments: Any, **options: Any) -> Any:
        if faults:
            raise faults.pop()
        return honest(*arguments, **options)

    monkeypatch.setattr(block_run, "downscale_request", shaky)
    said = good(command(*APPLY, "--blocks", 10))
    assert said.err.count("for a moment; trying again in") == 2
    assert raw(Path("out.nc")) == whole()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "no"), PermissionError(errno.EACCES, "no"), OutputError("x")],
)
def test_what_stays_is_told_at_once(here, monkeypatch, impatient, error):
    count = [0]

    def broken(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        raise error

    monkeypatch.setattr(block_run, "downscale_request", broken)
    said = command(*APPLY, "--blocks", 10)
    assert said.status in (1, 2)
    assert said.complaint
    assert count == [1]


def test_the_cause_counts_not_the_line_around_it():
    def wrapped(number: int) -> OutputError:
        try:
            try:
                raise OSError(number, "x")
            except OSError as error:
                raise OutputError("expected to write") from error
        except OutputError as error:
            return error

    assert block_run.is_transient(wrapped(errno.ESTALE))
    assert not block_run.is_transient(wrapped(errno.ENOSPC))
    assert block_run.is_transient(TimeoutError())
    assert not block_run.is_transient(ValueError("x"))


def test_a_cycle_of_causes_ends():
    first, second = ValueError("x"), KeyError("y")
    first.__cause__, second.__cause__ = second, first
    assert not block_run.is_transient(first)


def test_it_is_given_up_in_the_end(impatient):
    count = [0]

    def stale() -> None:
        count[0] += 1
        raise OSError(errno.ESTALE, "Stale file handle")

    with pytest.raises(OSError, match="Stale file handle"):
        block_run.retry(stale)
    assert count == [block_run.ATTEMPTS]


def test_work_is_small_and_holds_no_data(here):
    """What is sent for a block: words and numbers, the same number of bytes however large the field."""
    sizes = []
    for rows in (12, 48):
        name = f"in{rows}.nc"
        field_on(world(rows, 2 * rows), 20).to_netcdf(name)
        content = {"input": {"path": name}, "downscale": {"factor": 2}, "output": {"path": "out.nc", "blocks": 4}}
        recipe = parse_recipe(content)
        coarse = single.open_input(name)
        request = single.build_request(recipe)
        blocks = plan_blocks(recipe, coarse, request, downscale.plan(coarse, 2))
        from distributed.protocol.pickle import dumps

        works = [block_run.block_task(blocks, i, recipe, True, {}) for i in range(5)]
        assert len(works) == len(blocks.blocks)
        sizes.append([len(dumps(one)) for one in works])
    assert sizes[0] == sizes[1]
    assert max(sizes[0]) < 2000


def test_recipes_may_say_it_all(here):
    Path("r.yml").write_text(
        "input: {path: in.nc}\ndownscale: {factor: 2}\noutput: {path: out.nc, blocks: 1 month, merge: false}\n"
        "dask: {profiles: {big: {cluster: {type: dask_jobqueue.SLURMCluster, cores: 4, memory: 8GB}}}}\n"
    )
    recipe = load_recipe("r.yml")
    assert (recipe.output.blocks, recipe.output.merge) == ("1 month", False)
    good(command("run", "r.yml"))
    assert Path("out_20000101-20000120.nc").exists()
    good(command("run", "r.yml", "--merge"))
    assert Path("out.nc").exists()
