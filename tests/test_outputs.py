"""Nothing is lost: no input, stranger or old result is replaced by what fails, and only files become outputs."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
import yaml
from command import Said, command
from run_process import contents, raw
from sample_fields import field_on, world

import downscale
from downscale.errors import ConservationError, OutputError
from downscale.io.leases import SILENT_SECONDS, lock_output, lock_path
from downscale.io.paths import FOREIGN, check_netcdf, find_named_files, scratch_name, this_host
from downscale.runs.manifest import input_identities

APPLY = ("apply", "in.nc", "out.nc", "--factor", 2)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a few maps, as the current folder."""
    monkeypatch.chdir(tmp_path)
    field_on(world(), 6).to_netcdf("in.nc")
    return tmp_path


def recipe(**output: Any) -> str:
    """Write a recipe with some outputs, and return its name."""
    content = {"input": {"path": "in.nc"}, "downscale": {"factor": 2}, "output": {"path": "out.nc", **output}}
    Path("r.yml").write_text(yaml.safe_dump(content))
    return "r.yml"


def evaluation(name: str) -> str:
    data = {"factor": 2, "outputs": ["tas"], "sources": [{"fine": "in.nc"}]}
    Path("e.yml").write_text(yaml.safe_dump({"data": data, "methods": ["sobolev"], "output": {"name": name}}))
    return "e.yml"


# Every key of every command that names an output, with OUT where the name stands.
KEYS: dict[str, Any] = {
    "apply": lambda out: ("apply", "in.nc", out, "--factor", 2, "--overwrite"),
    "apply --blocks": lambda out: ("apply", "in.nc", out, "--factor", 2, "--overwrite", "--blocks", 2),
    "apply --resume": lambda out: ("apply", "in.nc", out, "--factor", 2, "--resume"),
    "run path": lambda out: ("run", recipe(path=out, overwrite=True)),
    "run map": lambda out: ("run", recipe(map=out, overwrite=True)),
    "run report": lambda out: ("run", recipe(report=out, overwrite=True)),
    "weights": lambda out: ("weights", "in.nc", out, "--factor", 2, "--overwrite"),
    "encode": lambda out: ("encode", "in.nc", out, "--method", "none.safetensors", "--overwrite"),
    "deconvolve": lambda out: ("deconvolve", "in.nc", out, "--psf", "gaussian:2000km", "--overwrite"),
    "inspect --json": lambda out: ("inspect", "in.nc", "--factor", 2, "--json", out),
    "inspect --figure": lambda out: ("inspect", "in.nc", "--factor", 2, "--figure", out),
}
NETCDF_KEYS = [key for key in KEYS if key.startswith(("apply", "run path", "weights", "encode", "deconvolve"))]


def refused(said: Said, *words: str) -> None:
    """One line, exit status 2, and no word of a failure of ours."""
    assert said.status == 2, said
    assert all(word in said.complaint for word in words), said.complaint


@pytest.mark.parametrize(("key", "name"), [
    *((key, "hard.nc") for key in KEYS), *(("apply", name) for name in ("in.nc", "./in.nc", "link.nc")),
    ("inspect --json", "in.nc"), ("inspect --figure", "link.nc"),
])  # fmt: skip
def test_no_command_replaces_its_input(here, key, name):
    os.link("in.nc", "hard.nc")
    Path("link.nc").symlink_to("in.nc")
    before = Path("in.nc").read_bytes()
    line = KEYS[key](name)
    there = contents(here)
    refused(command(*line), "input")
    assert Path("in.nc").read_bytes() == before == Path("hard.nc").read_bytes()
    assert Path("link.nc").is_symlink()
    assert contents(here) == there


@pytest.mark.parametrize(("key", "kind"), [
    *((key, kind) for key in KEYS for kind in ("pipe", "device")), ("weights", "descriptor"), ("run map", "address"),
    *(("apply", kind) for kind in ("socket", "folder", "descriptor", "address", "bucket")),
])  # fmt: skip
def test_only_a_file_can_become_an_output(here, key, kind):
    names = {"pipe": "pipe", "socket": "plug", "folder": "sub", "device": "/dev/full", "descriptor": "/dev/stdout",
             "address": "https://example.org/a.nc", "bucket": "s3://bucket/a.nc"}  # fmt: skip
    os.mkfifo("pipe")
    Path("sub").mkdir()
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("plug")
        line = KEYS[key](names[kind])
        there = contents(here)
        refused(command(*line))
        assert contents(here) == there
    assert Path("pipe").is_fifo()
    assert Path("plug").is_socket()
    assert Path("/dev/full").is_char_device()
    assert Path("/dev/stdout").is_symlink()


@pytest.mark.parametrize(("key", "name"), [(key, "a.grib") for key in NETCDF_KEYS]
                         + [("apply", name) for name in ("a.tif", "a.nc.gz", "a.csv", "-")])  # fmt: skip
def test_a_name_of_another_format_is_refused_with_the_remedy(here, key, name):
    line = KEYS[key](name)
    there = contents(here)
    refused(command(*line), ".nc")
    assert contents(here) == there


