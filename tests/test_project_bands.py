"""Adjustment of records in bands: the same bytes whatever the bands, resumed after a kill, memory within the limit."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from downscale.errors import InputError, OptionError, OutputError
from downscale.projections import adjustment
from downscale.projections.adjustment import parts_of, train
from downscale.projections.bands import AdjustedRecords, adjust_records
from downscale.projections.plan import Band, plan_bands
from downscale.projections.settings import settings_for

# Three parts of rows for a reference period of three years, if parts are small.
SHAPE, YEARS, SMALL_PART = (6, 9), (2000, 2002), 20_000
QUICK = {"group": "time", "quantiles": 10}
SETTINGS = {"tas": QUICK, "pr": QUICK, "tasrange": QUICK, "tasskew": QUICK}
KELVIN = {"standard_name": "air_temperature", "units": "K"}
RAIN = {"standard_name": "precipitation_flux", "units": "kg m-2 s-1"}


def record(
    seed: int,
    years: tuple[int, int] = YEARS,
    shape: tuple[int, int] = SHAPE,
    calendar: str = "noleap",
    shift: float = 0.0,
) -> xr.Dataset:
    """Return daily temperature and precipitation."""
    times = xr.date_range(f"{years[0]}-01-01", f"{years[1]}-12-31", freq="D", calendar=calendar, use_cftime=True)
    random = np.random.default_rng(seed)
    size = (len(times), *shape)
    warm = random.normal(283 + shift, 3 + seed % 2, size)
    wet = random.gamma(0.7, 4e-5, size) * (random.random(size) > 0.3 + 0.1 * seed)
    edges = [np.linspace(40, 58, shape[0] + 1), np.linspace(0, 45, shape[1] + 1)]
    coords: dict[str, Any] = {"time": ("time", times, {"standard_name": "time"})}
    for name, edge, units in (("lat", edges[0], "degrees_north"), ("lon", edges[1], "degrees_east")):
        coords[name] = name, (edge[1:] + edge[:-1]) / 2, {"units": units, "bounds": f"{name}_bnds"}
        coords[f"{name}_bnds"] = (name, "bnds"), np.stack([edge[:-1], edge[1:]], 1)
    dims = ("time", "lat", "lon")
    fields = {"tas": (dims, warm.astype(np.float32), KELVIN), "pr": (dims, wet.astype(np.float32), RAIN)}
    return xr.Dataset(fields, coords, {"source": "random numbers"})


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjustment, "PART_VALUES", SMALL_PART)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("records")
    made = {"observed": record(1), "historical": record(2, shift=2), "ssp585": record(3, (2050, 2053), shift=5)}
    for name, ds in made.items():
        ds.to_netcdf(folder / f"{name}.nc")
    return {name: folder / f"{name}.nc" for name in made}


def opened(files: dict[str, Path]) -> dict[str, xr.Dataset]:
    return {name: xr.open_dataset(path, chunks={"time": 400}) for name, path in files.items()}


def adjust(
    files: dict[str, Path], folder: Path, experiments: tuple[str, ...] = ("historical", "ssp585"), **options: Any
) -> AdjustedRecords:
    """Adjust records of files with the settings of these tests."""
    ds = opened(files)
    settings = {name: one for name, one in SETTINGS.items() if name in ds["observed"]}
    options = {"reference": YEARS, "settings": settings, **options}
    try:
        return adjust_records(
            ds["observed"], ds["historical"], {name: ds[name] for name in experiments}, folder=folder, **options
        )
    finally:
        for one in ds.values():
            one.close()


def digests(folder: Path) -> dict[str, str]:
    """Return checksums of all values and attributes of results, except the dates of writing."""
    found = {}
    for path in sorted(folder.glob("*.nc")):
        with xr.open_dataset(path) as ds:
            text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "", str(sorted(ds.attrs.items())))
            content = [text, *(f"{name} {v.attrs} {v.dims}" for name, v in ds.variables.items())]
            values = b"".join(
                np.ascontiguousarray(v.values).tobytes() for v in ds.variables.values() if v.dtype != object
            )
            found[path.name] = hashlib.sha256("".join(content).encode() + values).hexdigest()
    return found


@pytest.fixture(scope="module")
def whole(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("whole") / "adjusted"
    adjust(files, folder)
    return folder


# Bands.


@given(st.integers(1, 60), st.integers(1, 700), st.integers(365, 40000), st.integers(1, 5000))
def test_bands_cover_each_cell_once_and_divide_no_part(height: int, width: int, length: int, most: int) -> None:
    bands = plan_bands((height, width), length, most)
    numbers, covered = parts_of((height, width), length), np.zeros((height, width), int)
    in_parts: dict[int, Band] = {}
    for band in (band for row in bands for band in row):
        inside = slice(band.top, band.bottom), slice(band.left, band.right)
        covered[inside] += 1
        found = np.unique(numbers[inside])
        assert covered[inside].size <= most or found.size == 1
        for number in found:
            assert in_parts.setdefault(int(number), band) == band
    assert (covered == 1).all()
    assert np.unique(numbers, return_counts=True)[1].max() <= max(SMALL_PART // length, 1)


def test_bands_give_what_the_whole_record_gives(files: dict[str, Path], whole: Path) -> None:
    ds = opened(files)
    for experiment in ("historical", "ssp585"):
        with xr.open_dataset(whole / f"model_{experiment}.nc") as made:
            for name in ("tas", "pr"):
                settings = settings_for(name, ds["observed"][name], QUICK)
                trained = train(ds["observed"][name], ds["historical"][name], settings)
                expected = trained.adjust(ds[experiment][name])
                np.testing.assert_array_equal(made[name], expected)
                assert made[name].attrs == expected.attrs
    assert len(list((whole / "adjustment").glob("*.nc"))) == 6


def test_files_are_those_of_the_model_and_say_what_was_done(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir() if not path.name.startswith(".")) == [
        "adjustment", "model_historical.nc", "model_ssp585.nc"]  # fmt: skip
    with xr.open_dataset(whole / "model_ssp585.nc", decode_times=xr.coders.CFDatetimeCoder(use_cftime=True)) as ds:
        assert ds.time.dt.calendar == "noleap"
        assert ds.sizes == {"time": 4 * 365, "lat": 6, "lon": 9, "bnds": 2}
        assert {"lat_bnds", "lon_bnds"} <= set(ds.variables)
        assert ds.attrs["bias_adjustment_reference"] == "2000-2002"
        assert "xsdba" in ds.attrs["bias_adjustment_package"]
        assert "bias adjustment of ssp585" in ds.attrs["history"].splitlines()[0]
        assert ds.attrs["source"] == "random numbers"
        assert "additive qdm" in ds.tas.attrs["bias_adjustment"]


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_grids_of_one_and_two_dimensions(tmp_path: Path, shape: tuple[int, ...]) -> None:
    records = [record(seed, shape=(2, 3), shift=seed)[["tas"]] for seed in (1, 2)]
    if len(shape) == 1:
        records = [ds.stack(cell=("lat", "lon")).reset_index("cell", drop=True).isel(cell=slice(5)) for ds in records]
        records = [ds.drop_vars([name for name in ds.coords if name != "time"]) for ds in records]
    observed, model = records
    made = adjust_records(observed, model, {"historical": model}, {"tas": QUICK}, tmp_path, reference=YEARS)
    with xr.open_dataset(made.files["historical"]) as ds:
        assert ds.tas.shape == (3 * 365, *shape)
        np.testing.assert_allclose(ds.tas.mean(), observed.tas.mean(), atol=0.05)


def test_families_are_adjusted_in_order(tmp_path: Path) -> None:
    def family(seed: int) -> xr.Dataset:
        ds = record(seed, shape=(2, 3))[["tas"]]
        random = np.random.default_rng(seed)
        below, above = (random.gamma(2, seed, ds.tas.shape).astype(np.float32) for _ in range(2))
        for name, values in (("tasmin", ds.tas - below), ("tasmax", ds.tas + above)):
            method = "time: minimum" if name == "tasmin" else "time: maximum"
            ds[name] = values.assign_attrs({**KELVIN, "cell_methods": method})
        return ds

    observed, model = family(1), family(2)
    settings = {"tas": QUICK, "tasrange": QUICK, "tasskew": QUICK}
    made = adjust_records(observed, model, {"historical": model}, settings, tmp_path, reference=YEARS)
    assert set(made.settings) == {"tas", "tasrange", "tasskew"}
    with xr.open_dataset(made.files["historical"]) as ds:
        assert set(ds.data_vars) == {"tas", "tasmin", "tasmax"}
        assert (ds.tasmin <= ds.tas).all()
        assert (ds.tas <= ds.tasmax).all()
        for name in ds.data_vars:
            np.testing.assert_allclose(ds[name].mean(), observed[name].mean(), atol=0.1)
        assert "tasrange: multiplicative" in ds.tasmax.attrs["bias_adjustment"]
        assert ds.tasmin.attrs["cell_methods"] == "time: minimum"
    with pytest.raises(OptionError, match=r"tasmax: expected settings.*'tasrange', 'tasskew'"):
        adjust_records(observed, model, {"historical": model}, {"tasmax": QUICK}, tmp_path / "b", reference=YEARS)


def test_cells_left_are_named(tmp_path: Path) -> None:
    observed, model = (record(seed, shape=(2, 3)) for seed in (1, 2))
    observed.tas[:, 1, 2] = np.nan
    observed.pr[:, 0, 1] = 0
    made = adjust_records(observed, model, {"historical": model}, SETTINGS, tmp_path, reference=YEARS)
    notes = " / ".join(made.notes)
    assert (
        "tas: 1 of 6 cells without a year of observations are not adjusted (the first at lat 53.5, lon 37.5)" in notes
    )
    assert "pr: 1 of 6 cells without any positive value are not adjusted (the first at lat 44.5, lon 22.5)" in notes
    assert made.counts["historical"]["tas"].unobserved == 1
    with xr.open_dataset(made.files["historical"]) as ds:
        np.testing.assert_array_equal(ds.tas[:, 1, 2], model.tas[:, 1, 2])


# Resuming.

KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from downscale.projections import adjustment
adjustment.PART_VALUES = {part}
from test_project_bands import adjust
files = {{name: Path({folder!r}) / f"{{name}}.nc" for name in ("observed", "historical", "ssp585")}}
adjust(files, Path({target!r}), resume=True)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_bytes(files: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "adjusted"
    code = KILLED.format(
        tests=str(Path(__file__).parent), folder=str(files["observed"].parent), target=str(target), part=SMALL_PART
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    bands = target / ".model_bands"
    while process.poll() is None and len(list(bands.glob(".*.manifest"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(bands.glob("*.nc"))
    assert not list(target.glob("*.nc"))
    made = adjust(files, target, resume=True)
    assert 0 < made.kept < made.tasks == 6
    assert digests(target) == digests(whole)
    assert not bands.exists()
    assert not [path for path in target.rglob(".*") if path.name.endswith((".part", ".lock"))]
    again = adjust(files, target, resume=True)
    assert (again.tasks, again.notes, again.counts) == (0, made.notes, made.counts)


def test_a_further_scenario_needs_no_training(files: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "adjusted"
    adjust(files, target, ("historical",))
    times = {path.name: path.stat().st_mtime_ns for path in (target / "adjustment").iterdir()}
    adjust(files, target, ("ssp585",))
    assert {path.name: path.stat().st_mtime_ns for path in (target / "adjustment").iterdir()} == times
    assert digests(target) == digests(whole)
    # Other settings do.
    adjust(files, target, ("ssp585",), settings={**SETTINGS, "tas": {**QUICK, "quantiles": 20}}, overwrite=True)
    later = {path.name: path.stat().st_mtime_ns for path in (target / "adjustment").iterdir()}
    assert {name for name in later if later[name] != times[name]} == {name for name in times if "_tas_" in name}


def test_a_damaged_file_is_made_again(files: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    target = tmp_path / "adjusted"
    adjust(files, target)
    for path in (target / "model_historical.nc", next((target / "adjustment").glob("*_pr_*.nc"))):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    made = adjust(files, target, resume=True)
    assert made.tasks == 6
    assert digests(target) == digests(whole)


# Bad input.


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"reference": (1980, 1990)}, InputError, "reference period 1980-1990"),
        ({"settings": {"tas": "qmd"}}, OptionError, "method"),
        ({"cluster": "nowhere"}, OptionError, "'nowhere'"),
    ],
)
def test_requests_that_do_not_fit_are_refused(
    files: dict[str, Path], tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        adjust(files, tmp_path, **change)
    assert not list(tmp_path.rglob("*.nc"))


def test_records_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    observed, model = (record(seed, shape=(2, 3)) for seed in (1, 2))
    for other, words in (
        (model.drop_vars("pr"), "expected 'pr' in the historical model"),
        (model.isel(lon=slice(2)), "tas: expected observations on the cells of the historical model"),
        (model.expand_dims("member"), "tas: expected"),
    ):
        with pytest.raises(InputError, match=words):
            adjust_records(observed, other, {"historical": other}, SETTINGS, tmp_path, reference=YEARS)
    with pytest.raises(InputError, match="dates along 'time'"):
        adjust_records(observed.drop_vars("time"), model, {}, SETTINGS, tmp_path, reference=YEARS)


def test_files_are_replaced_on_request_only(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model_ssp585.nc").write_bytes(b"mine")
    for options in ({}, {"resume": True}):
        with pytest.raises(OutputError, match="model_ssp585"):
            adjust(files, tmp_path, **options)
    assert (tmp_path / "model_ssp585.nc").read_bytes() == b"mine"


# Slow.


@pytest.mark.slow
def test_workers_of_a_cluster_give_the_same(files: dict[str, Path], whole: Path, tmp_path: Path) -> None:
    adjust(files, tmp_path, cluster="local", workers=2)
    assert digests(tmp_path) == digests(whole)


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_project_bands import opened, QUICK
from downscale.options import set_options
from downscale.projections.bands import adjust_records
files = {{name: Path({folder!r}) / f"{{name}}.nc" for name in ("observed", "historical", "ssp585")}}
ds = opened(files)
with set_options(max_memory="2GB"):
    made = adjust_records(ds["observed"], ds["historical"], {{"ssp585": ds["ssp585"]}}, {{}}, Path({target!r}),
                          reference=(1979, 2014))
print(made.tasks, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_stays_within_the_limit(tmp_path: Path) -> None:
    """Two hundred cells and 36 years with windows of 31 days: two parts."""
    for name, seed, years in (
        ("observed", 1, (1979, 2014)),
        ("historical", 2, (1979, 2014)),
        ("ssp585", 3, (2065, 2100)),
    ):
        record(seed, years, (10, 20))[["tas"]].to_netcdf(tmp_path / f"{name}.nc")
    code = LIMITED.format(tests=str(Path(__file__).parent), folder=str(tmp_path), target=str(tmp_path / "out"))
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert int(found[0]) == 2
    assert int(found[1]) < 2e9
