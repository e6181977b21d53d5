"""Addresses: files and stores behind a server are read, whatever cannot be is refused under its own name."""

from __future__ import annotations

import functools
import http.server
import threading
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from command import command
from refusals import contents
from sample_fields import field_on, region

import downscale
from downscale.errors import InputError
from downscale.io.paths import address_of, sources_of

ELSEWHERE = ["s3://bucket/tas.zarr", "gs://bucket/tas.nc", "gcs://bucket/tas.nc"]
UNKNOWN = ["dap4://example.org/tas", "ftp://example.org/tas.nc", "hdfs://node/tas.nc"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of files that says nothing of requests, and answers those for a part of a file."""

    def log_message(self, *words: object) -> None:
        pass

    def send_head(self) -> object:
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            return super().send_head()
        content = path.read_bytes()
        begin, _, end = wanted.removeprefix("bytes=").partition("-")
        first, last = int(begin), min(int(end or len(content) - 1), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        return None


@pytest.fixture
def field() -> xr.Dataset:
    return field_on(region(8, 10), 3, dtype="float32")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for package in ("fsspec", "aiohttp", "h5netcdf", "zarr"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install 'downscale-climate[remote]')")
    (tmp_path / "served").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    handler = functools.partial(_Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


def served(field: xr.Dataset, folder: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.endswith(".zarr"):
            field.to_zarr(folder / name, zarr_format=3 if "three" in name else 2, consolidated="plain" not in name)
        else:
            field.to_netcdf(folder / name, format="NETCDF3_64BIT" if "old" in name else "NETCDF4")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["tas.nc", "old.nc", "two.zarr", "three.zarr", "plain_three.zarr"])
def test_files_and_stores_are_read_from_a_server(server, field, tmp_path, name):
    served(field, tmp_path / "served", name)
    for address in (f"{server}/{name}", Path(f"{server}/{name}")):
        ds = downscale.open_dataset(address)
        xr.testing.assert_equal(ds.tas.compute(), field.tas)
        assert sources_of(ds) == (f"{server}/{name}",)
        ds.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_downscales_an_address(server, field, tmp_path):
    served(field, tmp_path / "served", "tas.nc")
    said = command("apply", f"{server}/tas.nc", "out.nc", "--factor", 2)
    assert said.status == 0, said.err
    assert command("check", f"{server}/tas.nc", "out.nc").status == 0
    assert list(contents()) == ["out.nc"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_files_of_a_server_are_joined(server, field, tmp_path):
    served(field.isel(time=slice(0, 1)), tmp_path / "served", "a.nc")
    served(field.isel(time=slice(1, None)), tmp_path / "served", "b.nc")
    ds = downscale.open_dataset([f"{server}/b.nc", f"{server}/a.nc"])
    np.testing.assert_array_equal(ds.tas, field.tas)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["missing.nc", "page.nc", "grib.nc"])
def test_what_is_not_there_or_no_data_gets_one_line(server, tmp_path, name):
    (tmp_path / "served" / "page.nc").write_bytes(b"<html>not here</html>")
    (tmp_path / "served" / "grib.nc").write_bytes(b"GRIB" + bytes(600))
    with pytest.raises(InputError) as caught:
        downscale.open_dataset(f"{server}/{name}")
    assert f"{server}/{name}" in str(caught.value)
    assert "\n" not in str(caught.value)
    said = command("apply", f"{server}/{name}", "out.nc", "--factor", 2)
    assert (said.status, list(contents())) == (2, [])
    assert f"{server}/{name}" in said.complaint


@pytest.mark.parametrize("address", [*ELSEWHERE, *UNKNOWN, "https://127.0.0.1:9/tas.nc"])
def test_addresses_are_never_taken_for_local_paths(address):
    for path in (address, *([Path(address)] if "hdfs" not in address else [])):
        with pytest.raises(InputError) as caught:
            downscale.open_dataset(path)
        said = str(caught.value)
        assert address in said
        assert "\n" not in said
        assert "download" in said or "check the address" in said


@pytest.mark.parametrize("missing", ["fsspec", "aiohttp"])
def test_a_missing_package_is_named(monkeypatch, missing):
    import sys

    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"package {missing} .*https://example\.org/tas\.nc.*\[remote\]"):
        downscale.open_dataset("https://example.org/tas.nc")


@pytest.mark.parametrize(
    "path", ["tas.nc", "a/b.nc", "~/tas.nc", "C:tas.nc", "sample:north_america", "a:b/c.nc", "time:D"]
)
def test_local_paths_are_no_addresses(path):
    assert address_of(path) is None
