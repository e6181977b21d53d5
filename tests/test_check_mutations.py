"""A check that can fail: planted faults of a fine field are caught on every kind of pair of grids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from result_grids import GRIDS
from sample_fields import field_on, rain_on, region, world

import downscale
from downscale.conservation import regions
from downscale.errors import DownscaleError, GridError, InputError

Pair = tuple[xr.Dataset, xr.Dataset]


def _nested() -> Pair:
    coarse = field_on(region())
    return coarse, coarse.downscale(4)


def _not_nested(method: str = "sobolev", target: str = "0.31x0.37") -> Pair:
    coarse = field_on(region())
    return coarse, coarse.downscale(target_grid=target, method=method)


def _unsigned(pair: Pair) -> Pair:
    """A fine field that does not say how it was made."""
    return pair[0], pair[1].assign_attrs(downscale_settings="")


def _masked() -> Pair:
    coarse = field_on(region(), missing=0.2)
    return coarse, coarse.downscale(4)


def _masked_not_nested() -> Pair:
    coarse = field_on(region(), missing=0.2)
    return coarse, coarse.downscale(target_grid="0.31x0.37")


def _globe() -> Pair:
    """Grids whose only common edges are the poles."""
    coarse = field_on(world())
    lat, lon = np.linspace(-90, 90, 54)[:-1], np.arange(103) * 360 / 103 + 1.0
    target = xr.Dataset(coords={
        "lat": ("lat", lat + 90 / 53, {"units": "degrees_north"}), "lon": ("lon", lon, {"units": "degrees_east"})
    })  # fmt: skip
    return coarse, coarse.downscale(target_grid=target)


def _of(name: str) -> Callable[[], Pair]:
    def made() -> Pair:
        coarse = GRIDS[name]()
        return coarse, coarse.downscale(4)

    return made


def _projected_not_nested() -> Pair:
    coarse = GRIDS["equal_area"]()
    return coarse, coarse.downscale(target_grid="7000x9000")


PAIRS: dict[str, Callable[[], Pair]] = {
    "nested": _nested,
    "not nested": _not_nested,
    "not nested, conservative": lambda: _not_nested("conservative"),
    "not nested, bilinear": lambda: _unsigned(_not_nested("bilinear")),
    "not nested, of no known method": lambda: _unsigned(_not_nested("bicubic")),
    "coarser rows": lambda: _not_nested(target="1.7x0.37"),
    "globe": _globe,
    "masked": _masked,
    "masked, not nested": _masked_not_nested,
    "curvilinear": _of("curvilinear"),
    "projected": _of("conic"),
    "rotated": _of("rotated"),
    "projected, not nested": _projected_not_nested,
}


def values_of(fine: xr.Dataset, change: Callable[[np.ndarray], np.ndarray]) -> xr.Dataset:
    (name,) = fine.data_vars
    dims = fine[name].dims
    assert dims[0] == "time"
    return fine.assign({name: fine[name].copy(data=change(fine[name].values.copy()))})


def swapped(values: np.ndarray) -> np.ndarray:
    """Two values far apart are exchanged on one map."""
    first, last = np.argwhere(np.isfinite(values[1]))[[values.shape[2] // 3, -values.shape[2] // 3]]
    one, other = (1, *first), (1, *last)
    assert values[one] != values[other]
    values[one], values[other] = values[other], values[one]
    return values


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        place = np.argwhere(np.isfinite(values[0]))
        values[(0, *place[len(place) // 2])] = value
        return values

    return change


FAULTS: dict[str, Callable[[xr.Dataset, int], xr.Dataset]] = {
    "turned by half a circle": lambda f, k: values_of(f, lambda v: np.roll(v, v.shape[-1] // 2, -1)),
    "shifted by a coarse cell": lambda f, k: values_of(f, lambda v: np.roll(v, k, -1)),
    "shifted by a fine column": lambda f, k: values_of(f, lambda v: np.roll(v, 1, -1)),
    "shifted by a fine row": lambda f, k: values_of(f, lambda v: np.roll(v, 1, -2)),
    "north and south exchanged": lambda f, k: values_of(f, lambda v: v[:, ::-1]),
    "two values exchanged": lambda f, k: values_of(f, swapped),
    "scaled by 1.0001": lambda f, k: values_of(f, lambda v: v * np.asarray(1.0001, v.dtype)),
    "one infinite": lambda f, k: values_of(f, with_one(np.inf)),
    "one missing": lambda f, k: values_of(f, with_one(np.nan)),
    "two maps exchanged": lambda f, k: values_of(f, lambda v: v[[1, 0, *range(2, len(v))]]),
    "other dates": lambda f, k: f.assign_coords(time=f.indexes["time"] + (f.indexes["time"][1] - f.indexes["time"][0])),
    "other units": lambda f, k: f.assign({n: v.assign_attrs(units="degC") for n, v in f.data_vars.items()}),
    "units that do not fit": lambda f, k: f.assign({n: v.assign_attrs(units="mm") for n, v in f.data_vars.items()}),
}
# The means near a cell leave a method that is not known free to make such values.
BLIND = {("not nested, of no known method", "two values exchanged")}


# The others add nothing but breadth.
QUICK = {"nested", "globe", "masked, not nested", "projected"}
EVERY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PAIRS]


@pytest.fixture(scope="module")
def pairs() -> dict[str, Pair]:
    return {}


@pytest.mark.parametrize("grids", EVERY)
def test_the_fine_field_itself_passes(grids, pairs):
    pairs[grids] = PAIRS[grids]()
    assert downscale.check_conservation(*pairs[grids]).passed


def verdict(coarse: xr.Dataset, fine: xr.Dataset) -> bool:
    try:
        return downscale.check_conservation(coarse, fine).passed
    except DownscaleError:
        return False


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("grids", EVERY)
def test_every_planted_fault_is_caught(grids, fault, pairs):
    if grids not in pairs:
        pairs[grids] = PAIRS[grids]()
    if (grids, fault) in BLIND:
        pytest.skip("a swap of single values is one of the fields that an unknown method may make")
    coarse, fine = pairs[grids]
    step = max(round(fine.tas.shape[-1] / coarse.tas.shape[-1]), 1)
    bad = FAULTS[fault](fine, step)
    assert not verdict(coarse, bad)


def test_no_infinite_value_passes_anywhere():
    """Of both signs within one cell, under a missing coarse cell, where grids nest and where they do not."""
    for make in (_nested, _not_nested, _masked, _masked_not_nested):
        coarse, fine = make()
        for values in ([np.inf, -np.inf], [np.inf, np.inf], [-np.inf]):
            bad = fine.tas.values.copy()
            for i, value in enumerate(values):
                bad[0, 5, 5 + i] = value
            report = downscale.check_conservation(coarse, fine.assign(tas=fine.tas.copy(data=bad)))
            assert not report.passed
    coarse, fine = _masked()
    bad = fine.copy(deep=True)
    row, column = np.argwhere(coarse.tas.isnull().values[0])[0] * 4
    bad.tas[0, row, column : column + 2] = [np.inf, -np.inf]
    assert downscale.check_conservation(coarse, bad)["tas"].cells_invented == 1


def test_cell_error_shows_infinite_values():
    coarse, fine = _nested()
    bad = fine.copy(deep=True)
    bad.tas[1, 9, 14] = np.inf
    bad.tas[2, 1, 1:3] = [np.inf, -np.inf]
    found = downscale.cell_error(coarse, bad)
    assert np.isinf(found.tas_relative_error.values[[1, 2], [2, 0], [3, 0]]).all()
    assert int(np.isinf(found.tas_relative_error).sum()) == 2
    assert int(np.isinf(found.tas_error).sum()) == 2


def test_the_claim_is_what_was_compared():
    coarse, fine = _nested()
    cells = downscale.check_conservation(coarse, fine)["tas"]
    assert (cells.claim, cells.compared, cells.per_map, cells.near_checked) == ("cell", "cells", coarse.tas[0].size, 0)
    coarse, fine = _globe()
    report = downscale.check_conservation(coarse, fine)
    whole = report["tas"]
    assert (whole.claim, whole.per_map, whole.near_checked) == ("whole area", 1, coarse.tas.size)
    assert whole.near_bound == 0
    assert "neighbourhood" in repr(report)
    assert "cell " not in repr(report).splitlines()[2]
    assert report.to_dict()["variables"]["tas"]["claim"] == "whole area"
    bands = downscale.check_conservation(coarse, coarse.downscale(target_grid="4x7.5"))["tas"]
    assert bands.claim.startswith(("bands (", "regions ("))
    part = downscale.check_conservation(coarse, coarse.downscale(2).isel(lat=slice(4, 20)))["tas"]
    assert part.claim == f"cells ({part.per_map} per map)"
    assert downscale.check_conservation(coarse, fine, law="total")["tas"].claim == "total"


def test_units_are_converted_where_they_fit():
    for coarse, fine in (_nested(), _not_nested()):
        celsius = fine.assign(tas=(fine.tas - 273.15).assign_attrs(fine.tas.attrs | {"units": "degC"}))
        report = downscale.check_conservation(coarse, celsius)
        assert report.passed
        assert report["tas"].units == "K"
        assert downscale.check_conservation(celsius_of(coarse), fine).passed
        assert not downscale.check_conservation(coarse, fine.assign(tas=celsius.tas.assign_attrs(units="K"))).passed
    with pytest.raises(InputError, match=r"tas: expected units .* fit 'K', received 'mm'; convert"):
        downscale.check_conservation(coarse, fine.assign(tas=fine.tas.assign_attrs(units="mm")))
    with pytest.warns(UserWarning, match="cannot be compared"):
        downscale.check_conservation(coarse, fine.assign(tas=fine.tas.assign_attrs(units="very warm")))
    bare = fine.assign(tas=fine.tas.drop_attrs())
    assert downscale.check_conservation(coarse, bare).passed


def celsius_of(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign(tas=(ds.tas - 273.15).assign_attrs(ds.tas.attrs | {"units": "degC"}))


def test_single_maps_of_two_dates_are_refused():
    coarse, fine = _nested()
    one, other = coarse.isel(time=0), fine.isel(time=1)
    with pytest.raises(GridError, match=r"tas: expected 'time' .* received .*; select the same"):
        downscale.check_conservation(one, other)
    assert downscale.check_conservation(one, fine.isel(time=0)).passed


def with_areas(ds: xr.Dataset, values: Any, name: str = "areacello", units: str = "m2") -> xr.Dataset:
    ds = ds.drop_vars("areacella", errors="ignore")
    fields = {n: v.assign_attrs(cell_measures=f"area: {name}") for n, v in ds.data_vars.items()}
    attrs = {"standard_name": "cell_area", "units": units}
    return ds.assign(fields).assign_coords({name: (ds.tas.dims[1:], values, attrs)})


def test_areas_of_a_file_weigh_the_global_error_where_they_fit():
    coarse, fine = _nested()
    exact = downscale.cell_area(coarse).values
    assert downscale.check_conservation(with_areas(coarse, exact * 1.003), fine)["tas"].areas.startswith("areacello")
    assert downscale.check_conservation(with_areas(coarse, exact / 1e6, units="km2"), fine)["tas"].areas != ""
    off = values_of(fine, lambda v: v * np.where(np.arange(v.shape[-1]) < 4, 1.01, 1.0))
    plain = downscale.check_conservation(coarse, off)["tas"].global_error
    heavy = exact * np.where(np.arange(exact.shape[1]) < 1, 1.15, 1.0)
    assert downscale.check_conservation(with_areas(coarse, heavy), off)["tas"].global_error > 1.05 * plain
    assert downscale.check_conservation(with_areas(coarse, heavy), fine).passed


@pytest.mark.parametrize("factor", [6.5e4, 1e-6])
@pytest.mark.parametrize("which", [0, 1])
def test_areas_that_contradict_the_grid_are_warned_about(factor, which):
    pair = list(_nested())
    pair[which] = with_areas(pair[which], downscale.cell_area(pair[which]).values * factor)
    with pytest.warns(UserWarning, match=r"areacello: expected the cell areas of the (coarse|fine) file.*repair"):
        report = downscale.check_conservation(*pair)
    assert report["tas"].areas == ""


def test_areas_of_one_variable_do_not_weigh_the_next():
    coarse, fine = _nested()
    fine = values_of(fine, lambda v: v * np.where(np.arange(v.shape[-1]) < 4, 1.01, 1.0))
    coarse, fine = (ds.assign(rsds=ds.tas * 2.0) for ds in (coarse, fine))
    exact = downscale.cell_area(coarse).values
    heavy = with_areas(coarse, exact * np.where(np.arange(exact.shape[1]) < 1, 1.15, 1.0), "heavy")
    wrong = with_areas(coarse, exact * 6.5e4, "wrong")
    both = heavy.assign(rsds=wrong.rsds).assign_coords(wrong=wrong.wrong)
    with pytest.warns(UserWarning, match="wrong: expected the cell areas"):
        report = downscale.check_conservation(both, fine)
    assert report["tas"].areas.startswith("heavy")
    assert report["rsds"].areas == ""
    assert report["rsds"].global_error == downscale.check_conservation(coarse, fine)["rsds"].global_error


def test_a_gap_where_the_mask_is_valid_is_lost_and_other_gaps_are_counted():
    coarse = field_on(region())
    mask = xr.DataArray(np.random.default_rng(1).uniform(size=(48, 64)) > 0.3, coordinates_of(coarse), ("lat", "lon"))
    fine = coarse.downscale(4, mask=mask, method="conservative")
    assert downscale.check_conservation(coarse, fine, mask=mask).passed
    row, column = np.argwhere(mask.values)[40]
    hole = fine.copy(deep=True)
    hole.tas[0, row, column] = np.nan
    # The values of a cell are all the same: without the mask nothing tells that one should be there.
    report = downscale.check_conservation(coarse, hole)
    assert report.passed
    assert report["tas"].cells_with_gaps > 500
    assert "partly missing" in repr(report)
    assert downscale.check_conservation(coarse, hole, mask=mask)["tas"].cells_lost == 1


def coordinates_of(coarse: xr.Dataset) -> dict[str, Any]:
    fine = coarse.downscale(4)
    return {"lat": fine.lat, "lon": fine.lon}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bicubic", "cascade"])
@pytest.mark.parametrize("target", ["0.31x0.37", "0.9x0.7", "1.7x1.9"])
def test_fields_of_methods_that_are_not_known_pass(method, target):
    """The bound is wide enough for overshoots and for noise of the size of the cells."""
    for coarse in (field_on(region(12, 14)), rain_on(region(12, 14))):
        fine = coarse.downscale(target_grid=target, method=method).assign_attrs(downscale_settings="")
        assert downscale.check_conservation(coarse, fine).passed


def test_the_bound_holds_for_any_field_with_the_same_means():
    """Of noise on the parts, whose means over coarse cells are zero, nothing is beyond the bound of its own range."""
    coarse = field_on(region(5, 6), 1)
    comparison = _overlapping(coarse)
    rng = np.random.default_rng(3)
    parts_y, parts_x = comparison[1]
    weights = np.multiply.outer(parts_y.measure, parts_x.measure)
    cells = np.add.outer(np.arange(parts_y.size) // parts_y.count * 6, np.arange(parts_x.size) // parts_x.count)
    noise = rng.normal(size=weights.shape) * (weights > 0)
    flat = np.bincount(cells.ravel(), (noise * weights).ravel()) / np.bincount(cells.ravel(), weights.ravel())
    noise -= flat[cells]
    off = comparison[2].apply_mask(weights > 0).mean(noise)
    near = regions.Neighbourhoods.of(comparison[1])
    zero = np.zeros_like(off)
    found = regions.check_neighbourhoods(np.ones((5, 6)), off + 1, zero + 1, near, (0, 0), 1e-12)
    assert (found.near_checked, found.near_failed) == (30, 0)
    shifted = regions.check_neighbourhoods(np.ones((5, 6)), off + 2, zero + 1, near, (0, 0), 1e-12)
    assert shifted.near_failed > 0


def _overlapping(coarse: xr.Dataset) -> Any:
    from downscale.cf.horizontal import horizontal
    from downscale.fields.aggregate import SupermeshMean
    from downscale.grid.subcells import Subcells

    fine = coarse.downscale(target_grid="0.31x0.37")
    one, other = horizontal(coarse).grid, horizontal(fine).grid
    parts = Subcells.between(one.y, other.y), Subcells.between(one.x, other.x)
    return fine, parts, SupermeshMean.of(*parts)
