"""The ends of number types: no infinity passes, bounds are as stored, and all engines say the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from sample_fields import field_on, region, world

import downscale
from downscale.engine import fused
from downscale.errors import DownscaleError, GridError, InputError, OptionError, ShapeError
from downscale.kernels.sobolev import axis_weights
from downscale.nn.separable import operator

ENGINES = ("numba", "torch", "dense")
every = pytest.mark.parametrize("engine", ENGINES)


def refine(engine: str, ds: xr.Dataset, **options: Any) -> xr.Dataset:
    with downscale.set_options(engine=engine):
        return ds.downscale(2, **options)


def verdict(engine: str, ds: xr.Dataset, **options: Any) -> str:
    """The class of what is raised, or what is infinite or lost in the result."""
    try:
        fine = refine(engine, ds, **options)
    except DownscaleError as error:
        return type(error).__name__
    return "finite" if bool(np.isfinite(fine.tas).all()) else "not finite"


def near_the_largest(kind: str, grid: Any, signs: bool) -> xr.Dataset:
    ds = field_on(grid, 2)
    draw = np.random.default_rng(5)
    values = np.finfo(kind).max * (1 - 0.3 * draw.random(ds.tas.shape))
    if signs:
        values *= np.sign(draw.random(ds.tas.shape) - 0.5)
    return ds.assign(tas=(ds.tas.dims, values.astype(kind), ds.tas.attrs))


@every
@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("options", [{}, {"bounds": None}, {"conserve": None}, {"method": "bicubic"}], ids=str)
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_no_infinite_value_passes(engine: str, kind: str, signs: bool, options: dict[str, Any]) -> None:
    found = verdict(engine, near_the_largest(kind, region(8, 9), signs), **options)
    assert found in {"ConservationError", "InputError"}


@every
@pytest.mark.parametrize("bound", [0.1, 0.7, 1 / 3, 1e-30, 285.15])
@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_value_stored_on_a_bound_is_within_it(engine: str, bound: float, side: str, kind: str) -> None:
    """0.7 as float32 is less than 0.7: the file has no other number for it."""
    ds = field_on(region(8, 9), 1)
    inward = (1 if side == "low" else -1) * np.random.default_rng(0).random(ds.tas.shape) * bound
    values = np.where(np.arange(9) % 3 == 0, bound, bound + inward).astype(kind)
    within = ds.assign(tas=(ds.tas.dims, values, ds.tas.attrs))
    bounds = (bound, None) if side == "low" else (None, bound)
    fine = refine(engine, within, bounds=bounds).tas
    stored = np.dtype(kind).type(bound)
    assert bool((fine >= stored).all() if side == "low" else (fine <= stored).all())
    beyond = within.copy(deep=True)
    beyond.tas[0, 0, 0] = np.nextafter(stored, np.dtype(kind).type(-9e9 if side == "low" else 9e9))
    assert verdict(engine, beyond, bounds=bounds) == "BoundsError"


# Settings of the kernel


@pytest.mark.parametrize(
    "setting",
    [{"taps": taps} for taps in (0, -3, 8, 2.5, 7.0, True, "7", 10**9 + 1, float("nan"))]
    + [{"order": order} for order in (0.5, -1, 1.5, 2.5, float("nan"), float("inf"), 1e300, 50.25, 20.3, True, "1.25")]
    + [{"taps": 25, "order": 10.25}, {"order": 1.5 + 1e-15}],
    ids=str,
)
def test_settings_without_a_kernel_are_refused(setting: dict[str, Any]) -> None:
    """In one line, also where an equal number was asked for before."""
    ds = field_on(world(30, 9), 1)
    ds.downscale(2, taps=7, order=1.25)
    ds.downscale(2, taps=1, order=1.0)
    with pytest.raises(OptionError, match=r"taps|order") as caught:
        ds.downscale(2, **setting)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("taps", [1, 3, 7, 13, 25])
@pytest.mark.parametrize("order", [0.6, 1.0, 1.25, 1.49, 1.51, 2.2])
def test_settings_with_a_kernel_keep_the_law(taps: int, order: float) -> None:
    ds = field_on(region(30, 9), 1)
    assert ds.downscale(3, taps=taps, order=order).downscale.check(ds).passed


@pytest.mark.parametrize("width", [1e-6, 1e-7, 1e-8, 1e-10])
def test_a_polar_cell_without_width_is_refused(width: float) -> None:
    """The sine of latitude does not change within it."""
    edges = np.array([-90, -90 + width, *np.linspace(-80, 90, 17)])
    ds = field_on(world(18, 12), 1)
    lat = xr.DataArray(0.5 * (edges[1:] + edges[:-1]), dims="lat", attrs={**ds.lat.attrs, "bounds": "lat_bnds"})
    ds = ds.drop_vars("lat_bnds", errors="ignore").assign_coords(lat=lat)
    ds = ds.assign_coords(lat_bnds=(("lat", "bnds"), np.stack([edges[:-1], edges[1:]], axis=1)))
    with pytest.raises(GridError, match=r"latitude .*-90.*merge"):
        ds.downscale(2)


@pytest.mark.parametrize("ratio", [1e1, 1e4, 1e9])
def test_cells_of_other_widths_keep_the_law_or_are_refused(ratio: float) -> None:
    edges = np.concatenate([np.arange(8.0), [7 + 1 / ratio], 7 + 1 / ratio + np.arange(1, 8.0)])
    fine = np.append((edges[:-1, None] + np.diff(edges)[:, None] * np.arange(2) / 2).ravel(), edges[-1])
    weights = axis_weights(edges, fine).dense(15)
    means = 0.5 * (weights[::2] + weights[1::2])
    np.testing.assert_allclose(means, np.eye(15), atol=1e-3)


# What the operator alone writes into


@pytest.mark.parametrize(
    "view",
    [
        lambda shape: np.full((shape[0], shape[1], 2 * shape[2]), -1.0, "f4")[..., ::2],
        lambda shape: np.full((shape[0], 2 * shape[1], shape[2]), -1.0, "f4")[:, ::2],
        lambda shape: np.full((shape[0], shape[1], shape[2] + 5), -1.0, "f4")[..., 3:-2],
        lambda shape: np.full(shape[::-1], -1.0, "f4").T,
        lambda shape: np.full(shape, -1.0, "f4")[:, ::-1],
        lambda shape: np.full(shape, -1.0, "f4", order="F"),
        lambda shape: np.full(shape, -1.0, "f8"),
    ],
    ids=["columns", "rows", "within", "turned", "upside down", "fortran", "in order"],
)
def test_the_operator_writes_into_any_view_and_nowhere_else(view: Any) -> None:
    up = operator("sobolev", region(9, 12), 4)
    coarse = np.random.default_rng(0).normal(280, 10, (3, 9, 12)).astype("f4")
    out = view((3, 36, 48))
    whole = out if out.base is None else out.base
    expected = fused.apply_bare(coarse, up, np.empty((3, 36, 48), out.dtype))
    fused.apply_bare(coarse, up, out)
    np.testing.assert_array_equal(out, expected)
    out[...] = -1.0
    assert bool((whole == -1.0).all())


@pytest.mark.parametrize(
    ("coarse", "out", "error"),
    [
        ((3, 9, 12), ((3, 36, 47), "f4"), ShapeError),
        ((3, 9, 12), ((2, 36, 48), "f4"), ShapeError),
        ((3, 9, 11), ((3, 36, 48), "f4"), ShapeError),
        ((3, 9, 12), ((3, 36, 48), "i4"), InputError),
        ((3, 9, 12), ((3, 36, 48), ">f4"), InputError),
        ((3, 9, 12), ((3, 36, 48), "f2"), InputError),
    ],
)
def test_arrays_that_do_not_fit_the_operator_are_refused(coarse: Any, out: Any, error: Any) -> None:
    up = operator("sobolev", region(9, 12), 4)
    with pytest.raises(error):
        fused.apply_bare(np.ones(coarse, "f4"), up, np.empty(*out))