@pytest.mark.parametrize("suffix", FOREIGN)
def test_every_foreign_suffix_is_refused_in_any_case(tmp_path, suffix):
    for name in (f"a{suffix}", f"a{suffix.upper()}"):
        with pytest.raises(OutputError, match=r"\.nc|suffix"):
            check_netcdf(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nc", "a.nc4", "a", "tas_v1.2", "a.cdf"])
def test_other_names_are_fine(tmp_path, name):
    assert check_netcdf(tmp_path / name) == tmp_path / name


def test_a_result_goes_where_a_link_points_to(here):
    Path("real").mkdir()
    Path("out.nc").symlink_to("real/fine.nc")
    assert command(*APPLY).status == 0
    assert Path("out.nc").is_symlink()
    assert not Path("real/fine.nc").is_symlink()
    assert raw(Path("real/fine.nc"))


def test_an_evaluation_never_replaces_its_data(here):
    Path("in.nc").rename("scores.nc")
    Path("in.nc").symlink_to("scores.nc")
    before = Path("scores.nc").read_bytes()
    line = "evaluate", evaluation("scores"), "--out", "."
    refused(command(*line), "scores.nc")
    assert Path("scores.nc").read_bytes() == before


def test_files_are_found_wherever_a_recipe_names_them(here):
    Path("b_1.nc").touch()
    content = {"a": [{"fine": "in.nc"}, ("b_*.nc", 4)], "c": "sample:x", "d": None, "e": "no\nfile", "f": "x" * 5000}
    assert find_named_files(content) == ["in.nc", "b_1.nc"]


# What may not be gone on with.


def text(path: Path) -> None:
    path.write_text("my thesis\n")


def stranger(path: Path) -> None:
    field_on(world(), 2).to_netcdf(path)


def changed(path: Path) -> None:
    command("apply", "in.nc", path, "--factor", 2)
    with xr.open_dataset(path) as ds:
        ds = ds.load()
    ds.attrs["history"] = f"Sun Nov 29 2026: ncatted something\n{ds.attrs['history']}"
    path.unlink()
    ds.to_netcdf(path)


@pytest.mark.parametrize("make", [text, stranger, changed])
@pytest.mark.parametrize("how", [["--blocks", 2], ["--blocks", 2, "--no-merge"]], ids=["merged", "apart"])
def test_resume_never_replaces_what_another_made(here, make, how):
    path = Path("out_20000103-20000104.nc" if "--no-merge" in how else "out.nc")
    if "--no-merge" in how:
        assert command(*APPLY, *how).status == 0
        (path,) = sorted(Path().glob("out_*.nc"))[1:2]
        path.unlink()
    make(path)
    before, there = path.read_bytes(), contents(here)
    refused(command(*APPLY, *how, "--resume"), path.name, "--overwrite")
    assert path.read_bytes() == before
    assert contents(here) == there
    assert command(*APPLY, *how, "--resume", "--overwrite").status == 0
    assert path.read_bytes() != before


def test_an_input_of_the_same_size_and_time_is_another(here):
    assert command(*APPLY, "--blocks", 2).status == 0
    stamp = os.stat("in.nc")
    other = field_on(world(), 6, seed=1)
    other.to_netcdf("in.nc")
    assert os.stat("in.nc").st_size == stamp.st_size
    os.utime("in.nc", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    said = command(*APPLY, "--blocks", 2, "--resume")
    assert said.status == 0
    assert "kept" not in said.out
    assert command("check", "in.nc", "out.nc").status == 0


@pytest.mark.parametrize("size", [10, 100_000, 20_000_000])
@pytest.mark.parametrize("files", [1, 3, 600])
def test_what_an_input_holds_is_sampled_from_its_beginning_to_its_end(tmp_path, size, files):
    if size * files > 2e8:
        size = 70_000
    folder = tmp_path / "store.zarr"
    folder.mkdir()
    for i in range(files):
        (folder / f"{i:04d}").write_bytes(bytes(size))
        os.utime(folder / f"{i:04d}", (1e9, 1e9))
    before = input_identities([str(folder)])
    assert input_identities([str(folder)]) == before
    for place in (0, size // 2, size - 1):
        with (folder / "0000").open("r+b") as file:
            # A chunk that differs does so almost everywhere.
            file.seek(max(place - size // 4, 0))
            file.write(b"\1" * (size // 3 + 1))
        os.truncate(folder / "0000", size)
        os.utime(folder / "0000", (1e9, 1e9))
        assert input_identities([str(folder)]) != before


# What must stay until something better is there.

FAILING = ["--overwrite", "--packing", "2"]


@pytest.mark.parametrize("how", [[], ["--blocks", 1000], ["--blocks", 2], ["--blocks", 2, "--no-merge"]],
                         ids=["plain", "one", "merged", "apart"])  # fmt: skip
def test_the_old_result_stays_where_a_run_fails(here, how):
    assert command(*APPLY, *how).status == 0
    before = {path.name: path.read_bytes() for path in here.glob("out*.nc")}
    assert command(*APPLY, *how, *FAILING).status == 1
    assert {path.name: path.read_bytes() for path in here.glob("out*.nc")} == before
    assert not list(here.glob(".*.part"))
    assert not list(here.glob(".*.lock"))
    assert not list(here.glob(".*.blocks"))


def failing_store(path: Path) -> None:
    ds = field_on(world(), 2)
    downscale.to_zarr(ds.downscale(2) + 1, path, coarse=ds, overwrite=True)


@pytest.fixture
def store(here: Path) -> Path:
    """A store that is there."""
    pytest.importorskip("zarr")
    path = here / "fine.zarr"
    ds = field_on(world(), 2)
    downscale.to_zarr(ds.downscale(2), path, coarse=ds)
    return path


def test_an_old_store_stays_where_a_run_fails(store):
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    with pytest.raises(ConservationError):
        failing_store(store)
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    assert {path.name for path in store.parent.iterdir()} == {"in.nc", "fine.zarr"}


def test_a_store_without_a_name_is_brought_back(store, monkeypatch):
    """Killed between its two renames: the old store has a name of a process that is no more."""
    dead = int(subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout)
    monkeypatch.setattr(os, "getpid", lambda: dead)
    old = scratch_name(store, "old")
    monkeypatch.undo()
    before = xr.open_zarr(store).tas.load()
    store.rename(old)
    with pytest.raises(ConservationError):
        failing_store(store)
    assert not old.exists()
    assert xr.open_zarr(store).tas.identical(before)


# Two at once.


def held(name: str, **changes: Any) -> Path:
    """Write the lock of another run."""
    path = lock_path(Path(name))
    facts = {"host": this_host(), "machine": "there", "pid": 1, "token": "0", "since": "now", **changes}
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize(("how", "host"), [
    (["--blocks", 2], None), (["--blocks", 2, "--overwrite"], None), (["--blocks", 2, "--block", 1], None),
    (["--blocks", 2, "--resume"], "elsewhere"),
])  # fmt: skip
def test_two_runs_of_one_output_never_meet(here, how, host):
    """A process of this machine that lives, and one of another that shows signs of life."""
    path = held("out.nc", **({} if host is None else {"host": host}))
    os.utime(path, (time.time() + 5, time.time() + 5))
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            os.utime(path)

    other = threading.Thread(target=beat)
    other.start()
    try:
        there = contents(here)
        refused(command(*APPLY, *how), "out.nc", "there", "wait")
        assert contents(here) == there
    finally:
        over.set()
        other.join()
    path.unlink()
    assert command(*APPLY, *how).status == 0
    assert not path.exists()


def test_a_whole_run_waits_for_the_blocks_of_others(here):
    assert command(*APPLY, "--blocks", 2, "--block", 0).status == 0
    (block,) = here.glob(".out.nc.blocks/out_*.nc")
    held(block.name)
    refused(command(*APPLY, "--blocks", 2, "--resume"), block.name, "wait")
    assert command(*APPLY, "--blocks", 2, "--block", 1).status == 0


@pytest.mark.parametrize("how", ["dead", "silent", "empty"])
def test_a_lock_of_a_run_that_is_no_more_is_taken_over(here, how):
    dead = int(subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True).stdout)
    path = held("out.nc", **{"dead": {"pid": dead}, "silent": {"host": "elsewhere"}, "empty": {}}[how])
    if how == "empty":
        path.write_text("")
    if how != "dead":
        before = time.time() - 2 * SILENT_SECONDS
        os.utime(path, (before, before))
    assert command(*APPLY, "--blocks", 2).status == 0
    assert contents(here) == {"in.nc", "out.nc", ".out.nc.manifest"}


def test_a_lock_is_held_within_a_process_too(tmp_path):
    with lock_output(tmp_path / "a.nc"):
        with pytest.raises(OutputError, match="wait"), lock_output(tmp_path / "a.nc"):
            pass
        with lock_output(tmp_path / "b.nc"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_plan_says_what_is_there(here):
    assert command(*APPLY).status == 0
    before = Path("out.nc").read_bytes()
    for how in ([], ["--blocks", 2]):
        said = command(*APPLY, *how, "--dry-run")
        assert said.status == 0
        assert "out.nc exists" in said.out
        assert "--overwrite" in said.out
    assert "out.nc exists" not in command(*APPLY, "--dry-run", "--overwrite").out
    assert Path("out.nc").read_bytes() == before


def test_names_without_a_suffix_get_one(here):
    assert command("apply", "in.nc", "fine_v1.2", "--factor", 2, "--blocks", 3, "--no-merge").status == 0
    names = sorted(path.name for path in here.glob("fine*"))
    assert len(names) == 2
    assert all(name.startswith("fine_v1.2_") and name.endswith(".nc") for name in names)


@pytest.mark.parametrize("write", [downscale.to_netcdf, downscale.to_zarr])
def test_an_unknown_argument_names_the_function(write):
    expected = f"{write.__name__}() got an unexpected keyword argument 'bogus'"
    with pytest.raises(TypeError, match=f"^{re.escape(expected)}$"):
        write(xr.Dataset(), "out", bogus=1)
