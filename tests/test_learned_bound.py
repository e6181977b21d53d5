"""Learned models on grids, through the engine: any cutting, tight halos, circles, places (dask)."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest
import torch
from learned_models import awake, lat_lon, place_of, rain, some_fields, spec_of
from sample_fields import field_on, plane, rain_on, region, world
from test_curvilinear import bent
from test_projected import projected

import downscale
from downscale.engine.apply import apply
from downscale.engine.job import Job
from downscale.errors import InputError, OptionError, ShapeError
from downscale.fields.fill import fill_missing
from downscale.grid.subcells import Subcells
from downscale.nn.learned import BoundModel, Learned, NetworkInputs, cells_of
from downscale.nn.networks import NETWORKS
from downscale.nn.separable import parts_of, sobolev_operator
from downscale.nn.spec import ModelSpec, Variable
from downscale.typing import Place, Upscaler

FACTOR = (2, 3)


def job_of(up: Any, grid: Any, dtype: str = "float64", conserve: str | None = "cell") -> Job:
    fine = grid.refine(*up.factor)
    bounds = (0.0, None) if conserve else (None, None)
    return Job(
        "pr", up, grid, fine, cells_of(grid, parts_of(grid, up.factor)), np.dtype(dtype), 1e-6, conserve, bounds,
        device="cpu",
    )  # fmt: skip


def bound(spec: ModelSpec, grid: Any, seed: int = 0, double: bool = False) -> BoundModel:
    model = awake(spec, seed)
    return (model.double() if double else model).bind(grid, parts_of(grid, spec.factor))


def maps_on(grid: Any, missing: float = 0.1, count: int = 2) -> np.ndarray:
    rng = np.random.default_rng(5)
    values = rng.gamma(0.6, 3.0, (count, *grid.shape))
    values[rng.uniform(size=values.shape) < missing] = np.nan
    return values


def orog_on(grid: Any) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 3000, grid.refine(*FACTOR).shape)


# Any cutting


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("constraint", "transform"), [("bounded", "local"), ("additive", "linear"), ("none", "log1p")])
@pytest.mark.parametrize("closed", [False, True])
def test_any_cutting_gives_the_same(network: str, constraint: str, transform: str, closed: bool) -> None:
    """Tiled == untiled to 1e-6 of the largest value, at cuts that no level of a network is aligned to."""
    grid = lat_lon(45, 71, closed)
    up = bound(spec_of(network, FACTOR, constraint=constraint, transform=transform), grid)
    job = job_of(up, grid, conserve="cell" if constraint == "bounded" else None)
    values, statics = maps_on(grid), {"orog": orog_on(grid)}
    whole = apply(job, values, statics)
    cut = da.from_array(values, chunks=(1, (7, 1, 20, 17), (3, 40, 13, 15)))
    tiled = apply(job, cut, statics).compute(scheduler="sync")
    assert np.array_equal(np.isnan(whole), np.isnan(tiled))
    assert np.nanmax(np.abs(tiled - whole)) <= 1e-6 * np.nanmax(np.abs(whole))
    # The cuts are real: some blocks are given less than the whole, of rows and of columns.
    assert up.halo is not None
    assert up.halo[0] + 7 < 45
    assert 2 * up.halo[1] + 3 < 71


def test_a_halo_that_is_too_small_shows() -> None:
    """The test above can fail."""
    grid = lat_lon(45, 71)
    up = bound(spec_of("residual", FACTOR, transform="linear"), grid)
    values, statics = maps_on(grid), {"orog": orog_on(grid)}
    whole = apply(job_of(up, grid), values, statics)
    up.halo = 2, 2
    cut = da.from_array(values, chunks=(1, (7, 1, 20, 17), (3, 40, 13, 15)))
    tiled = apply(job_of(up, grid), cut, statics).compute(scheduler="sync")
    assert np.nanmax(np.abs(tiled - whole)) > 1e-6 * np.nanmax(np.abs(whole))


def test_a_network_that_looks_at_everything_is_refused_for_cut_axes() -> None:
    grid = region()
    up = bound(spec_of("residual", FACTOR, context=True), grid)
    assert up.halo is None
    assert up.model.halo is None
    values, statics = maps_on(grid), {"orog": orog_on(grid)}
    whole = apply(job_of(up, grid), values, statics)
    by_map = apply(job_of(up, grid), da.from_array(values, chunks=(1, -1, -1)), statics)
    np.testing.assert_allclose(by_map.compute(scheduler="sync"), whole, rtol=0, atol=1e-6 * np.nanmax(whole))
    for chunks in ((1, 6, -1), (1, -1, 8)):
        with pytest.raises(ShapeError, match="expected uncut horizontal axes, since this method needs the whole"):
            apply(job_of(up, grid), da.from_array(values, chunks=chunks), statics)


# Halos


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ("residual", {}),
        ("residual", {"see_fine": False, "depth": 0, "fine_depth": 0}),
        ("residual", {"fine_width": 0, "depth": 2}),
        ("unet", {"levels": 1}),
        ("autoencoder", {"upsampling": "transposed"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("transform", ["linear", "log1p", "local"])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_halo_is_tight(network: str, options: dict, transform: str, axis: int) -> None:
    """A change in one row moves a fine value ``halo`` rows away, and none beyond: each row is changed in turn."""
    grid = lat_lon(34, 33)
    spec = spec_of(network, FACTOR, constraint="additive", transform=transform, **options)
    up = bound(spec, grid, double=True)
    assert up.halo is not None
    size, found = grid.shape[axis], 0
    for seed in range(3):
        # Half of the cells are missing, so that the kernel's windows are filled from as far as can be.
        values = some_fields(grid, FACTOR, dtype=torch.float64, missing=0.5, seed=seed)[0][0, 0]
        same = values.expand(size, *values.shape)
        changed = same.clone()
        for row in range(size):
            changed.select(0, row).select(axis, row).mul_(1e4).add_(1e3)
        place = place_of(grid, FACTOR)
        moved = (up(changed, place) - up(same, place)).nan_to_num() != 0
        rows = moved.movedim(1 + axis, 1).unflatten(1, (size, FACTOR[axis])).any(dim=2).any(dim=-1)
        away = (torch.arange(size)[:, None] - torch.arange(size)).abs()
        found = max(found, int(away[rows].max()))
    assert found == up.halo[axis]
    assert up.halo[axis] <= up.model.halo[axis]  # type: ignore[index]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_halo_for_all_grids_is_reached_on_a_long_open_axis(network: str) -> None:
    model = awake(spec_of(network, FACTOR))
    grid = lat_lon(150, 150)
    assert model.bind(grid, parts_of(grid, FACTOR)).halo == model.halo


# Networks of any kind


class Own(torch.nn.Module):
    """Convolutions of torch alone, with reflecting edges, dilation, normalisation of channels and a level below."""

    multiple_of = 2

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.head = torch.nn.Conv2d(coarse, 6, 5, padding=2, padding_mode="reflect")
        self.down = torch.nn.Sequential(torch.nn.MaxPool2d(2), torch.nn.Conv2d(6, 6, 3, padding=2, dilation=2))
        self.norm = torch.nn.BatchNorm2d(6)
        self.up = torch.nn.ConvTranspose2d(6, 4, FACTOR, FACTOR)
        self.last = torch.nn.Conv2d(4 + fine, 2, 3, padding=1)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        features = torch.tanh(self.head(coarse))
        features = self.norm(features + torch.nn.functional.interpolate(self.down(features), scale_factor=2))
        return self.last(torch.cat([self.up(features), fine], dim=1))


@pytest.mark.parametrize("closed", [False, True])
def test_any_cutting_gives_the_same_with_a_network_of_any_kind(closed: bool) -> None:
    grid, spec = lat_lon(45, 71, closed), spec_of("own", FACTOR)
    torch.manual_seed(0)
    model = Learned(spec, Own(spec.coarse_channels, spec.fine_channels)).eval()
    up = model.bind(grid, parts_of(grid, FACTOR))
    job, values, statics = job_of(up, grid), maps_on(grid), {"orog": orog_on(grid)}
    whole = apply(job, values, statics)
    cut = da.from_array(values, chunks=(1, (7, 1, 20, 17), (3, 40, 13, 15)))
    tiled = apply(job, cut, statics).compute(scheduler="sync")
    assert np.nanmax(np.abs(tiled - whole)) <= 1e-6 * np.nanmax(np.abs(whole))
    kernel = apply(job_of(sobolev_operator(grid, parts_of(grid, FACTOR)), grid), values, {})
    assert np.nanmax(np.abs(whole - kernel)) > 0.01
    assert up.halo is not None
    assert up.halo[0] + 7 < 45
    assert 2 * up.halo[1] + 3 < 71


# Circles


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("options", [{}, {"context": True}], ids=str)
def test_rolling_longitude_rolls_the_output(network: str, options: dict) -> None:
    if options and network != "residual":
        options = {"upsampling": "resize"}
    grid = lat_lon(8, 18, closed=True)
    up = bound(spec_of(network, FACTOR, **options), grid, double=True)
    values, place = torch.from_numpy(maps_on(grid)), place_of(grid, FACTOR)
    fine = up(values, place)
    step = 3 * up.model.multiple_of
    rolled = Place(grid, place.fine, statics={"orog": place.statics["orog"].roll(3 * step, -1)})
    torch.testing.assert_close(
        up(values.roll(step, -1), rolled), fine.roll(3 * step, -1), rtol=1e-9, atol=1e-9, equal_nan=True
    )


def test_an_open_axis_is_no_circle() -> None:
    grid = lat_lon(8, 18)
    up = bound(spec_of("residual", FACTOR), grid, double=True)
    values, place = torch.from_numpy(maps_on(grid, 0.0)), place_of(grid, FACTOR)
    before = up(values, place)
    values[..., 0] += 100
    assert torch.equal(up(values, place)[..., -3:], before[..., -3:])


# Places and channels


def test_several_variables_predictors_and_times_go_in_and_one_comes_out() -> None:
    grid = region()
    spec = ModelSpec(
        "residual", FACTOR, (Variable("tas"), rain("local")), (Variable("uas"),), ("orog",), ("day_of_year",),
        {"width": 6, "depth": 1, "fine_width": 4}, "bounded",
    )  # fmt: skip
    model = awake(spec)
    x, proposal, cells, statics = some_fields(grid, FACTOR, variables=2, dtype=torch.float64, missing=0.1)
    wind, clock = torch.randn(2, 1, *grid.shape), torch.rand(2, 2, *grid.shape)
    for variable in (0, 1):
        up = model.bind(grid, parts_of(grid, FACTOR), variable)
        whole = fill_missing(x, torch.isnan(x), up.kernel.reach, closed=False)
        seen = NetworkInputs(whole, up.kernel(whole, place_of(grid, FACTOR)), wind)
        wanted = model(x, proposal, cells, wind, statics, clock, network_inputs=seen).detach()
        assert isinstance(up, Upscaler)
        assert up.channels == 5
        assert up.spec.input_channels == ("tas", "pr", "uas", "day_of_year_sin", "day_of_year_cos")
        fine = up(torch.cat([x, wind, clock], dim=1), place_of(grid, FACTOR))
        torch.testing.assert_close(fine, wanted[:, variable], rtol=1e-6, atol=1e-6, equal_nan=True)
        with pytest.raises(ShapeError, match=r"expected 5 coarse fields \(tas, pr, uas, day_of_year_sin, .* \(2, 12"):
            up(x[:, 0], place_of(grid, FACTOR))
    assert "residual network for pr" in repr(up)


def test_one_variable_goes_in_with_or_without_its_channel() -> None:
    grid = region()
    up = bound(spec_of("residual", FACTOR), grid)
    values, place = torch.from_numpy(maps_on(grid)), place_of(grid, FACTOR)
    assert torch.equal(up(values, place).nan_to_num(), up(values[:, None], place).nan_to_num())


def test_the_mask_of_a_place_binds_the_law_to_what_is_valid() -> None:
    grid = region()
    up = bound(spec_of("residual", FACTOR), grid, double=True)
    x, place = torch.from_numpy(maps_on(grid, 0.0)), place_of(grid, FACTOR)
    mask = torch.rand(place.fine.shape) > 0.3
    fine = up(x, Place(grid, place.fine, statics={**place.statics, "mask": mask.double()}))
    assert torch.equal(torch.isnan(fine), ~mask.expand_as(fine))
    cells = up.cells.apply_mask(mask)
    means, known = cells.mean(fine), cells.valid_fraction > 0
    torch.testing.assert_close(means[..., known], x[..., known], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("transform", ["linear", "log1p", "local"])
def test_a_network_sees_no_gap(network: str, transform: str) -> None:
    """Complete cells have the detail that they would have if their neighbours held what the gaps are filled with."""
    grid = region()
    up = bound(spec_of(network, FACTOR, constraint="additive", transform=transform), grid, double=True)
    x, place = torch.from_numpy(maps_on(grid, 0.3)), place_of(grid, FACTOR)
    missing = torch.isnan(x)
    known = ~missing.repeat_interleave(FACTOR[0], -2).repeat_interleave(FACTOR[1], -1)
    whole = up(fill_missing(x, missing, up.kernel.reach, closed=False), place)
    torch.testing.assert_close(up(x, place)[known], whole[known], rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.isnan(up(x, place)), ~known)


def test_a_network_sees_no_coast() -> None:
    """Without a law, which is about valid cells, fine cells beside a mask are what they are without it."""
    grid = region()
    up = bound(spec_of("residual", FACTOR, constraint="none"), grid, double=True)
    x, place = torch.from_numpy(maps_on(grid, 0.0)), place_of(grid, FACTOR)
    mask = torch.rand(place.fine.shape) > 0.3
    fine = up(x, Place(grid, place.fine, statics={**place.statics, "mask": mask.double()}))
    torch.testing.assert_close(fine[:, mask], up(x, place)[:, mask], rtol=1e-12, atol=1e-12)


def test_other_units_give_the_same_field() -> None:
    grid = region()
    up = bound(spec_of("residual", FACTOR, constraint="additive", transform="linear"), grid)
    x, place = torch.from_numpy(maps_on(grid, 0.1)), place_of(grid, FACTOR)
    fine = up(x, place)
    other = up.with_scales(((5 / 9, 255.3722222),))((x - 255.3722222) * 9 / 5, place)
    torch.testing.assert_close(other * 5 / 9 + 255.3722222, fine, rtol=1e-9, atol=1e-6, equal_nan=True)
    assert up.with_scales(((1.0, 0.0),)) is up


def polar() -> Any:
    return projected("EPSG:3995", cells=12)


@pytest.mark.parametrize("make", [bent, polar, plane])
def test_areas_are_those_of_the_grid(make: Any) -> None:
    """Cell law with the areas of quadrilaterals and of projections."""
    grid = make()
    up = bound(spec_of("residual", FACTOR), grid, double=True)
    values = maps_on(grid, 0.0)
    fine = apply(job_of(up, grid, conserve=None), values, {"orog": orog_on(grid)})
    area = grid.refine(*FACTOR).cell_area
    parts = (fine * area).reshape(2, grid.shape[0], 2, grid.shape[1], 3).sum(axis=(2, 4))
    whole = area.reshape(grid.shape[0], 2, grid.shape[1], 3).sum(axis=(1, 3))
    np.testing.assert_allclose(parts / whole, values, rtol=1e-9)


def test_a_long_batch_is_worked_on_map_by_map(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = region()
    up = bound(spec_of("residual", FACTOR), grid, double=True)
    values, place = torch.from_numpy(maps_on(grid, count=5)), place_of(grid, FACTOR)
    whole = up(values, place)
    monkeypatch.setattr("downscale.nn.learned.MOST_VALUES", 1)
    torch.testing.assert_close(up(values, place), whole, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_binding_bakes_kernels_and_leaves_the_model_to_learn() -> None:
    grid = region()
    model = awake(spec_of("residual", FACTOR, upsampling="conservative"))
    x, proposal, cells, statics = some_fields(grid, FACTOR)
    before = model(x, proposal, cells, statics=statics)
    up = model.bind(grid, parts_of(grid, FACTOR))
    assert not any(weight.requires_grad for weight in up.model.parameters())
    assert "parametrizations" not in str(up.model)
    assert torch.equal(up.model(x, proposal, cells, statics=statics), before)
    assert torch.equal(model(x, proposal, cells, statics=statics), before)
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_bound_model_travels() -> None:
    grid = region()
    up = bound(spec_of("unet", FACTOR), grid)
    other = pickle.loads(pickle.dumps(up))
    values, place = torch.from_numpy(maps_on(grid)), place_of(grid, FACTOR)
    assert torch.equal(other(values, place).nan_to_num(), up(values, place).nan_to_num())
    assert other.halo == up.halo


def test_an_untrained_model_through_the_accessor_is_the_default_method() -> None:
    for ds, name, variable, constraint in (
        (field_on(world(), missing=0.1), "tas", Variable("tas", "K", mean=280.0, std=8.0), "additive"),
        (rain_on(region(), missing=0.1), "pr", rain("local"), "bounded"),
    ):
        where = {"tas": world(), "pr": region()}[name]
        model = Learned(ModelSpec("residual", (2, 3), (variable,), constraint=constraint))
        fine = ds.downscale(method=model.bind(where, parts_of(where, (2, 3))))
        plain = ds.downscale({"lat": 2, "lon": 3})
        np.testing.assert_allclose(fine[name], plain[name], rtol=1e-12, atol=1e-12)


def test_a_wild_model_through_the_accessor_keeps_every_cell() -> None:
    ds = rain_on(world(), missing=0.1)
    model = awake(ModelSpec("residual", (2, 3), (rain("local"),), constraint="bounded"))
    fine = ds.chunk(time=1, lat=6).downscale(method=model.bind(world(), parts_of(world(), (2, 3)))).compute()
    assert downscale.check_conservation(ds, fine).passed
    assert float(fine.pr.min()) >= 0
    assert float(abs(fine.pr - ds.downscale({"lat": 2, "lon": 3}).pr).max()) > 0.1


# Refusals


def test_what_does_not_fit_a_grid_is_refused() -> None:
    grid, model = region(), awake(spec_of("residual", FACTOR))
    with pytest.raises(ShapeError, match="expected the factor of the model, 2 x 3, received 3 x 3; use that factor"):
        model.bind(grid, parts_of(grid, 3))
    with pytest.raises(OptionError, match="expected one of 1 outputs of the model, received number 1"):
        model.bind(grid, (Subcells.from_factor(grid.y, 2), Subcells.from_factor(grid.x, 3)), variable=1)
    up = model.bind(grid, parts_of(grid, FACTOR))
    with pytest.raises(InputError, match="expected the fine fields 'orog' for this model, received none"):
        up(torch.from_numpy(maps_on(grid)), Place(grid, grid.refine(*FACTOR)))
