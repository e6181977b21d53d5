"""Deconvolution of arrays: the blur keeps flux and constants everywhere, its inverses keep the flux."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from downscale.deconvolution.blur import Blur
from downscale.deconvolution.footprint import FootprintOperator, footprint_error
from downscale.deconvolution.psf import ArrayPsf, Psf, parse_psf, pick_psf
from downscale.deconvolution.richardson_lucy import noise_level, richardson_lucy
from downscale.deconvolution.tikhonov import tikhonov, wiener
from downscale.deconvolution.weights import Instrument, cell_kernel, grid_kernel
from downscale.errors import BoundsError, GridError, OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.grid.axis import CellAxis
from downscale.grid.latlon import RectilinearGrid
from downscale.methods.footprint import blur_maps
from downscale.steps.deconvolution import DeconvolutionMethod

REFERENCE = torch.zeros(1, dtype=torch.float64)
SHAPES = ["gaussian:4cells", "gaussian:7x3cells@30", "box:3cells", "airy:3cells"]
EARTH = 6_371_000.0

pytestmark = pytest.mark.usefixtures("one_thread")


def sphere(rows: int, south: float = -90.0, north: float = 90.0, west: float = 0.0, east: float = 360.0):
    columns = int(rows * (east - west) / (north - south))
    y, x = np.linspace(south, north, rows + 1), np.linspace(west, east, columns + 1)
    return RectilinearGrid(CellAxis(y, "latitude"), CellAxis(x, "longitude"))


def plane(n_y: int, n_x: int, step: float = 1000.0):
    y, x = (CellAxis(np.arange(n + 1) * step, "projected") for n in (n_y, n_x))
    return RectilinearGrid(y, x)


def random(shape, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).random(shape))


def blurred(field, psf, grid=None):
    return blur_maps(np.asarray(field), Instrument(psf, grid, field.shape if grid is None else None))


def off(blur: Blur, seed=0):
    """Relative change of flux, largest departure of a constant, and of the adjoint."""
    y, v = random(blur.shape, seed) * blur.mask, random(blur.shape, seed + 1) * blur.mask
    flux = abs(float(blur.flux(blur.forward(y)) / blur.flux(y)) - 1)
    constant = float(((blur.forward(blur.mask) - 1) * blur.mask).abs().max())
    adjoint = abs(float((v * blur.forward(y)).sum() / (blur.transpose(v) * y).sum()) - 1)
    return flux, constant, adjoint


@pytest.mark.parametrize("psf", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_flux_and_constants_stay_up_to_edges_and_around_gaps(psf, share):
    mask = np.random.default_rng(1).random((31, 24)) >= share
    assert max(off(Blur(Instrument(parse_psf(psf), shape=mask.shape), REFERENCE, mask))) < 1e-12


@pytest.mark.parametrize("shape", [(50,), (12, 15), (8, 9, 10)])
def test_one_to_three_dimensions(shape):
    assert max(off(Blur(Instrument(Psf("gaussian", 3.0, unit="cells"), shape=shape), REFERENCE))) < 1e-12


@pytest.mark.parametrize("psf", ["gaussian:900km", "gaussian:1500x800km@40", "airy:700km", "box:900km"])
def test_flux_and_constants_stay_on_the_sphere_over_poles_and_the_seam(psf):
    mask = np.random.default_rng(2).random((30, 60)) > 0.2
    assert max(off(Blur(Instrument(parse_psf(psf), sphere(30)), REFERENCE))) < 1e-12
    assert max(off(Blur(Instrument(parse_psf(psf), sphere(30)), REFERENCE, mask))) < 1e-12


@given(st.integers(0, 1000), st.floats(0, 0.95), st.floats(0.3, 8.0))
def test_flux_and_constants_for_any_mask_and_size(seed, share, size):
    mask = np.random.default_rng(seed).random((14, 17)) >= share
    blur = Blur(Instrument(Psf("gaussian", size, unit="cells"), shape=mask.shape), REFERENCE, mask)
    if mask.any():
        assert max(off(blur, seed)) < 1e-9


def test_any_array_keeps_flux_though_not_constants_at_edges():
    psf = ArrayPsf(np.random.default_rng(3).random((5, 7)), normalise=True)
    flux, _, adjoint = off(Blur(Instrument(psf, shape=(20, 30)), REFERENCE))
    assert max(flux, adjoint) < 1e-12


def test_the_sphere_agrees_with_great_circles_cell_by_cell():
    grid, psf = sphere(18), Psf("gaussian", 3e6)
    lat, lon = (a.ravel() for a in np.deg2rad(np.meshgrid(grid.y.centres, grid.x.centres, indexing="ij")))
    cosine = np.sin(lat[:, None]) * np.sin(lat) + np.cos(lat[:, None]) * np.cos(lat) * np.cos(lon[:, None] - lon)
    distance = EARTH * np.arccos(np.clip(cosine, -1, 1))
    dense = psf.density(distance, 0 * distance) * grid.cell_area.ravel()
    y = random(grid.shape).numpy().ravel()
    wanted = (dense @ y / dense.sum(axis=1)).reshape(grid.shape)
    # The oracle samples at centres, and its rows alone add up to one.
    np.testing.assert_allclose(blurred(y.reshape(grid.shape), psf, grid), wanted, atol=8e-3)


def test_rolling_longitude_rolls_the_result():
    y, psf, grid = random((18, 36)).numpy(), parse_psf("gaussian:1200km"), sphere(18)
    np.testing.assert_allclose(blurred(np.roll(y, 7, 1), psf, grid), np.roll(blurred(y, psf, grid), 7, 1), atol=1e-13)


def test_footprints_are_wider_in_columns_toward_the_poles():
    grid = sphere(60)
    point = np.zeros((3, *grid.shape))
    point[0, 30, 60] = point[1, 45, 60] = point[2, 58, 60] = 1.0
    seen = blurred(point, parse_psf("gaussian:1000km"), grid)
    spread = [(one[row] > 0.5 * one[row].max()).sum() for one, row in zip(seen, (30, 45, 58), strict=True)]
    assert spread[0] < spread[1] < spread[2]


def scene(n=48):
    """Sharp blocks well inside, so that padding and closed circles agree."""
    truth = torch.zeros(n, n, dtype=torch.float64)
    truth[16:32, 18:34] = random((16, 16)) + 0.2
    return truth


def test_richardson_lucy_agrees_with_scikit_image_inside():
    restoration = pytest.importorskip("skimage.restoration")
    truth, psf = scene(64), parse_psf("gaussian:3cells")
    blur = Blur(Instrument(psf, shape=truth.shape), truth)
    data, weights = blur.forward(truth).clamp(min=0), cell_kernel(psf, truth.shape).values
    theirs = restoration.richardson_lucy(data.numpy(), weights, num_iter=20, clip=False)
    ours = richardson_lucy(data, blur, noise=0, iterations=20)
    assert ours.iterations == 20
    np.testing.assert_allclose(ours.field.numpy(), theirs, atol=1e-5)


def test_richardson_lucy_agrees_with_scikit_image_in_three_dimensions():
    restoration = pytest.importorskip("skimage.restoration")
    truth = torch.zeros(24, 25, 26, dtype=torch.float64)
    truth[10:14, 10:15, 11:15] = random((4, 5, 4))
    psf = parse_psf("box:3cells")
    blur = Blur(Instrument(psf, shape=truth.shape), truth)
    data = blur.forward(truth).clamp(min=0)
    theirs = restoration.richardson_lucy(data.numpy(), cell_kernel(psf, (9, 9, 9)).values, num_iter=4, clip=False)
    ours = richardson_lucy(data, blur, noise=0, iterations=4).field.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("gaps", [False, True])
def test_beside_edges_and_gaps_it_comes_nearer_to_the_truth_than_scikit_image(gaps):
    """A window of a larger field: the instrument saw what lies beyond it, which zeros in its place deny."""
    restoration = pytest.importorskip("skimage.restoration")
    rain = np.random.default_rng(2).gamma(0.3, 2.0, (96, 96))
    field = np.clip(gaussian_filter(rain, 1.5, mode="wrap") - 0.3, 0, None)
    whole, psf = torch.as_tensor(field), Psf("gaussian", 6.0, unit="cells")
    cut = (slice(24, 72), slice(24, 72))
    seen, truth = Blur(Instrument(psf, shape=whole.shape), whole).forward(whole)[cut], field[cut]
    mask = np.ones(truth.shape, bool)
    if gaps:
        mask[10:18, 20:30] = mask[30:36, 5:15] = False
    data = seen * torch.as_tensor(mask)
    blur = Blur(Instrument(psf, shape=data.shape), data, mask)
    ours = richardson_lucy(data, blur, noise=0, iterations=20).field.numpy()
    theirs = restoration.richardson_lucy(
        data.numpy(), cell_kernel(psf, truth.shape).values, num_iter=20, clip=False
    )
    inner = np.zeros(truth.shape, bool)
    inner[6:-6, 6:-6] = True
    beside = mask & (~inner if not gaps else inner)
    errors = [np.sqrt(((made - truth)[beside] ** 2).mean()) for made in (ours, data.numpy(), theirs)]
    assert errors[0] < errors[1]
    assert errors[0] < 0.8 * errors[2]


def test_wiener_agrees_with_scikit_image_on_closed_axes():
    restoration = pytest.importorskip("skimage.restoration")
    truth, psf = scene(), parse_psf("gaussian:3cells")
    blur = Blur(Instrument(psf, shape=truth.shape, periodic=(True, True)), truth)
    data = blur.forward(truth) + 0.01 * (random(truth.shape) - 0.5)
    theirs = restoration.wiener(data.numpy(), cell_kernel(psf, truth.shape).values, 0.02, clip=False)
    np.testing.assert_allclose(wiener(data, blur, parameter=0.02).field.numpy(), theirs, atol=1e-5)


@pytest.mark.parametrize("method", ["richardson_lucy", "wiener", "tikhonov"])
@pytest.mark.parametrize("gaps", [False, True])
def test_every_method_keeps_the_flux_and_comes_nearer_to_the_truth(method, gaps):
    truth = scene()
    mask = np.random.default_rng(4).random(truth.shape) > (0.1 if gaps else -1)
    blur = Blur(Instrument(parse_psf("gaussian:4cells"), shape=truth.shape), truth, mask)
    data = (blur.forward(truth * blur.mask) + 0.002 * torch.randn(truth.shape, dtype=torch.float64,
            generator=torch.Generator().manual_seed(1)) * blur.mask).clamp(min=0)  # fmt: skip
    found = DeconvolutionMethod(method)(data, blur)
    assert abs(float(blur.flux(found.field) / blur.flux(data)) - 1) < 1e-12
    before, after = (float((((f - truth) * blur.mask) ** 2).mean()) for f in (data, found.field))
    assert after < 0.8 * before


def test_the_flux_stays_with_damping_and_iterations_stop_at_the_noise():
    truth = scene()
    blur = Blur(Instrument(parse_psf("gaussian:4cells"), shape=truth.shape), truth)
    data = blur.forward(truth).clamp(min=0)
    damped = richardson_lucy(data, blur, noise=0, iterations=10, damping=0.02)
    assert abs(float(blur.flux(damped.field) / blur.flux(data)) - 1) < 1e-12
    loose, tight = (richardson_lucy(data, blur, noise=n) for n in (0.02, 0.005))
    assert 0 < loose.iterations < tight.iterations < 100
    assert loose.misfit <= 0.02
    assert tight.misfit <= 0.005


def test_cross_validation_comes_near_the_best_weight():
    truth = scene()
    blur = Blur(Instrument(parse_psf("gaussian:3cells"), shape=truth.shape), truth)
    noise = torch.randn(truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = blur.forward(truth) + 0.02 * noise

    def error(weight):
        return float(((tikhonov(data, blur, parameter=weight).field - truth) ** 2).mean() ** 0.5)

    best = min(error(weight) for weight in np.logspace(-5, 0, 11))
    assert error(tikhonov(data, blur).parameter) < 1.1 * best


def test_noise_is_found_on_a_slope():
    slope = torch.linspace(0, 100, 200, dtype=torch.float64)[:, None] + torch.zeros(200)
    noise = torch.randn(200, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert noise_level(slope + 0.5 * noise, torch.ones_like(slope)) == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("method", ["richardson_lucy", "wiener", "tikhonov"])
def test_a_constant_field_is_given_back(method):
    field = torch.full((20, 30), 7.0, dtype=torch.float64)
    blur = Blur(Instrument(parse_psf("gaussian:4cells"), shape=(20, 30)), field)
    torch.testing.assert_close(DeconvolutionMethod(method)(field, blur).field, field, rtol=1e-9, atol=0)


@pytest.mark.parametrize("method", ["richardson_lucy", "wiener", "tikhonov"])
def test_nothing_valid_gives_nothing(method):
    field = torch.zeros(8, 9, dtype=torch.float64)
    blur = Blur(Instrument(parse_psf("gaussian:3cells"), shape=(8, 9)), field, np.zeros((8, 9), bool))
    assert float(DeconvolutionMethod(method)(field, blur).field.abs().max()) == 0


def test_negative_data_are_refused_by_the_positive_method():
    field = torch.full((8, 9), -0.5, dtype=torch.float64)
    blur = Blur(Instrument(parse_psf("gaussian:3cells"), shape=(8, 9)), field)
    with pytest.raises(BoundsError, match=r"expected values >= 0 for Richardson-Lucy .* received -0.5; use"):
        richardson_lucy(field, blur)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: ArrayPsf(np.full((3, 3), 0.1)), OptionError, "add up to one, received a sum of 0.9"),
        (lambda: ArrayPsf(np.full((4, 3), 1 / 12)), ShapeError, r"expected odd sizes .*centre=\(2, 1\)"),
        (lambda: ArrayPsf(np.full((4, 3), 1 / 12), centre=(4, 0)), ShapeError, "expected a centre within"),
        (lambda: ArrayPsf(np.full((3,), np.nan)), OptionError, "expected finite weights"),
        (lambda: cell_kernel(ArrayPsf(np.full(9, 1 / 9)), (5,)), ShapeError, "no larger than the field of 5 cells"),
        (lambda: cell_kernel(ArrayPsf(np.full(9, 1 / 9)), (50, 50)), ShapeError, "of 2 dimensions, one per axis"),
        (lambda: cell_kernel(parse_psf("gaussian:5km"), (9,)), OptionError, "in cells for a plain array"),
        (lambda: grid_kernel(parse_psf("gaussian:90km"), plane(20, 20)), ShapeError, "no larger than the field"),
        (lambda: grid_kernel(parse_psf("gaussian:9km"), None), GridError, "received a curvilinear grid"),
        (lambda: parse_psf("gaussian:25"), OptionError, "such as 'gaussian:25km'"),
        (lambda: parse_psf("gaussian:0km"), OptionError, "expected a positive size"),
        (lambda: parse_psf("bell:5km"), OptionError, "among 'gaussian', 'box', 'airy', received 'bell'"),
        (lambda: parse_psf("airy:5x4km"), OptionError, "expected a round Airy disc"),
        (lambda: pick_psf(5), OptionError, "received int"),
        (lambda: DeconvolutionMethod("magic"), OptionError, "expected a method among"),
        (lambda: DeconvolutionMethod("wiener", iterations=5), OptionError, "expected options among 'parameter'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, error, match):
    with pytest.raises(error, match=match) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"iterations": 0}, "at least one iteration"), ({"damping": 1.0}, "damping from 0"),
     ({"noise": -1.0}, "noise to be 0")],
)
def test_options_out_of_range(options, match):
    field = random((6, 6))
    with pytest.raises(OptionError, match=match):
        richardson_lucy(field, Blur(Instrument(parse_psf("gaussian:2cells"), shape=(6, 6)), field), **options)


def test_options_of_the_penalty():
    field = random((6, 6))
    blur = Blur(Instrument(parse_psf("gaussian:2cells"), shape=(6, 6)), field)
    for options, match in (({"order": 3}, "order of 1 or 2"), ({"parameter": 0.0}, "positive parameter")):
        with pytest.raises(OptionError, match=match):
            tikhonov(field, blur, **options)


def test_an_even_array_with_its_centre_stated_shifts_nothing():
    values = np.zeros((4, 4))
    values[1, 2] = 1.0
    field = random((9, 10)).numpy()
    np.testing.assert_allclose(blurred(field, ArrayPsf(values, centre=(1, 2))), field, atol=1e-14)


GRIDS = {"plane": plane(32, 40), "region": sphere(32, 20, 60, 0, 50), "world": sphere(24)}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("gaps", [False, True])
def test_footprint_averages_are_the_coarse_values(grid, gaps):
    width = 1.5 * 4 * np.sqrt(grid.cell_area.mean())
    valid = np.ones(grid.shape, bool)
    if gaps:
        valid[:8, :8] = valid[12:16, 4:16] = False
    truth = random(grid.shape, 5) * torch.as_tensor(valid)
    cells = Aggregation.between(grid.coarsen(4, 4), grid)
    seen = FootprintOperator(Blur(Instrument(Psf("gaussian", width), grid), truth, valid), cells)
    coarse = seen.forward(truth)
    fine = seen.solve(coarse)
    assert float(footprint_error(seen, fine, coarse).max()) < 1e-9
    # And with one leak planted, it is seen.
    assert float(footprint_error(seen, fine * 1.0001, coarse).max()) > 5e-5


def test_the_adjoint_of_what_is_seen():
    grid = sphere(24)
    valid = np.random.default_rng(0).random(grid.shape) > 0.2
    cells = Aggregation.between(grid.coarsen(4, 4), grid)
    seen = FootprintOperator(Blur(Instrument(parse_psf("gaussian:2000km"), grid), REFERENCE, valid), cells)
    y, mu = random(grid.shape) * seen.blur.mask, random(cells.coarse_shape)
    own = float((seen.blur.area * y * seen.back(mu)).sum())
    assert float(seen.product(seen.forward(y), mu)) == pytest.approx(own, rel=1e-12)


def test_a_constant_seen_through_a_footprint_is_a_constant():
    grid = plane(16, 24)
    cells = Aggregation.between(grid.coarsen(4, 4), grid)
    seen = FootprintOperator(Blur(Instrument(parse_psf("gaussian:5km"), grid), REFERENCE), cells)
    fine = seen.solve(torch.full((4, 6), 280.0, dtype=torch.float64))
    torch.testing.assert_close(fine, torch.full_like(fine, 280.0), rtol=1e-12, atol=0)
