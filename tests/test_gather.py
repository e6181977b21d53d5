"""Transposed convolution in gather form: equal to the scatter form; what becomes of each law at each edge."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from downscale.kernels.laws import project
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.edges import EDGES, default_edge, fold
from downscale.nn.gather import gather_conv_transpose2d

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


def scatter_and_gather(coarse, weight, options):
    """Both forms and the gradients of a random functional of them."""
    results = []
    for form in (F.conv_transpose2d, gather_conv_transpose2d):
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
    if law in EDGES[edge].keeps:
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
    assert set(layer.law) <= EDGES[layer.padding_mode[0]].keeps
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
