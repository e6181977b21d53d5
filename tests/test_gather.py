"""Transposed convolution in gather form: equal to the scatter form; what becomes of each law at each edge."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from downscale.errors import ShapeError
from downscale.kernels.laws import project, same_padding
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.edges import EDGES, default_edge, fold
from downscale.nn.gather import AxisGeometry, gather, split_phases, tap_range

LAWS = ["total", "phase", "cell", ("phase", "cell")]


# Laws hold for uneven kernels too, of which the layers warn.
UNEVEN = "ignore::downscale.kernels.coverage.CoverageWarning"
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings(UNEVEN)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def depthwise(channels=3, kernel_size=(7, 6), stride=(3, 2), **options):
    """A depthwise layer with an uneven random kernel in float64."""
    options = {"init": "random", "dtype": torch.float64, "groups": channels, **options}
    return ConservativeConvTranspose2d(channels, channels, kernel_size, stride, **options)


def block_mean(fine, stride):
    return F.avg_pool2d(fine, stride)


# Gather equals scatter -----------------------------------------------------------------------------


def small_axes():
    """All (k, s, p, output_padding) of small size that leave an output of three cells."""
    for k, s in itertools.product(range(1, 8), range(1, 5)):
        for p, extra in itertools.product(range(k + 2), range(s)):
            if 2 * s - 2 * p + k + extra >= 1:
                yield k, s, p, extra


def gathered(coarse, weight, groups, **sizes):
    axes = [AxisGeometry(weight.shape[dim - 2], *(size[dim] for size in sizes.values())) for dim in (0, 1)]
    return gather(coarse, weight, None, axes, groups)


def scatter_and_gather(coarse, weight, options):
    """Both forms and the gradients of a random functional of them."""
    results = []
    for form in (F.conv_transpose2d, gathered):
        inputs = [coarse.clone().requires_grad_(), weight.clone().requires_grad_()]
        fine = form(*inputs, **options)
        functional = torch.linspace(-1, 1, fine.numel(), dtype=fine.dtype).reshape(fine.shape)
        results.append((fine, *torch.autograd.grad((fine * functional).sum(), inputs)))
    return results


@pytest.mark.parametrize(("groups", "channels"), [(1, (2, 3)), (2, (4, 2)), (3, (3, 3))])
def test_gather_form_is_the_transposed_convolution(groups, channels):
    generator = torch.Generator().manual_seed(0)
    axes = list(small_axes())
    assert len(axes) > 200
    for lat, lon in zip(axes, axes[7:] + axes[:7], strict=True):
        names = ("stride", "padding", "output_padding")
        options = dict(zip(names, zip(lat[1:], lon[1:], strict=True), strict=True), groups=groups)
        coarse = torch.randn(1, channels[0], 3, 4, dtype=torch.float64, generator=generator)
        shape = channels[0], channels[1] // groups, lat[0], lon[0]
        weight = torch.randn(shape, dtype=torch.float64, generator=generator)
        scatter, gather = scatter_and_gather(coarse, weight, options)
        for expected, found in zip(scatter, gather, strict=True):
            assert found.shape == expected.shape
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


# Phases of a kernel -------------------------------------------------------------------------------

axis = st.tuples(st.integers(1, 8), st.integers(1, 5), st.integers(0, 10))


@given(axis)
def test_tap_range_is_the_range_of_offsets_that_meet_the_kernel(geometry):
    kernel_size, stride, padding = geometry
    offsets = [
        d for d in range(-20, 20) for r in range(stride) if 0 <= stride * d + r + padding < kernel_size
    ]
    assert tap_range(*geometry) == (min(offsets), max(offsets))


@given(axis, axis)
def test_each_phase_holds_the_taps_that_its_definition_says(lat, lon):
    kernel = torch.randn(lat[0], lon[0])
    phases = split_phases(kernel, (lat[1], lon[1]), (lat[2], lon[2])).numpy()
    expected = np.zeros(phases.shape, dtype=np.float32)
    first = tap_range(*lat)[0], tap_range(*lon)[0]
    for index in np.ndindex(*phases.shape):
        rows, columns, *taps = index
        i = lat[1] * (taps[0] + first[0]) + rows + lat[2]
        j = lon[1] * (taps[1] + first[1]) + columns + lon[2]
        if 0 <= i < lat[0] and 0 <= j < lon[0]:
            expected[index] = kernel[i, j]
    assert np.array_equal(phases, expected)
    assert np.count_nonzero(expected) == np.count_nonzero(kernel)


@given(axis.filter(lambda a: 6 * a[1] + a[0] > 2 * a[2] + a[1]))
def test_gathering_the_phases_is_a_transposed_convolution(geometry):
    kernel_size, stride, padding = geometry
    kernel, coarse = torch.randn(kernel_size).double(), torch.randn(6).double()
    fine = F.conv_transpose1d(coarse[None, None], kernel[None, None], stride=stride, padding=padding)[0, 0]
    phases, first = split_phases(kernel, (stride,), (padding,)), tap_range(*geometry)[0]
    for n, value in enumerate(fine):
        q, r = divmod(n, stride)
        cells = [q - first - tap for tap in range(phases.shape[1])]
        terms = [coarse[i] * phases[r, tap] for tap, i in enumerate(cells) if 0 <= i < 6]
        torch.testing.assert_close(sum(terms, torch.zeros(()).double()), value)


def test_left_out_padding_is_the_one_of_n_times_stride():
    kernel = torch.randn(7, 4)
    padding = same_padding(7, 2)[0], same_padding(4, 2)[0]
    assert torch.equal(split_phases(kernel, 2), split_phases(kernel, 2, padding))


def test_gradient_of_split():
    kernel = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: split_phases(w, 2), kernel)


def test_split_refuses_a_stride_of_another_number_of_axes():
    with pytest.raises(ShapeError, match="kernel expected at least 2 axes"):
        split_phases(torch.randn(4), (2, 2))


# Laws at the edge ----------------------------------------------------------------------------------


def edge_violation(law, edge, layer, coarse):
    """How far the layer on this field is from keeping a law on the whole domain, edge included."""
    if law == "phase":
        return (layer(torch.ones_like(coarse)) - 1).abs().max()
    fine = layer(coarse)
    if law == "cell":
        return (block_mean(fine, layer.stride) - coarse).abs().max()
    return (fine.sum((-2, -1)) - coarse.sum((-2, -1)) * np.prod(layer.stride)).abs().max()


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("law", ["total", "phase", "cell"])
def test_which_law_each_edge_keeps(law, edge):
    layer = depthwise(law=law, padding_mode=edge)
    coarse = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    violation = edge_violation(law, edge, layer, coarse)
    if law in EDGES[edge].laws:
        assert violation < 1e-12
    else:
        assert violation > 1e-2


@pytest.mark.parametrize("edge", ["reflect", "fold"])
@pytest.mark.parametrize("law", ["total", "phase", "cell"])
def test_mirror_symmetric_kernels_keep_their_law_under_reflect_and_fold(law, edge):
    layer = depthwise(law=law, padding_mode=edge, kernel_size=(9, 6))
    layer.weight = project(torch.rand(3, 1, 9, 6, dtype=torch.float64), law, (3, 2))
    layer.weight = (layer.weight + layer.weight.flip(-1)) / 2
    layer.weight = (layer.weight + layer.weight.flip(-2)) / 2
    assert edge_violation(law, edge, layer, torch.randn(1, 3, 4, 5, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("law", LAWS)
def test_default_edge_keeps_the_law(law):
    layer = depthwise(law=law)
    assert layer.padding_mode == (default_edge(layer.law),) * 2
    assert set(layer.law) <= EDGES[layer.padding_mode[0]].laws
    coarse = torch.randn(1, 3, 4, 5, dtype=torch.float64)
    for name in layer.law:
        assert edge_violation(name, None, layer, coarse) < 1e-12


sizes = st.integers(1, 6)


@given(n=st.tuples(sizes, sizes), edges=st.tuples(*[st.sampled_from(["circular", "reflect", "fold"])] * 2))
@settings(max_examples=20)
def test_cell_kernels_return_block_means_on_any_field(n, edges):
    layer = depthwise(2, (28, 15), (4, 3), law="cell", padding_mode=edges)
    coarse = torch.randn(2, *n, dtype=torch.float64)
    torch.testing.assert_close(block_mean(layer(coarse), (4, 3)), coarse, rtol=0, atol=1e-12)


@given(n=st.tuples(sizes, sizes), edges=st.tuples(*[st.sampled_from(["circular", "fold"])] * 2))
@settings(max_examples=20)
def test_total_is_kept_on_any_field(n, edges):
    layer = depthwise(2, (13, 8), (4, 3), law="total", padding_mode=edges)
    coarse = torch.randn(2, *n, dtype=torch.float64)
    assert edge_violation("total", edges, layer, coarse) < 1e-11


@given(n=st.tuples(sizes, sizes), edges=st.tuples(*[st.sampled_from(["circular", "reflect"])] * 2))
@settings(max_examples=20)
def test_constants_stay_constant_on_any_field(n, edges):
    layer = depthwise(2, (13, 8), (4, 3), law="phase", padding_mode=edges)
    assert edge_violation("phase", edges, layer, torch.ones(2, *n, dtype=torch.float64)) < 1e-12


@given(kernel_size=st.integers(1, 30), stride=st.integers(1, 5), n=st.integers(1, 5))
def test_fold_is_the_transpose_of_reflect(kernel_size, stride, n):
    reach = kernel_size
    fine, coarse = torch.randn(1, n + 2 * reach), torch.randn(1, n)
    extended = EDGES["reflect"].extend(coarse, -1, -reach, n + reach)
    folded = fold(fine, -1, -reach, n)
    torch.testing.assert_close((extended * fine).sum(), (coarse * folded).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.sum(), fine.sum(), rtol=1e-4, atol=1e-4)


def test_extensions_are_the_named_ones():
    coarse = torch.tensor([[1.0, 2.0, 3.0]])
    assert EDGES["reflect"].extend(coarse, -1, -4, 8).tolist() == [[3, 3, 2, 1, 1, 2, 3, 3, 2, 1, 1, 2]]
    assert EDGES["circular"].extend(coarse, -1, -4, 5).tolist() == [[3, 1, 2, 3, 1, 2, 3, 1, 2]]
    assert EDGES["zeros"].extend(coarse, -1, -1, 4).tolist() == [[0, 1, 2, 3, 0]]


@pytest.mark.parametrize("shift", [1, -2])
def test_rolling_longitude_rolls_the_output(shift):
    layer = depthwise(padding_mode=("reflect", "circular"))
    coarse = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    rolled = layer(coarse.roll(shift, -1))
    torch.testing.assert_close(rolled, layer(coarse).roll(shift * 2, -1), rtol=0, atol=1e-13)
    other = layer(coarse.roll(shift, -2))
    assert (other - layer(coarse).roll(shift * 3, -2)).abs().max() > 1e-2
