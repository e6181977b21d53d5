"""Kernels to start from: the Sobolev kernel of the reference, under every law and for every size."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from downscale.kernels.laws import law_residual
from downscale.kernels.sobolev import axis_weights
from downscale.nn.conv_transpose import ConservativeConvTranspose2d, sobolev_kernel

# Laws hold for uneven kernels too, of which the layers warn.
pytestmark = pytest.mark.filterwarnings("ignore::downscale.kernels.coverage.CoverageWarning")

LAWS = ["total", "phase", "cell", ("phase", "cell")]
BOUND = [(law, "any") for law in LAWS] + [(law, "nonnegative") for law in LAWS[:3]]
ORACLE = Path(__file__).parents[2] / "shared" / "reference" / "axis_weights.py"


def depthwise(channels, kernel_size, stride, init="sobolev", **options):
    options = {"groups": channels, "init": init, "dtype": torch.float64, **options}
    return ConservativeConvTranspose2d(channels, channels, kernel_size, stride, **options)


def reference_kernel(taps, stride):
    """The kernel that the interior rows of the reference implementation make up, shape (taps * stride,)."""
    if not ORACLE.exists():
        pytest.skip(f"the reference implementation is not at {ORACLE}")
    spec = importlib.util.spec_from_file_location("reference_axis_weights", ORACLE)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    n = taps + 4
    weights, start = oracle.axis_weights(np.arange(n + 1.0), np.arange(n * stride + 1) / stride, taps)
    rows = slice((n // 2) * stride, (n // 2 + 1) * stride)
    assert (start[rows] == n // 2 - taps // 2).all()
    return np.concatenate([weights[rows, taps - 1 - block] for block in range(taps)])


@pytest.mark.parametrize(("taps", "stride"), [*itertools.product([1, 3, 5, 7], [1, 2, 3, 4])])
def test_sobolev_start_is_the_reference_kernel_and_obeys_all_laws(taps, stride):
    kernel = sobolev_kernel(taps * stride, stride)
    np.testing.assert_allclose(kernel, reference_kernel(taps, stride), atol=1e-12)
    assert law_residual(kernel, ("total", "phase", "cell"), stride) < 1e-12


@pytest.mark.parametrize("law", LAWS)
def test_layers_start_from_the_product_of_sobolev_kernels(law):
    layer = depthwise(2, (20, 21), (4, 3), law=law)
    product = torch.from_numpy(np.outer(sobolev_kernel(20, 4), sobolev_kernel(21, 3)))
    torch.testing.assert_close(layer.weight, product.expand(2, 1, 20, 21), rtol=0, atol=1e-13)
    assert law_residual(layer.weight, ("total", "phase", "cell"), (4, 3)) < 1e-12


def test_the_untrained_layer_is_the_periodic_sobolev_operator():
    layer = depthwise(1, 28, 4, padding_mode="circular")
    coarse = torch.randn(1, 9, 10, dtype=torch.float64)
    lat, lon = (
        torch.from_numpy(axis_weights(np.arange(n + 1.0), np.arange(4 * n + 1) / 4, period=n).dense(n))
        for n in (9, 10)
    )
    torch.testing.assert_close(layer(coarse)[0], lat @ coarse[0] @ lon.T, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("law", "sign"), BOUND)
@pytest.mark.parametrize("kernel_size", [(4, 5), (8, 6), (9, 16), (3, 2)])
def test_sobolev_start_for_other_sizes_obeys_and_stays_near(law, sign, kernel_size):
    stride = tuple(min(s, k) for s, k in zip((4, 2), kernel_size, strict=True))
    layer = depthwise(1, kernel_size, stride, law=law, sign=sign)
    assert layer.law_residual() < 1e-12
    even = depthwise(1, kernel_size, stride, init="uniform", law=law, sign=sign).weight
    cut = [sobolev_kernel(k, s) for k, s in zip(kernel_size, stride, strict=True)]
    wish = torch.from_numpy(np.outer(*cut))
    assert (layer.weight - wish).norm() <= (even - wish).norm() + 1e-12


def test_every_tap_that_may_learn_learns():
    for law in ("total", "phase", "cell"):
        layer = depthwise(1, 12, 4, law=law, sign="nonnegative")
        layer(torch.randn(1, 5, 5, dtype=torch.float64)).square().sum().backward()
        used = layer.weight[0, 0] > 0
        gradient = layer.parametrizations.weight.original.grad[0, 0]
        assert gradient[used].abs().min() > 1e-9
        assert used.all() or law == "cell"
