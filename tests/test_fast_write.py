"""Fields stored chunk by chunk are what the library stores: every reader opens them, and faults on disk are found."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from sample_fields import field_on, region, same_bits, world

import downscale
from downscale.errors import ConservationError, OutputError
from downscale.io import stream, write
from downscale.output import to_netcdf

SHAPES = {"maps": (5, 40, 60), "edges": (7, 45, 61)}


def fields(shape: tuple[int, ...] = (7, 45, 61), dtype: str = "float32", blocks: Any = None) -> xr.Dataset:
    """Noise on a grid with missing values, signed zeros and the smallest and largest numbers, eager and in blocks."""
    rng = np.random.default_rng(3)
    values = (rng.normal(size=shape).cumsum(axis=-1) + 280).astype(dtype)
    values[rng.random(shape) < 0.1] = np.nan
    values[0, 0, :4] = [0.0, -0.0, np.finfo(dtype).tiny / 4, np.finfo("f4").max / 4]
    _, rows, columns = shape
    grid = region(rows, columns)
    coords = {name: grid_ for name, grid_ in field_on(grid, 1).coords.items() if name in ("lat", "lon")}
    lazy = xr.DataArray(values[::-1], dims=("time", "lat", "lon")).chunk(blocks or {"time": 2, "lat": 20}).data
    return xr.Dataset(
        {"tas": (("time", "lat", "lon"), values, {"units": "K"}), "pr": (("time", "lat", "lon"), lazy)}, coords
    ).assign_coords(time=np.arange(shape[0]))


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fields of which chunks were stored directly."""
    seen: list[str] = []
    put = stream.Sink.put

    def noted(self: Any, name: str, offset: Any, data: Any) -> int:
        seen.append(name)
        return put(self, name, offset, data)

    monkeypatch.setattr(stream.Sink, "put", noted)
    return seen


@pytest.fixture(params=["at once", "afterwards"])
def checked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """When blocks are read back: with the block that was written, or, where that cannot be, from the whole file."""
    if request.param == "afterwards":
        monkeypatch.setattr(stream, "uses_other_processes", lambda: True)
    return str(request.param)


