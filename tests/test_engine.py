"""The engine sees only the protocol: any up-sampler is told its place, trimmed, constrained and checked."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_fields import field_on, rain_on, region, relief_on, same_bits, world
from strategies import cuttings

import downscale
from downscale.engine import device as devices
from downscale.errors import BoundsError, ConservationError, DownscaleError, OptionError, ShapeError
from downscale.request import Request
from downscale.steps.prepare import plan_maps
from downscale.typing import Place, Upscaler


class Nearest:
    """The least that the protocol asks for: each fine cell takes its coarse cell's value, plus what a place says."""

    multiple_of = 1
    laws: frozenset[str] = frozenset({"phase"})

    def __init__(self, factor: Any = (2, 2), halo: tuple[int, int] | None = (0, 0), leak: float = 0.0) -> None:
        self.factor, self.halo, self.leak = factor, halo, leak
        self.places: list[Place] = []

    def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
        self.places.append(place)
        rows, columns = self.factor
        return coarse.repeat_interleave(rows, -2).repeat_interleave(columns, -1) * (1 + self.leak)


class Neighbours(Nearest):
    """Each fine cell takes the mean of a row of neighbours, over the seam where the grid is closed."""

    def __init__(self, reach: int, halo: int) -> None:
        super().__init__(halo=(0, halo))
        self.reach = reach

    def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
        closed = place.coarse.x.periodic and coarse.shape[-1] == place.coarse.x.size
        index = torch.arange(coarse.shape[-1])
        total = torch.zeros_like(coarse)
        for step in range(-self.reach, self.reach + 1):
            moved = index + step
            total = total + coarse[..., moved % len(index) if closed else moved.clamp(0, len(index) - 1)]
        return super().__call__(total / (2 * self.reach + 1), place)


class Where(Nearest):
    """Says where it is: the index of row and column in the world, and the statics it was handed."""

    def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
        rows, columns = (torch.arange(n, dtype=coarse.dtype) for n in coarse.shape[-2:])
        size = place.coarse.x.size
        index = (place.row + rows)[:, None] * 1000 + (place.column + columns) % size
        return super().__call__(index.expand(coarse.shape), place)


def test_the_fake_keeps_the_protocol():
    assert isinstance(Nearest(), Upscaler)
    assert not isinstance(object(), Upscaler)


def test_an_object_with_the_protocol_is_a_method():
    ds = field_on(world(), missing=0.1)
    fine = ds.downscale(method=Nearest())
    np.testing.assert_allclose(fine.tas, ds.downscale(2, "conservative").tas, rtol=1e-15)
    assert "method=Nearest" in fine.attrs["history"]
    assert ds.downscale.plan(method=Nearest()).method == "Nearest"


class Square(Nearest):
    """Names one factor for rows and columns."""

    def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
        return coarse.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


def test_the_factor_of_a_method_may_be_one_number():
    ds = field_on(region())
    blocks = ds.downscale(3, "conservative").tas
    np.testing.assert_allclose(ds.downscale(method=Square(3)).tas, blocks, rtol=1e-15)
    assert ds.downscale(3, method=Square(3)).sizes["lat"] == 36


@given(st.data(), st.integers(0, 5))
@settings(max_examples=10)
def test_a_sufficient_halo_hides_the_cutting(data, reach):
    ds = field_on(world(), 1).drop_vars("time")
    columns = tuple(data.draw(cuttings(16)))
    whole = ds.downscale(method=Neighbours(reach, reach))
    lazy = ds.chunk(lon=columns).downscale(method=Neighbours(reach, reach))
    assert same_bits(whole.tas, lazy.tas.compute(scheduler="sync"))


def test_a_halo_that_is_too_small_shows():
    """The test above can fail."""
    ds = field_on(region(), 1).drop_vars("time")
    whole = ds.downscale(method=Neighbours(2, 2), conserve=None)
    assert not same_bits(whole.tas, ds.chunk(lon=4).downscale(method=Neighbours(2, 1), conserve=None).tas)


@given(st.data(), st.integers(0, 9), st.integers(0, 20))
@settings(max_examples=10)
def test_a_block_is_told_its_place(data, rows, columns):
    ds = field_on(world(), 1).drop_vars("time")
    cut = {"lat": tuple(data.draw(cuttings(12))), "lon": tuple(data.draw(cuttings(16)))}
    fine = ds.chunk(cut).downscale(method=Where(halo=(rows, columns)), conserve=None)
    expected = np.arange(12)[:, None] * 1000 + np.arange(16)
    np.testing.assert_array_equal(fine.tas[0].compute(scheduler="sync")[::2, ::2], expected)


