"""The terrain term: smoothed orography, cell means that stay exact, and choices that self-validation supports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from conftest import shared_data
from hypothesis import given
from hypothesis import strategies as st
from lazy_files import unreadable
from refusals import refused
from result_grids import conic, curvilinear, rotated
from sample_fields import GRIDS, field_on, plane, rain_on, region, relief_on, same_bits, world

import downscale
from downscale.cf.coordinates import select
from downscale.cf.horizontal import horizontal
from downscale.errors import OptionError
from downscale.fields.orography import REACH, Positions, smooth
from downscale.request import Request
from downscale.steps.prepare import plan_maps
from downscale.steps.terrain import DRY_ADIABATIC, MOST_SMOOTHING, positions, settle_terrain

RATE = -6.5e-3


def slow_smooth(field: np.ndarray, weight: np.ndarray, places: Any, width: float) -> np.ndarray:
    """One cell after another, straight from the definition."""
    out = np.empty_like(field)
    axes = []
    for axis in places:
        gap = np.abs(axis.cells[:, None] - axis.cells)
        turns = [gap] if axis.period is None else [gap, np.abs(gap - axis.period), gap + axis.period]
        axes.append(sum(np.where(one <= REACH * width, np.exp(-(one**2) / (2 * width**2)), 0.0) for one in turns))
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            near = np.outer(axes[0][i], axes[1][j]) * weight
            out[i, j] = (near * field).sum() / near.sum() if near.sum() > 0 else field[i, j]
    return out


@given(
    st.integers(1, 7), st.integers(1, 9), st.sampled_from([0.25, 0.4, 1.0, 1.5]), st.booleans(), st.integers(0, 2**31)
)
def test_smoothing_agrees_with_its_definition(rows, columns, width, closed, seed):
    rng = np.random.default_rng(seed)
    field, weight = rng.normal(size=(rows, columns)), rng.uniform(0.1, 1, (rows, columns))
    weight[rng.uniform(size=weight.shape) < 0.3] = 0
    places = Positions(np.sort(rng.uniform(0, rows, rows))), Positions(np.arange(columns), columns if closed else None)
    smoothed = smooth(field, weight, places, width)
    np.testing.assert_allclose(smoothed, slow_smooth(field, weight, places, width), rtol=1e-12, atol=1e-12)
    assert smoothed.min() >= field.min() - 1e-12
    assert smoothed.max() <= field.max() + 1e-12
    np.testing.assert_allclose(smooth(np.full_like(field, 7.0), weight, places, width), 7.0)
    assert smooth(field, weight, places, 0.0) is field


def test_smoothing_crosses_the_seam_of_a_circle():
    grid = world(6, 12)
    places, area = positions(grid), grid.cell_area
    field = np.random.default_rng(0).normal(size=grid.shape)
    rolled = smooth(np.roll(field, 5, axis=1), area, places, 1.0)
    np.testing.assert_allclose(rolled, np.roll(smooth(field, area, places, 1.0), 5, axis=1), rtol=1e-13)
    assert positions(region())[1].period is None


def test_cells_outside_a_mask_do_not_affect_their_neighbours():
    grid = region(6, 8)
    field, weight = np.random.default_rng(0).normal(size=grid.shape), np.ones(grid.shape)
    weight[:, 4:] = 0
    other = np.where(weight > 0, field, 1e9)
    assert same_bits(*(smooth(one, weight, positions(grid), 1.0)[:, :4] for one in (field, other)))
    # Without a valid neighbour a cell keeps its value.
    assert same_bits(smooth(field, np.zeros(grid.shape), positions(grid), 1.0), field)


def on_grids() -> dict[str, tuple[xr.Dataset, dict[str, Any]]]:
    made = {name: (field_on(grid()), {"factor": 2, "orog": relief_on(grid())}) for name, grid in GRIDS.items()}
    for name, ds in (("curvilinear", curvilinear()), ("rotated", rotated()), ("conic", conic())):
        first = next(iter(ds.data_vars))
        orog = select(ds.downscale(2), first).isel(time=0, drop=True).rename({first: "orog"})
        orog.orog.values[:] = np.random.default_rng(2).gamma(0.8, 700.0, orog.orog.shape)
        orog.orog.attrs.update(units="m", standard_name="surface_altitude")
        made[name] = ds, {"factor": 2, "orog": orog}
    made["cut"] = field_on(region()), {"target_grid": "0.3x0.4", "orog": relief_on(region(14, 18, 29, 9))}
    return made


@pytest.mark.parametrize("name", [*GRIDS, "curvilinear", "rotated", "conic", "cut"])
@pytest.mark.parametrize("smoothing", [0, 0.5, 2.0, None])
def test_cell_means_stay_exact(name, smoothing):
    ds, options = on_grids()[name]
    fine = ds.downscale(**options, lapse_rate=RATE, relief_smoothing=smoothing)
    assert ds.downscale.check(fine).passed
    first = next(iter(fine.data_vars))
    plain = ds.downscale(**{key: value for key, value in options.items() if key != "orog"})
    assert float(abs(fine[first] - plain[first]).max()) > 0


def test_pieces_of_cells_are_smoothed_by_their_distance_in_target_cells():
    ds = field_on(region())
    map_plan = plan_maps(ds, Request(target_grid="0.5x0.25"))
    assert map_plan.target.nests
    rows, columns = positions(plan_maps(ds, Request(target_grid="0.4x0.32")).fine)
    np.testing.assert_allclose(rows.cells[-1], 12 / 0.4, atol=1)
    np.testing.assert_allclose(columns.cells[-1], 16 / 0.32, atol=1)
    assert (np.diff(rows.cells) >= 0).all()


def test_the_term_is_that_of_the_smoothed_orography():
    ds, relief = field_on(region()), relief_on(region())
    grid = horizontal(relief).grid
    smoothed = relief.copy()
    smoothed["orog"] = relief.orog.dims, smooth(relief.orog.values, grid.cell_area, positions(grid), 0.75)
    one = ds.downscale(2, orog=relief, lapse_rate=RATE, relief_smoothing=0.75)
    other = ds.downscale(2, orog=smoothed, lapse_rate=RATE, relief_smoothing=0)
    assert same_bits(one.tas, other.tas)
    unresolved = relief.orog - downscale.coarsen(relief, 2).downscale(2, bounds=None).orog
    expected = ds.downscale(2).tas + RATE * unresolved.values
    found = ds.downscale(2, orog=relief, lapse_rate=RATE, relief_smoothing=0).tas
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# Choices.


def terrain_field(
    rate: float, times: int = 5, shape: tuple[int, int] = (24, 32), noise: float = 0.2, width: float = 0.0
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """A coarse field whose detail is that of the orography times ``rate``; the fine field, and the orography."""
    grid = region(*shape, south=0.0)
    relief = relief_on(grid)
    fine_grid = grid.refine(2, 2)
    z = smooth(relief.orog.values, fine_grid.cell_area, positions(fine_grid), width)
    rng = np.random.default_rng(3)
    values = 280 + rate * z + noise * rng.normal(size=(times, *z.shape))
    fine = field_on(fine_grid, times)
    fine["tas"] = fine.tas.dims, values, fine.tas.attrs
    return downscale.coarsen(fine, 2), fine, relief


def choice(ds: xr.Dataset, relief: xr.Dataset, **options: Any) -> Any:
    """The settled request, and the choice of the only variable."""
    settled, choices = settle_terrain(ds, Request(**{"factor": 2, "orog": relief, "lapse_rate": "auto", **options}))
    return settled, choices["tas"]


@pytest.mark.parametrize("rate", [-6.5e-3, -3e-3, 2e-3])
def test_a_rate_that_the_field_has_is_found(rate):
    coarse, _, relief = terrain_field(rate)
    settled, found = choice(coarse, relief)
    assert abs(found.rate) <= abs(rate) * 1.02
    assert found.rate == pytest.approx(rate, rel=0.15)
    assert found.error < 0.9
    assert settled.lapse_rate == found.rate == float(f"{found.rate:.3g}")
    assert 0 < found.smoothing <= MOST_SMOOTHING


def test_without_a_relation_there_is_no_term():
    coarse, _, relief = terrain_field(0.0, noise=3.0)
    settled, found = choice(coarse, relief)
    assert found.rate is None
    assert "no rate lowers the error" in found.reason
    same = coarse.downscale(2, orog=relief, lapse_rate="auto")
    assert same_bits(same.tas, coarse.downscale(2).tas)
    assert "lapse_rate=tas:none" in same.attrs["downscale_settings"]
    assert settled.lapse_rate == {"tas": None}


def test_a_rate_of_a_temperature_is_at_most_dry_adiabatic():
    coarse, _, relief = terrain_field(-0.05)
    assert choice(coarse, relief)[1].rate == -DRY_ADIABATIC
    coarse.tas.attrs.update(units="g m-2", standard_name="unknown")
    assert choice(coarse, relief, bounds=None)[1].rate == pytest.approx(-0.05, rel=0.1)


def test_a_field_of_smooth_orography_is_smoothed():
    rough, smoothed = (choice(*terrain_field(RATE, width=w, noise=0.01)[::2])[1] for w in (0.0, 2.0))
    assert rough.smoothing < smoothed.smoothing == MOST_SMOOTHING


def test_smoothing_of_a_given_rate_is_chosen_too():
    coarse, fine, relief = terrain_field(RATE, width=1.0)
    made = {s: coarse.downscale(2, orog=relief, lapse_rate=RATE, relief_smoothing=s) for s in (0, None)}
    errors = {s: float(((one.tas - fine.tas) ** 2).mean()) for s, one in made.items()}
    assert errors[None] < errors[0]
    found = choice(coarse, relief, lapse_rate=RATE)[1]
    assert found.rate == RATE
    assert f"relief_smoothing={found.smoothing:g}" in made[None].attrs["downscale_settings"]
    constant = xr.full_like(relief.orog, RATE)
    assert choice(coarse, relief, lapse_rate=constant)[1].smoothing == found.smoothing


def test_numbers_need_no_choice_and_no_reading():
    coarse, _, relief = terrain_field(RATE)
    lazy = unreadable(coarse).chunk(time=1)
    lazy.downscale(2, orog=relief, lapse_rate=RATE, relief_smoothing=1)
    plan = lazy.downscale.plan(2, orog=relief, lapse_rate="auto")
    assert any("chosen by self-validation" in note for note in plan.notes)
    request = Request(factor=2, orog=relief, lapse_rate=RATE, relief_smoothing=0.5)
    assert settle_terrain(lazy, request) == (request, {})
    assert settle_terrain(lazy, Request(factor=2)) == (Request(factor=2), {})


def test_a_sample_of_maps_is_read():
    coarse, _, relief = terrain_field(RATE, times=40)
    count = [0]

    def counted(block: np.ndarray) -> np.ndarray:
        count[0] += len(block)
        return block

    lazy = coarse.chunk(time=1)
    lazy["tas"] = lazy.tas.copy(data=lazy.tas.data.map_blocks(counted, dtype="f8", meta=np.empty((0, 0, 0))))
    with dask.config.set(scheduler="synchronous"):
        assert choice(lazy, relief)[0] == choice(coarse, relief)[0]
    assert count[0] == 12


@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": 2, "lat": 5, "lon": 7}])
def test_chunks_change_no_bit(chunks):
    coarse, _, relief = terrain_field(RATE, times=15)
    for options in ({"lapse_rate": "auto"}, {"lapse_rate": RATE}, {"lapse_rate": "auto", "relief_smoothing": 0.5}):
        whole = coarse.downscale(2, orog=relief, **options)
        cut = coarse.chunk(chunks).downscale(2, orog=relief.chunk(lat=7), **options)
        assert cut.attrs["downscale_settings"] == whole.attrs["downscale_settings"]
        assert same_bits(cut.tas.compute(), whole.tas)


def test_other_variables_and_units_change_no_choice():
    coarse, _, relief = terrain_field(RATE)
    found = choice(coarse, relief)[1]
    celsius = coarse.assign(tas=(coarse.tas - 273.15).assign_attrs(coarse.tas.attrs, units="degC"))
    assert choice(celsius, relief)[1].rate == pytest.approx(found.rate, rel=0.01)
    rain = rain_on(region(24, 32, south=0.0), 5).pr
    both = coarse.assign(pr=(rain.dims, rain.values, rain.attrs))
    settled, choices = settle_terrain(both, Request(factor=2, orog=relief, lapse_rate="auto"))
    assert choices["tas"] == found
    assert settled.lapse_rate == {"tas": found.rate, "pr": None}
    assert choices["pr"].reason == "the values are bounded"
    fine = both.downscale(2, orog=relief, lapse_rate="auto")
    assert same_bits(fine.tas, coarse.downscale(2, orog=relief, lapse_rate="auto").tas)
    assert same_bits(fine.pr, both.downscale(2).pr)


def test_missing_cells_and_masks():
    coarse, _, relief = terrain_field(RATE)
    found = choice(coarse, relief)[1]
    gaps = coarse.copy(deep=True)
    gaps.tas[:, 3:7, 4:9] = np.nan
    assert choice(gaps, relief)[1].rate == pytest.approx(found.rate, rel=0.1)
    mask = xr.ones_like(relief.orog)
    mask[10:20, 12:30] = 0
    mask.attrs = {}
    fine = coarse.downscale(2, orog=relief, lapse_rate="auto", mask=mask)
    assert coarse.downscale.check(fine, mask=mask).passed
    missing = coarse.copy(deep=True)
    missing.tas[:] = np.nan
    assert choice(missing, relief)[1].rate is None


def test_small_fields_have_no_choice():
    coarse, _, relief = terrain_field(RATE, shape=(5, 32))
    found = choice(coarse, relief)[1]
    assert found.rate is None
    assert "6 coarse cells along each axis" in found.reason
    assert choice(coarse, relief, lapse_rate=RATE)[1].smoothing == MOST_SMOOTHING


def test_the_method_may_be_any_kernel():
    coarse, _, relief = terrain_field(RATE)
    for method in ("conservative", "bilinear", "cascade"):
        found = choice(coarse, relief, method=method)[1]
        assert found.rate == pytest.approx(RATE, rel=0.5)


def test_rates_by_variable():
    coarse, _, relief = terrain_field(RATE)
    both = coarse.assign(ps=coarse.tas.assign_attrs(units="Pa", standard_name="surface_air_pressure"))
    fine = both.downscale(2, orog=relief, lapse_rate={"tas": RATE, "ps": None}, relief_smoothing={"tas": 0.5})
    assert same_bits(fine.ps, both.downscale(2).ps)
    assert same_bits(fine.tas, coarse.downscale(2, orog=relief, lapse_rate=RATE, relief_smoothing=0.5).tas)
    assert "lapse_rate=tas:-0.0065 ps:none, relief_smoothing=tas:0.5 ps:none" in fine.attrs["downscale_settings"]


def test_a_climatology_takes_the_place_of_a_chosen_rate():
    coarse, fine, relief = terrain_field(RATE)
    observed = fine.isel(time=0, drop=True)
    assert choice(coarse, relief)[1].rate is not None
    found = choice(coarse, relief, climatology=observed)[1]
    assert found.rate is None
    assert "the climatology has the effect of orography already" in str(found)
    both = coarse.downscale(2, orog=relief, climatology=observed, lapse_rate="auto")
    assert same_bits(both.tas, coarse.downscale(2, climatology=observed).tas)
    given = coarse.downscale(2, orog=relief, climatology=observed, lapse_rate=RATE, relief_smoothing=1)
    assert coarse.downscale.check(given).passed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lapse_rate": "fast"}, "expected lapse_rate to be a number in units per metre, .* received 'fast'"),
        ({"lapse_rate": np.nan}, "expected lapse_rate to be a number, .* received nan"),
        ({"lapse_rate": True}, "expected lapse_rate to be a number, .* received True"),
        ({"lapse_rate": {"pr": RATE}}, "expected lapse_rate of variables among 'tas', received 'pr'"),
        ({"lapse_rate": RATE, "relief_smoothing": -1}, "relief_smoothing to be a number from 0 to 50, received -1"),
        ({"lapse_rate": RATE, "relief_smoothing": "auto"}, "relief_smoothing to be a number .* received 'auto'"),
        ({"lapse_rate": RATE, "relief_smoothing": np.inf}, "relief_smoothing to be a number .* received inf"),
        ({"lapse_rate": RATE, "relief_smoothing": {"z": 1}}, "relief_smoothing of variables among 'tas', received 'z'"),
        ({"relief_smoothing": 1}, "expected lapse_rate with relief_smoothing, received none"),
        ({"lapse_rate": "auto", "method": "temperature"}, 'a kernel with lapse_rate "auto", received \'temperature\''),
    ],
)
def test_refusals(options, words):
    with pytest.raises(OptionError, match=words):
        field_on(region()).downscale(options.pop("factor", 4 if "method" in options else 2),
                                     orog=relief_on(region()), **options)  # fmt: skip


def test_a_field_of_rates_per_kilometre_is_refused():
    relief = relief_on(region())
    rate = xr.full_like(relief.orog, -6.5).assign_attrs(units="K km-1")
    rate[0, :3] = [np.nan, -8.0, 9.0]
    with pytest.raises(OptionError, match=r"expected lapse_rate in K per metre for 'tas', .* by 1000: 0.009"):
        field_on(region()).downscale(2, orog=relief, lapse_rate=rate)


def test_auto_needs_an_orography():
    with pytest.raises(OptionError, match="expected orog with lapse_rate, received none"):
        field_on(region()).downscale(2, lapse_rate="auto")


# Runs.


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> xr.Dataset:
    monkeypatch.chdir(tmp_path)
    coarse, _, relief = terrain_field(RATE, times=30)
    coarse.to_netcdf("in.nc")
    relief.to_netcdf("z.nc")
    return coarse


def recipe(name: str, terrain: dict[str, Any], **output: Any) -> dict[str, Any]:
    return {
        "input": {"path": "in.nc"}, "statics": {"orog": "z.nc"}, "downscale": {"factor": 2}, "terrain": terrain,
        "output": {"path": name, **output},
    }  # fmt: skip


def test_blocks_share_the_choice_of_the_whole_record(files):
    whole = downscale.run(recipe("whole.nc", {"lapse_rate": "auto"}, report="report.html"))
    cut = downscale.run(recipe("cut.nc", {"lapse_rate": "auto"}, blocks=7))
    one, other = xr.open_dataset("whole.nc"), xr.open_dataset("cut.nc")
    assert same_bits(one.tas, other.tas)
    assert one.attrs["downscale_settings"] == other.attrs["downscale_settings"]
    assert whole.terrain == cut.terrain
    chosen = whole.terrain["tas"]
    assert f"lapse_rate={chosen.rate:g}" in one.attrs["downscale_settings"]
    assert str(chosen) in Path("report.html").read_text()
    assert whole.self_validation["tas"]["sobolev with terrain"] < whole.self_validation["tas"]["sobolev"]
    again = downscale.run(recipe("cut.nc", {"lapse_rate": "auto"}, blocks=7), resume=True)
    assert again.kept == again.blocks


def test_the_command_line(files):
    from command import command

    said = command("apply", "in.nc", "out.nc", "--factor", "2", "--orog", "z.nc", "--lapse-rate", "auto",
                   "--relief-smoothing", "0.5")  # fmt: skip
    assert said.status == 0, said.err
    assert "orography smoothed by 0.5 fine cells" in said.out + said.err
    apply = ("apply", "in.nc", "no.nc", "--factor", "2")
    refused("--lapse-rate as a number in units per metre or auto, received 'x'", *apply, "--orog", "z.nc",
            "--lapse-rate", "x")  # fmt: skip
    refused("--relief-smoothing to be a number from 0 to 50", *apply, "--orog", "z.nc", "--lapse-rate", "auto",
            "--relief-smoothing", "-2")  # fmt: skip
    refused("expected --lapse-rate with --relief-smoothing", *apply, "--orog", "z.nc", "--relief-smoothing", "1")
    refused("expected --orog with --lapse-rate", *apply, "--lapse-rate", "auto")


# Real fields.


@pytest.mark.parametrize("factor", [2, 4])
def test_unseen_times_of_a_real_field_gain(factor):
    with downscale.open_dataset(shared_data("temperature_era5_uk_0p25deg_201903_d01-20.nc"), chunks=None) as ds:
        whole = {dim: slice(0, ds.sizes[dim] // factor * factor) for dim in ("lat", "lon")}
        fine = ds.isel(whole).isel(time=slice(None, None, 8)).load()
    coarse, orog = downscale.coarsen(select(fine, "t2m"), factor), select(fine, "orog")
    seen, unseen = {"time": slice(0, 30)}, {"time": slice(30, None)}
    settled, _ = settle_terrain(coarse.isel(seen), Request(factor=factor, orog=orog, lapse_rate="auto"))

    def error(**options: Any) -> float:
        made = coarse.isel(unseen).downscale(factor, **options)
        return float(((made.t2m - fine.t2m.isel(unseen)) ** 2).mean()) ** 0.5

    term = {"lapse_rate": settled.lapse_rate, "relief_smoothing": settled.relief_smoothing}
    assert error(orog=orog, **term) < 0.97 * error()


def test_planes_take_a_term():
    assert choice(field_on(plane()), relief_on(plane()))[1].reason