def raw(path: Path, name: str) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Stored values, attributes and storage of a variable, as the NetCDF library finds them."""
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        variable = file[name]
        storage = {**(variable.filters() or {}), "chunks": variable.chunking(), "type": variable.dtype.str}
        return variable[:], {key: variable.getncattr(key) for key in variable.ncattrs()}, storage


def library(monkeypatch: pytest.MonkeyPatch, ds: xr.Dataset, path: Path, **options: Any) -> None:
    """Write by the NetCDF library alone."""
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_fields", lambda *_: (False, None))
        to_netcdf(ds, path, **options)


def assert_same_storage(one: Path, other: Path) -> None:
    with netCDF4.Dataset(one) as file, netCDF4.Dataset(other) as twin:
        assert list(file.variables) == list(twin.variables)
        assert {n: (len(d), d.isunlimited()) for n, d in file.dimensions.items()} == {
            n: (len(d), d.isunlimited()) for n, d in twin.dimensions.items()
        }
        names = list(file.variables)
    for name in names:
        (ours, attrs, storage), (theirs, their_attrs, their_storage) = raw(one, name), raw(other, name)
        assert ours.tobytes() == theirs.tobytes()
        assert ours.dtype == theirs.dtype
        assert str(attrs) == str(their_attrs)
        if ours.ndim == 1:
            # Of the library's choosing, by how long the record is when the variable is made.
            storage["chunks"] = their_storage["chunks"]
        assert storage == their_storage


STORAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "level 0": {"complevel": 0},
    "level 4": {"complevel": 4},
    "level 9": {"complevel": 9},
    "int16": {"packing": "int16"},
    "int16, level 0": {"packing": "int16", "complevel": 0},
    "10 bits": {"packing": 10},
    "chunks": {"encoding": {"tas": {"chunksizes": (2, 17, 61)}, "pr": {"chunksizes": (3, 45, 20)}}},
    "no shuffle": {"encoding": {"tas": {"shuffle": False}, "pr": {"shuffle": False, "complevel": 5}}},
    "float32": {"encoding": {"tas": {"dtype": "float32"}, "pr": {"dtype": "float64"}}},
    "shuffle alone": {"complevel": 0, "encoding": {"tas": {"shuffle": True}}},
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_stored_is_what_the_library_stores(tmp_path, monkeypatch, puts, dtype, storage):
    ds, options = fields(dtype=dtype), STORAGES[storage]
    if dtype == "float64" and storage == "float32":
        ds = ds.where(np.abs(ds) < 1e30, 1.0)
    to_netcdf(ds, tmp_path / "fast.nc", **options)
    assert set(puts) == {"tas", "pr"}
    count = len(puts)
    library(monkeypatch, ds, tmp_path / "slow.nc", **options)
    assert len(puts) == count
    assert_same_storage(tmp_path / "fast.nc", tmp_path / "slow.nc")


def test_what_the_library_writes_is_checked(tmp_path, monkeypatch, puts):
    coarse = field_on(world(), dtype="float32", missing=0.1)
    fine = coarse.downscale(2)
    library(monkeypatch, fine, tmp_path / "a.nc", coarse=coarse)
    assert puts == []
    assert same_bits(downscale.open_dataset(tmp_path / "a.nc").tas, fine.tas)


@pytest.mark.parametrize("unlimited", [["time"], ["time", "lat"]])
def test_unlimited_dimensions(tmp_path, monkeypatch, puts, unlimited):
    ds = fields()
    ds.encoding["unlimited_dims"] = unlimited
    to_netcdf(ds, tmp_path / "fast.nc")
    assert puts
    library(monkeypatch, ds, tmp_path / "slow.nc")
    assert_same_storage(tmp_path / "fast.nc", tmp_path / "slow.nc")
    with netCDF4.Dataset(tmp_path / "fast.nc", "a") as file:
        file["time"][7] = 7
        assert file["tas"].shape[0] == 8, "it can still grow"
        assert file["tas"][7].mask.all()


def test_what_only_the_library_can_do_is_left_to_it(tmp_path, puts):
    ds = fields()
    to_netcdf(ds, tmp_path / "a.nc", encoding={"tas": {"fletcher32": True}})
    nameless = ds.drop_vars("time")
    nameless.encoding["unlimited_dims"] = ["time"]
    to_netcdf(nameless, tmp_path / "b.nc")
    assert puts == []
    for name in "ab":
        with xr.open_dataset(tmp_path / f"{name}.nc") as back:
            assert same_bits(back.tas.variable, ds.tas.variable)
            assert same_bits(back.pr.variable, ds.pr.variable)


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_any_scheduler_of_one_machine(tmp_path, puts, scheduler):
    """An open file cannot be handed to other processes: the threads of this one write."""
    ds = fields()
    with dask.config.set(scheduler=scheduler, num_workers=2):
        to_netcdf(ds, tmp_path / "a.nc")
    assert set(puts) == {"tas", "pr"}
    with xr.open_dataset(tmp_path / "a.nc") as back:
        assert same_bits(back.pr.variable, ds.pr.variable)


def test_whole_numbers_and_small_lazy_variables_go_along(tmp_path, monkeypatch, puts):
    ds = fields().assign(
        code=(("time", "lat", "lon"), np.arange(7 * 45 * 61).reshape(7, 45, 61).astype("i2")),
        mean=fields().pr.mean(("lat", "lon")), height=((), 2.0),
    )  # fmt: skip
    to_netcdf(ds, tmp_path / "fast.nc")
    assert set(puts) == {"tas", "pr", "code"}
    library(monkeypatch, ds, tmp_path / "slow.nc")
    assert_same_storage(tmp_path / "fast.nc", tmp_path / "slow.nc")


@pytest.mark.parametrize("level", [0, 1, 4, 9])
@pytest.mark.parametrize("packing", [None, "int16", 12])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_readers_read_the_same(tmp_path, dtype, packing, level):
    pytest.importorskip("h5netcdf")
    ds, path = fields(dtype=dtype), tmp_path / "a.nc"
    to_netcdf(ds, path, complevel=level, packing=packing, encoding={"tas": {"chunksizes": (2, 20, 33)}})
    with xr.open_dataset(path, engine="netcdf4") as one, xr.open_dataset(path, engine="h5netcdf") as other:
        assert same_bits(one.tas, other.tas)
        assert same_bits(one.pr, other.pr)
        if packing is None:
            assert same_bits(one.tas.variable, ds.tas.variable)
            assert same_bits(one.pr.variable, ds.pr.variable)
        read = one.load()
    if shutil.which("ncdump") is None:
        pytest.skip("no ncdump here")
    said = subprocess.run(["ncdump", "-hs", path], capture_output=True, text=True, check=True).stdout
    assert "tas:_ChunkSizes = 2, 20, 33" in said
    assert ("tas:_DeflateLevel" in said) == ('tas:_Shuffle = "true"' in said) == (level > 0)
    assert level == 0 or f"tas:_DeflateLevel = {level} ;" in said
    if packing is None:
        np.testing.assert_array_equal(np.array(printed(path, "tas")).astype(dtype), read.tas.values.ravel())


def printed(path: Path, name: str) -> list[float]:
    """Values as ncdump prints them, with all digits."""
    said = subprocess.run(["ncdump", "-p", "9,17", "-v", name, path], capture_output=True, text=True, check=True).stdout
    words = said.split("data:")[1].split(f"{name} =")[1].split(";")[0].replace("\n", "").split(",")
    return [float("nan") if word.strip() == "_" else float(word) for word in words]


@pytest.mark.parametrize("packing", [None, "int16"])
def test_cdo_reads_the_same(tmp_path, packing):
    if shutil.which("cdo") is None:
        pytest.skip("no cdo here")
    ds = fields((6, 40, 60))[["tas"]].assign_coords(time=xr.date_range("2001-01-01", periods=6))
    to_netcdf(ds, tmp_path / "a.nc", packing=packing)
    subprocess.run(["cdo", "-s", "-b", "F64", "copy", tmp_path / "a.nc", tmp_path / "b.nc"], check=True)
    with xr.open_dataset(tmp_path / "a.nc") as one, xr.open_dataset(tmp_path / "b.nc") as other:
        np.testing.assert_array_equal(one.tas.values, other.tas.values.astype("f4"))


@pytest.mark.laws
@given(data=st.data())
def test_any_shape_blocks_chunks_and_type_come_back(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "a.nc"
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(20, 40), st.integers(51, 60)), "shape")
    chunks = data.draw(st.tuples(*[st.integers(1, n) for n in shape]), "chunks") if data.draw(st.booleans()) else None
    blocks = data.draw(st.none() | st.tuples(*[st.integers(max(n // 4, 1), n) for n in shape]), "blocks")
    level = data.draw(st.sampled_from([0, 1, 2, 3, 5, 9]), "level")
    values = np.random.default_rng(data.draw(st.integers(0, 9))).normal(size=shape)
    values[values > 1.5] = np.nan
    values = values.astype(data.draw(st.sampled_from(["f4", "f8"]), "type"))
    field = xr.Variable(("z", "y", "x"), values)
    ds = xr.Dataset({"v": field if blocks is None else field.chunk(dict(zip(field.dims, blocks, strict=True)))})
    if np.prod(chunks or shape) < 60:
        chunks = (1, *shape[1:])
    encoding = {"v": {"complevel": level, **({"chunksizes": chunks} if chunks else {})}}
    to_netcdf(ds, path, encoding=encoding if values.size > 1000 else None)
    with xr.open_dataset(path) as back:
        assert back.v.values.tobytes() == values.tobytes()
        assert back.v.dtype == values.dtype
    os.unlink(path)


@pytest.mark.parametrize("options", [{}, {"complevel": 0}, {"packing": 12, "tolerance": 1e-2}])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_check_reads_chunks_and_finds_what_a_fresh_check_finds(tmp_path, monkeypatch, options, lazy):
    coarse = field_on(world(24, 32), 5, dtype="float32", missing=0.1)
    fine = (coarse.chunk(time=2, lat=7) if lazy else coarse).downscale(2)
    read = []
    read_chunk = stream.FieldPassage.read_chunk

    def noted(self: Any, offset: Any, view: Any) -> None:
        read.append(offset)
        read_chunk(self, offset, view)

    monkeypatch.setattr(stream.FieldPassage, "read_chunk", noted)
    report = to_netcdf(fine, tmp_path / "a.nc", coarse=coarse, encoding={"tas": {"chunksizes": (1, 20, 64)}}, **options)
    fresh = downscale.check_conservation(coarse, xr.open_dataset(tmp_path / "a.nc"), tolerance=options.get("tolerance"))
    # Each chunk, and three of them once more to be compared with what the library reads.
    assert len(read) == 5 * 3 + 3
    assert len(set(read)) == 5 * 3
    # Sums over the globe are added in another order: they differ by rounding, and nothing else does.
    assert report["tas"].global_error == pytest.approx(fresh["tas"].global_error, rel=0, abs=1e-14)
    same = replace(report["tas"], global_error=fresh["tas"].global_error)
    assert replace(report, variables={"tas": same}) == fresh


def damage(path: Path, name: str, change: Any, which: int = 1) -> None:
    """Change the bytes of a stored chunk on disk."""
    with h5py.File(path, "r") as file:
        info = file[name].id.get_chunk_info(which)
    at_bytes(path, info.byte_offset, info.size, change)


def at_bytes(path: Path, first: int, size: int, change: Any) -> None:
    with open(path, "r+b") as disk:
        disk.seek(first)
        content = bytearray(disk.read(size))
        change(content)
        disk.seek(first)
        disk.write(content)


def flipped(at: float, bit: int) -> Any:
    def change(content: bytearray) -> None:
        content[int(at * len(content))] ^= bit

    return change


@pytest.mark.parametrize(
    ("level", "at", "error", "match"),
    [
        (1, 0.5, OutputError, r"expected what was written .*, received .*; check the disk"),
        (1, 0.99999, OutputError, "expected what was written "),
        (0, 0.50004, ConservationError, "tas: expected the cell law"),
    ],
)
@pytest.mark.parametrize("which", [0, 1, 4])
def test_a_byte_changed_on_disk_is_found(tmp_path, monkeypatch, level, at, error, match, which, checked):
    flush, put, count = write.flush, stream.Sink.put, itertools.count()

    def damaging(self: Any, name: str, offset: Any, data: Any) -> int:
        end = put(self, name, offset, data)
        if checked == "at once" and next(count) == which:
            at_bytes(Path(self.file.filename), end - len(data), len(data), flipped(at, 0x40))
        return end

    def damaged(path: Path) -> None:
        if path.suffix == ".part" and checked == "afterwards":
            damage(path, "tas", flipped(at, 0x40), which)
        flush(path)

    monkeypatch.setattr(write, "flush", damaged)
    monkeypatch.setattr(stream.Sink, "put", damaging)
    coarse = field_on(world(24, 32), 5, dtype="float32")
    with pytest.raises(error, match=match) as caught:
        to_netcdf(
            coarse.downscale(2), tmp_path / "a.nc", coarse=coarse, complevel=level,
            encoding={"tas": {"chunksizes": (1, 48, 64)}},
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_chunk_that_was_not_written_is_found(tmp_path, monkeypatch):
    put = stream.Sink.put

    def forgetful(self: Any, name: str, offset: Any, data: Any) -> int:
        return self.file.id.get_filesize() if offset[0] == 2 else put(self, name, offset, data)

    monkeypatch.setattr(stream.Sink, "put", forgetful)
    coarse = field_on(world(24, 32), 5, dtype="float32")
    with pytest.raises(OutputError, match=r"tas: expected what was written at \(2, 0, 0\), received no chunk"):
        to_netcdf(
            coarse.downscale(2), tmp_path / "a.nc", coarse=coarse, encoding={"tas": {"chunksizes": (1, 48, 64)}}
        )
    assert os.listdir(tmp_path) == []


def test_two_readers_that_disagree_are_an_error(tmp_path, monkeypatch):
    """A fault in our own decoding cannot vouch for a file."""
    from downscale.io import chunks

    unshuffled = chunks._unshuffle

    def wrong(raw: Any, flat: Any, *options: Any) -> None:
        unshuffled(raw, flat, *options)
        flat.view("u4")[7] ^= 1

    monkeypatch.setattr(chunks, "_unshuffle", wrong)
    coarse = field_on(world(24, 32), dtype="float32")
    with pytest.raises(OutputError, match=r"tas: expected what was written at \(0, 0, 0\), received other values"):
        to_netcdf(coarse.downscale(2), tmp_path / "a.nc", coarse=coarse)
    assert os.listdir(tmp_path) == []


def test_an_index_that_names_other_places_is_an_error(tmp_path, monkeypatch):
    """What was judged is what the file gives to its readers."""
    put = stream.Sink.put

    def twice(self: Any, name: str, offset: Any, data: Any) -> int:
        end = put(self, name, offset, data)
        if offset[0] == 3:
            # The same bytes lie behind the chunk too, as those of another: the index names the first.
            put(self, name, (0, *offset[1:]), data)
        return end

    monkeypatch.setattr(stream.Sink, "put", twice)
    coarse = field_on(world(24, 32), 5, dtype="float32")
    with pytest.raises(OutputError, match="tas: expected its chunks where they were written, received others"):
        to_netcdf(
            coarse.downscale(2), tmp_path / "a.nc", coarse=coarse, encoding={"tas": {"chunksizes": (1, 48, 64)}}
        )
    assert os.listdir(tmp_path) == []


FULL = """
import resource, signal, sys
import downscale
from sample_fields import field_on, world
coarse = field_on(world(48, 64), 40, dtype="float32")
fine = coarse.chunk(time=1).downscale(2)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
try:
    downscale.to_netcdf(fine, "a.nc", complevel=0)