def test_statics_are_cut_in_lock_step():
    """The relief that a block is handed lies under its own fine cells, over the seam too."""
    ds, relief = field_on(world(), 1).drop_vars("time"), relief_on(world())
    up = Nearest(halo=(1, 3))
    penalty = downscale.TerrainPenalty(1e-5, iterations=1)
    ds.chunk(lat=5, lon=6).downscale(method=up, orog=relief, terrain_penalty=penalty).compute(scheduler="sync")
    assert len(up.places) == 9
    for place in up.places:
        orog = place.statics["orog"].numpy()
        rows = np.arange(2 * place.row, 2 * place.row + orog.shape[0])
        columns = np.arange(2 * place.column, 2 * place.column + orog.shape[1]) % 32
        np.testing.assert_array_equal(orog, relief.orog.values[np.ix_(rows, columns)])


def test_a_method_without_a_finite_halo_refuses_cut_axes():
    ds = field_on(region())
    up = Nearest(halo=None)
    assert same_bits(ds.downscale(method=up).tas, ds.chunk(time=1).downscale(method=up).tas)
    for cut in ({"lat": 6}, {"lon": 8}):
        with pytest.raises(ShapeError, match="expected uncut horizontal axes, since this method needs the whole"):
            ds.chunk(cut).downscale(method=up)
        with pytest.raises(ShapeError, match="received 2 chunks; rechunk that axis to -1"):
            ds.chunk(cut).downscale.plan(method=up)


def test_sizes_that_a_method_does_not_take_are_refused():
    up = Nearest()
    up.multiple_of = 8
    with pytest.raises(ShapeError, match="expected blocks of a multiple of 8 coarse cells, received 12"):
        field_on(region()).downscale(method=up)


def test_another_factor_than_the_method_has_is_refused():
    with pytest.raises(ShapeError, match=r"expected the factor of the method, \(2, 2\), received \(3, 3\)"):
        field_on(region()).downscale(3, method=Nearest())


def test_any_proposal_is_brought_under_the_cell_law():
    ds = field_on(world(), missing=0.1)
    fine = ds.downscale(method=Nearest(leak=0.1))
    assert fine.downscale.check(ds).passed


class Losing(Nearest):
    """Loses one coarse cell: no constraint can bring back what has no valid part."""

    def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
        fine = super().__call__(coarse, place).clone()
        fine[..., 2:4, 6:8] = torch.nan
        return fine


LOST = "tas: expected the cell law within 1e-12, received a largest relative error of .* and 3 cells lost"


def test_a_broken_law_raises_when_its_block_is_computed():
    ds = field_on(region())
    with pytest.raises(ConservationError, match=LOST):
        ds.downscale(method=Losing())
    lazy = ds.chunk().downscale(method=Losing())
    with pytest.raises(ConservationError, match=LOST):
        lazy.compute()


def test_a_broken_law_warns_logs_or_passes_as_asked(caplog):
    ds = field_on(region())
    with pytest.warns(UserWarning, match=LOST):
        ds.downscale(method=Losing(), check="warn")
    with caplog.at_level(logging.WARNING, "downscale"):
        ds.downscale(method=Losing(), check="log")
    assert "3 cells lost" in caplog.text
    caplog.clear()
    ds.downscale(method=Losing(), check="skip")
    assert caplog.text == ""


class Leaking(Nearest):
    """Claims to conserve, and leaks 1e-4 in one cell."""

    satisfies_constraints = True

    def __call__(self, coarse: torch.Tensor, place: Place) -> torch.Tensor:
        fine = super().__call__(coarse, place).clone()
        fine[..., 4:6, 10:12] *= 1 + 1e-4
        return fine


def test_the_check_of_a_block_believes_no_claim():
    """A leak in one cell is found and its place named."""
    ds = field_on(region(), dtype="float32")
    with pytest.raises(ConservationError, match=r"relative error of 0\.0001 at latitude 32\.5, longitude 15\.5"):
        ds.downscale(method=Leaking(), bounds=(0, None))
    plane = ds.rename(lat="y", lon="x").drop_vars(["lat_bnds", "lon_bnds"])
    for letter in "yx":
        plane[letter].attrs = {"units": "m"}
    with pytest.raises(ConservationError, match=r"at y 32\.5, x 15\.5"):
        plane.downscale(method=Leaking(), bounds=(0, None))


@pytest.mark.parametrize("engine", ["numba", "torch", "dense"])
@pytest.mark.parametrize("lazy", [False, True])
def test_the_check_of_a_block_is_of_what_is_stored(engine, lazy):
    """Means of values rounded to single precision are not exact to a tolerance of double precision."""
    ds = field_on(region())
    with downscale.set_options(engine=engine, tolerance=1e-12):
        for single in (False, True):
            coarse = ds.astype("float32") if single else ds
            fine = (coarse.chunk(lat=4) if lazy else coarse).downscale
            if single:
                with pytest.raises(ConservationError, match=r"the cell law within 1e-12, received .* at latitude"):
                    fine(2, "bilinear").compute()
            else:
                fine(2, "bilinear").compute()


