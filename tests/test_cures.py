"""Cures of checkerboards and aliases: what each promises, and what it says when it cannot."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from downscale.errors import OptionError, ShapeError
from downscale.kernels.coverage import CoverageWarning
from downscale.kernels.laws import law_residual
from downscale.metrics.response import plane
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.layers import (
    BlurPool,
    DilatedConv2d,
    GlobalAttention,
    Shuffle,
    WindowedAttention,
    attention,
    coarsening_layer,
    convolution,
    coprime_dilation,
)
from downscale.nn.networks import build
from downscale.nn.spec import ModelSpec, Variable
from downscale.nn.upsample import SobolevUpsample
from downscale.nn.upsampling import (
    UPSAMPLINGS,
    ConsistentShuffle,
    SobolevResize,
    Upsampling,
    filters_of,
    smooth_layers,
    start_alike,
    transposed_weight,
    upsampling_layers,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def ripple(fine: torch.Tensor, margin: int = 12) -> float:
    """Range of a field away from its edges, over its size."""
    inside = fine.detach()[..., margin:-margin, margin:-margin]
    return float((inside.amax((-2, -1)) - inside.amin((-2, -1))).max() / inside.abs().max())


# Dilated convolution


@given(st.integers(1, 30))
def test_the_chosen_dilation_has_nothing_in_common(stride):
    assert np.gcd(coprime_dilation(stride), stride) == 1
    assert coprime_dilation(stride) > 1


def test_a_common_divisor_is_warned_of_with_the_remedy():
    with pytest.warns(CoverageWarning, match=r"dilation 2 and stride 4 along axis 1 have the divisor 2.*dilation is 3"):
        DilatedConv2d(1, 1, (3, 4), dilation=(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DilatedConv2d(1, 1, (2, 3))
    with pytest.raises(ShapeError, match="odd kernel size, received 4"):
        DilatedConv2d(1, 1, (2, 2), kernel_size=4)


def test_equal_taps_at_a_coprime_distance_weaken_a_checkerboard():
    board = torch.from_numpy(np.indices((24, 24)).sum(0) % 2 * 2.0 - 1).float()[None, None]
    even = {}
    for distance in (2, 3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CoverageWarning)
            layer = DilatedConv2d(1, 1, (2, 2), dilation=(distance, distance))
        nn.init.constant_(layer.weight, 1 / 9)
        nn.init.zeros_(layer.bias)
        even[distance] = float(layer(board).detach()[..., 8:-8, 8:-8].abs().max())
    assert even[2] == pytest.approx(1.0)
    assert even[3] == pytest.approx(1 / 9)


# Attention


def test_windowed_attention_is_the_slow_loop():
    layer = WindowedAttention(4, 3, heads=2)
    nn.init.normal_(layer.bias)
    nn.init.normal_(layer.outer.weight)
    x = torch.randn(1, 4, 5, 6)
    query, key, value = layer.inner(x)[0].chunk(3)
    gathered = torch.zeros_like(query)
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        for i, j in np.ndindex(5, 6):
            scores, values = [], []
            for n, (di, dj) in enumerate(np.ndindex(3, 3)):
                row, column = i + di - 1, j + dj - 1
                inside = 0 <= row < 5 and 0 <= column < 6
                k = key[part, row, column] if inside else torch.zeros(2)
                v = value[part, row, column] if inside else torch.zeros(2)
                scores.append(query[part, i, j] @ k / 2**0.5 + layer.bias[head, n])
                values.append(v)
            gathered[part, i, j] = torch.stack(scores).softmax(0) @ torch.stack(values)
    assert torch.allclose(layer(x), x + layer.outer(gathered[None]), atol=1e-5)


def test_windowed_attention_reaches_as_far_as_it_says():
    layer, x = WindowedAttention(4, 5), torch.randn(1, 4, 15, 15, requires_grad=True)
    nn.init.normal_(layer.outer.weight)
    layer(x)[0, :, 7, 7].sum().backward()
    moved = x.grad.abs().sum((0, 1)).nonzero()
    assert (moved.min(0).values.tolist(), moved.max(0).values.tolist()) == ([5, 5], [9, 9])


def test_global_attention_sees_all_but_padding():
    layer, x = GlobalAttention(4), torch.randn(1, 4, 6, 7, requires_grad=True)
    nn.init.normal_(layer.outer.weight)
    layer(x)[0, :, 0, 0].sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()
    core = (slice(0, 5), slice(1, 7))
    wide = torch.cat([x.detach(), 100 + torch.zeros(1, 4, 6, 2)], dim=-1)
    assert torch.allclose(layer(wide, core)[..., :7], layer(x.detach(), core), atol=1e-4)


@pytest.mark.parametrize(("name", "halo"), [("none", 6), ("windowed", 8), ("global", None)])
def test_attention_is_an_option_of_a_model_and_the_whole_field_has_no_halo(name, halo):
    spec = ModelSpec(
        "residual", (2, 2), (Variable("tas"),), options={"depth": 1, "width": 8, "attention": name, "window": 5}
    )
    network = build(spec)
    assert (network.is_global, network.halo) == (name == "global", halo)
    assert network(torch.zeros(1, spec.coarse_channels, 7, 9), torch.zeros(1, spec.fine_channels, 14, 18)).shape[
        -2:
    ] == (14, 18)


def test_bad_attention_is_refused():
    with pytest.raises(OptionError, match="'none', 'windowed', 'global', received 'local'"):
        attention("local", 8, 5)
    with pytest.raises(OptionError, match=r"odd window.*received 4"):
        WindowedAttention(8, 4)
    with pytest.raises(OptionError, match="heads that divide the width 8, received 3"):
        GlobalAttention(8, 3)


# Blur pooling


def test_blur_pooling_keeps_constants_and_rejects_what_would_alias():
    shortest = torch.from_numpy(np.indices((16, 16))[1] % 2 * 2.0 - 1).float()[None, None]
    assert BlurPool()(shortest)[..., 2:-2, 2:-2].abs().max() < 1e-6
    assert torch.allclose(BlurPool()(torch.ones(1, 2, 16, 16))[..., 1:-1, 1:-1], torch.ones(1))
    assert list(BlurPool().state_dict()) == []


def test_a_blurred_half_changes_less_when_the_field_moves():
    wave = torch.cos(2 * np.pi * torch.arange(64) * 0.4)[None, None, None].expand(1, 1, 64, 64)
    changes = {}
    for name, layer in {"stride": lambda x: x[..., ::2, ::2], "blur": BlurPool()}.items():
        here, there = layer(wave), layer(wave.roll(1, -1))
        changes[name] = float((here.std() - there.std()).abs() + (here - there).std())
    assert changes["blur"] < 0.2 * changes["stride"]


def test_an_unknown_pooling_is_refused():
    with pytest.raises(OptionError, match="'strided', 'blur', received 'max'"):
        coarsening_layer("max", 4, 4)


# Pixel shuffle


@pytest.mark.parametrize("factor", [(2, 2), (3, 2)])
def test_a_pixel_shuffle_is_a_transposed_convolution(factor):
    layer, x = convolution(3, 2 * factor[0] * factor[1]), torch.randn(1, 3, 6, 7)
    weight = transposed_weight(layer.weight, factor)
    assert torch.equal(filters_of(weight, factor), layer.weight)
    made = F.conv_transpose2d(x, weight, None, factor, padding=factor)
    shuffled = Shuffle(factor)(layer(x) - layer.bias[:, None, None])
    # Torch has no room for the last taps at the far edges.
    assert torch.allclose(made, shuffled[..., : made.shape[-2], : made.shape[-1]], atol=1e-5)


def test_icnr_starts_alike_and_the_law_stays_alike():
    free, bound = convolution(2, 4), ConsistentShuffle(2, 1, (2, 2))
    start_alike(free, 4)
    kept = nn.Sequential(free, Shuffle((2, 2)))
    constant, target = torch.ones(1, 2, 12, 12), torch.randn(1, 1, 24, 24)
    for layer in (kept, bound):
        assert ripple(layer(constant), 4) < 1e-5
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.3)
        for _ in range(5):
            optimiser.zero_grad()
            (layer(constant + torch.randn(1, 2, 12, 12)) - target).square().mean().backward()
            optimiser.step()
    assert ripple(kept(constant), 4) > 0.05
    assert ripple(bound(constant), 4) < 1e-5
    weight = transposed_weight(bound.filters.weight.detach(), (2, 2))
    gains = weight.sum((-2, -1), keepdim=True) / 4
    assert law_residual((weight / gains).double().numpy(), "phase", 2, 2) < 1e-5


def test_a_bound_shuffle_is_saved_and_loaded(tmp_path):
    layer, other = ConsistentShuffle(2, 1, (2, 2)), ConsistentShuffle(2, 1, (2, 2))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(layer(x), other(x))


def test_sobolevs_kernel_on_features_keeps_cells_and_constants_up_to_the_edge():
    layer, x = SobolevResize((2, 3)), torch.randn(1, 2, 9, 8, dtype=torch.float64)
    fine = layer(x)
    assert torch.allclose(F.avg_pool2d(fine, (2, 3)), x, atol=1e-5)
    assert torch.allclose(layer(torch.ones_like(x)), torch.ones(1, dtype=torch.float64), atol=1e-5)
    whole = SobolevUpsample(plane(9, 8), (2, 3))(x)
    # Away from the edges, where windows of the method shift inward.
    assert torch.allclose(fine[..., 6:-6, 9:-9], whole[..., 6:-6, 9:-9], atol=1e-5)


# Repair


@pytest.mark.parametrize("name", [name for name in UPSAMPLINGS if name not in ("resize", "sobolev")])
def test_a_repair_leaves_no_checkerboard_of_constants_and_smoother_kernels(name):
    network = Upsampling(name, 3, 2, (2, 2), act="relu")
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.rand_like(weight))
    found = list(upsampling_layers(network))
    sums = [each.weight.sum((-2, -1)).clone() for each in found]
    told = smooth_layers(network, 0.5)
    assert len(found) == len(told) == 1
    assert told[0].after < told[0].before
    for each, before in zip(upsampling_layers(network), sums, strict=True):
        assert torch.allclose(each.weight.sum((-2, -1)), before, atol=1e-4)
    if name != "dilated":
        bare = network.layers[0]
        assert name == "shuffle" or ripple(bare(torch.ones(1, 3, 16, 16)), 8) < 1e-4


def test_laws_of_bound_layers_survive_a_repair():
    layer = ConservativeConvTranspose2d(2, 2, 6, 2, groups=2, law=("phase", "cell"), init="random")
    smooth_layers(layer, 2.0)
    assert layer.law_residual() < 1e-5


def test_nothing_to_repair_is_said():
    with pytest.raises(OptionError, match="transposed convolutions or pixel shuffles, received one without"):
        smooth_layers(nn.Conv2d(1, 1, 3), 1.0)