except downscale.errors.OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [3_000, 40_000, 400_000, 1_470_000])
def test_a_disk_that_fills_up_is_one_line(tmp_path, limit):
    """A real limit of the operating system, met at the beginning, within a field and at its end."""
    said = alone(tmp_path, FULL, str(limit))
    assert said.count("\n") == 1, said
    assert said.startswith("expected to write a.nc, received: ")
    assert limit < 100_000 or "File too large; free space or choose another" in said
    assert os.listdir(tmp_path) == ["script.py"]


def alone(folder: Path, code: str, *words: str) -> str:
    """Run a script in a process of its own and return what it prints."""
    tests = Path(__file__).parent
    (folder / "script.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    line = [sys.executable, "script.py", *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


MEMORY = """
import resource, sys
import dask, dask.array as da, numpy as np, xarray as xr
import downscale

def made(block):
    return np.broadcast_to(np.arange(500 * 800, dtype="f4").reshape(500, 800) % 997, (8, 500, 800)) + block.astype("f4")

def field(times):
    where = da.arange(times, chunks=8)[:, None, None]
    chunks = ((8,) * (times // 8), (500,), (800,))
    data = where.map_blocks(made, chunks=chunks, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    lat, lon = np.linspace(-30, 30, 500), np.linspace(0, 100, 800)
    coords = {"lat": ("lat", lat, {"standard_name": "latitude", "units": "degrees_north"}),
              "lon": ("lon", lon, {"standard_name": "longitude", "units": "degrees_east"})}
    return xr.Dataset({"tas": (("time", "lat", "lon"), data)}, coords)

with dask.config.set(num_workers=2):
    peaks = []
    for times in (64, 128, 512):
        ds = field(times)
        coarse = ds.downscale.coarsen(4) if sys.argv[1] == "checked" else None
        level = int(sys.argv[2])
        downscale.to_netcdf(ds, "a.nc", coarse=coarse, overwrite=True, tolerance=1e-3, complevel=level)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print(*peaks)
"""


@pytest.mark.slow
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("mode", ["plain", "checked"])
def test_memory_does_not_grow_with_the_record(tmp_path, mode, level):
    """Four times 200 MB more are written; a few blocks of 13 MB are held."""
    small, middle, large = (float(word) for word in alone(tmp_path, MEMORY, mode, str(level)).split())
    held = {"plain": 30, "checked": 60}[mode]
    assert large - middle < held, (small, middle, large)
    assert middle - small < 2 * held, (small, middle, large)


CLUSTER = """
import threading
import dask, numpy as np
import downscale
from dask.distributed import Client, LocalCluster
from downscale.io import stream
from sample_fields import field_on, same_bits, world


def main():
    ds = field_on(world(24, 32), 12, missing=0.1, dtype="float32")
    here = ds.downscale(2)
    names, most, put, encode = set(), [0], stream.Sink.put, stream._encode_block

    def noted(self, name, offset, data):
        names.add(name)
        put(self, name, offset, data)

    stream.Sink.put = noted
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        lazy = ds.chunk(time=1, lat=12).downscale(2)
        for options in ({}, {"packing": "int16", "tolerance": 1e-2}, {"complevel": 0}):
            report = downscale.to_netcdf(lazy, "out.nc", coarse=ds, overwrite=True, **options)
            assert report.passed and names == {"tas"}, names
            if not options.get("packing"):
                assert same_bits(downscale.open_dataset("out.nc").tas.compute(scheduler="sync"), here.tas)
        broken = lazy.copy()
        broken["tas"] = lazy.tas.copy(data=lazy.tas.data.map_blocks(boom, dtype="f4", meta=np.empty((0, 0, 0), "f4")))
        try:
            downscale.to_netcdf(broken, "broken.nc")
        except ZeroDivisionError as error:
            print(error)
        eager = downscale.to_netcdf(here, "eager.nc", coarse=ds)
        assert eager.passed
    print("done")


def boom(block):
    raise ZeroDivisionError("in a block")


if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_workers_of_a_cluster_encode_and_this_process_stores(tmp_path):
    assert alone(tmp_path, CLUSTER).split("\n") == ["in a block", "done", ""]
    assert {name for name in os.listdir(tmp_path) if name.endswith((".nc", ".part"))} == {"out.nc", "eager.nc"}