def test_a_coarse_value_outside_asked_bounds_is_an_error_that_names_it():
    ds = rain_on(region())
    ds["pr"][1, 2, 5] = -3.0
    message = r"pr: expected coarse values within .* \[0, none\], received -3 at latitude 32\.5, longitude 15\.5"
    with pytest.raises(BoundsError, match=message):
        ds.downscale(2, bounds=(0, None))
    with pytest.raises(BoundsError, match=message):
        ds.chunk(lat=4, lon=3).downscale(2, bounds=(0, None)).compute()


def test_a_coarse_value_outside_implied_bounds_warns_and_is_kept():
    ds = rain_on(region())
    ds["pr"][1, 2, 5] = -3.0
    with pytest.warns(UserWarning, match="received -3 at .* those cells are filled with their coarse value"):
        fine = ds.downscale(2)
    np.testing.assert_array_equal(fine.pr[1, 4:6, 10:12], np.full((2, 2), -3.0))
    rest = fine.pr.where(~((fine.lat > 32) & (fine.lat < 33) & (fine.lon > 15) & (fine.lon < 16)), 0.0)
    assert float(rest.min()) >= 0
    assert fine.downscale.check(ds)["pr"].values_out_of_bounds == 0


def test_infinities_are_missing_values():
    ds = field_on(region())
    ds["tas"][0, 0, 0] = np.inf
    gone = ds.where(np.isfinite(ds.tas))
    with pytest.warns(UserWarning, match="tas: expected finite values, received infinite ones"):
        fine = ds.downscale(2)
    assert same_bits(fine.tas, gone.downscale(2).tas)


def test_nothing_valid_gives_nothing_valid():
    ds = field_on(region()) * np.nan
    for method in ("sobolev", "bilinear"):
        for conserve in ("cell", "total", None):
            assert bool(ds.downscale(2, method, conserve=conserve).tas.isnull().all())


def test_no_maps_give_no_maps():
    ds = field_on(region()).isel(time=slice(0, 0))
    assert ds.downscale(2).tas.shape == (0, 24, 32)
    assert ds.chunk().downscale(2).compute().tas.shape == (0, 24, 32)


def test_devices_that_are_not_here_are_refused():
    for name in ("tpu", "meta"):
        with pytest.raises(OptionError, match=f"expected device 'auto' or one of .*'cpu'.*received '{name}'"):
            field_on(region()).downscale(2, device=name)


def test_the_working_precision_holds_float32_to_its_tolerance():
    assert devices.working_type(torch.device("cpu")) == torch.float64
    assert devices.working_type(torch.device("mps")) == torch.float32


def test_a_job_is_compared_by_identity():
    """Jobs hold arrays; an equality that compared them would be ambiguous."""
    from downscale.engine.job import Job

    assert dataclasses.fields(Job)
    assert Job.__eq__ is object.__eq__


def test_a_job_travels_light():
    """Blocks go to other processes one by one; the areas of the fine grid do not go with each."""
    job = plan_maps(field_on(world(90, 180)), Request(factor=4)).jobs["tas"]
    job.fine.cell_area  # noqa: B018
    there = pickle.loads(pickle.dumps(job))
    assert len(pickle.dumps(job)) < job.fine.cell_area.nbytes / 5
    np.testing.assert_array_equal(there.fine.cell_area, job.fine.cell_area)


def test_errors_in_blocks_are_of_the_package():
    ds = rain_on(region()).chunk(time=1)
    with pytest.raises(DownscaleError):
        ds.downscale(2, bounds=(1.0, None)).compute()
    assert isinstance(ds, xr.Dataset)


def test_a_graph_grows_with_its_blocks_and_each_of_them_is_small(tmp_path):
    """Weights and grids are one entry of the graph; what a block adds are a few names and numbers."""
    import cloudpickle

    import downscale

    field_on(world(45, 90), 40).to_netcdf(tmp_path / "in.nc")
    entries = {}
    for steps in (8, 4):
        fine = downscale.open_dataset(tmp_path / "in.nc", chunks={"time": steps}).downscale(4)
        graph = dict(fine.tas.data.__dask_graph__())
        blocks = 40 // steps
        jobs = [key for key in graph if str(key).startswith("job-")]
        assert len(jobs) == 1
        rest = [value for key, value in graph.items() if key not in jobs]
        # Two entries a block, and the one file that all of them read.
        assert len(rest) <= 2 * blocks + 2
        entries[blocks] = max(len(cloudpickle.dumps(value)) for value in rest)
    assert max(entries.values()) < 8_000
    assert abs(entries[10] - entries[5]) < 200
