"""Networks: exact reaches, any size, any factor, no start of their own (layers, stages, planner)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from downscale.errors import OptionError, ShapeError
from downscale.nn.layers import ResidualBlock, Shuffle, Unshuffle, activation, convolution, plan
from downscale.nn.networks import NETWORKS, Network, build, options_of
from downscale.nn.reach import in_parallel, in_sequence, reach, window_reach
from downscale.nn.spec import ModelSpec, Variable
from downscale.nn.upsampling import UPSAMPLINGS, Upsampling, conservative, prime_factors, stage_factors

FACTORS = (2, 3, 4, 5, 6, 8, 10)
SMALL = {
    "residual": {"width": 6, "depth": 1, "fine_width": 4},
    "unet": {"width": 3, "levels": 1, "depth": 1, "fine_width": 3},
    "autoencoder": {"width": 3, "levels": 1, "latent": 3, "depth": 1, "fine_width": 3},
    "sr_cnn": {"width": 4, "depth": 1, "fine_width": 4, "activation": "silu"},
}
OTHERS = {"width": 4, "depth": 1, "fine_width": 3}
EVERY = [(network, upsampling) for network in NETWORKS for upsampling in UPSAMPLINGS]


def small(network: str, factor: tuple[int, int] = (2, 2), statics: tuple[str, ...] = ("orog",), **options) -> ModelSpec:
    chosen = {**SMALL.get(network, OTHERS), **options}
    return ModelSpec(network, factor, (Variable("v"),), statics=statics, options=chosen)


def awake(spec: ModelSpec, seed: int = 0) -> Network:
    """A network in float64 none of whose weights is zero."""
    torch.manual_seed(seed)
    network = build(spec).double()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.3)
    return network


def touched(network: Network, cell: tuple[int, int], shape: tuple[int, int]) -> list[list[tuple[int, int]]]:
    """First and last coarse row and column that move the fine cells of one coarse cell, by coarse and by fine channels.

    Derivatives of a random sum of those fine cells: exactly zero where there is no path.
    """
    (fy, fx), torch_random = network.factor, torch.Generator().manual_seed(1)
    spec_channels = network_channels(network)
    coarse, fine = (
        torch.randn(1, channels, *sizes, dtype=torch.float64, generator=torch_random, requires_grad=True)
        for channels, sizes in zip(spec_channels, (shape, (shape[0] * fy, shape[1] * fx)), strict=True)
    )
    out = network(coarse, fine)[..., cell[0] * fy : (cell[0] + 1) * fy, cell[1] * fx : (cell[1] + 1) * fx]
    (out * torch.rand(out.shape, dtype=torch.float64, generator=torch_random)).sum().backward()
    found = []
    for field, parts in ((coarse, (1, 1)), (fine, (fy, fx))):
        moved = (field.grad != 0).any(dim=1)[0]
        spans = [moved.any(dim=1 - axis).nonzero().flatten() // parts[axis] for axis in (0, 1)]
        found.append([(int(span.min()), int(span.max())) for span in spans])
    return found


def network_channels(network: Network) -> tuple[int, int]:
    spec = network.spec_for_tests  # type: ignore[attr-defined]
    return spec.coarse_channels, spec.fine_channels


def planned(spec: ModelSpec, seed: int = 0) -> Network:
    network = awake(spec, seed)
    network.spec_for_tests = spec  # type: ignore[assignment]
    return network


def assert_exact(network: Network, cell: tuple[int, int]) -> None:
    """The planner names the very cells that move a fine cell: none too few, none too many."""
    far = [max(network.reach(axis), 1) + network.multiple_of for axis in (0, 1)]
    turns = [-(-size // network.multiple_of) * network.multiple_of for size in far]
    centre = (turns[0] + cell[0], turns[1] + cell[1])
    shape = (centre[0] + far[0] + 1, centre[1] + far[1] + 1)
    coarse, fine = touched(network, centre, shape)
    for axis in (0, 1):
        first = centre[axis] * network.factor[axis]
        wanted = network.needs(axis, first, first + network.factor[axis] - 1)
        assert coarse[axis] == wanted[0]
        assert fine[axis] == wanted[1]


@pytest.mark.parametrize(("network", "upsampling"), EVERY)
@pytest.mark.parametrize("factor", [(2, 2), (3, 4)])
def test_every_reach_is_exact(network: str, upsampling: str, factor: tuple[int, int]) -> None:
    made = planned(small(network, factor, upsampling=upsampling))
    for phase in range(made.multiple_of):
        assert_exact(made, (phase, made.multiple_of - 1 - phase))


@pytest.mark.parametrize("network", ["unet", "autoencoder"])
def test_deeper_levels_are_followed_phase_by_phase(network: str) -> None:
    made = planned(small(network, (2, 1), levels=2, depth=0, upsampling="shuffle"))
    assert made.multiple_of == 4
    for phase in (0, 1, 3):
        assert_exact(made, (phase, 3 - phase))


@pytest.mark.parametrize(
    "options",
    [
        {"dilations": [1, 3], "depth": 3},
        {"see_fine": False, "fine_depth": 2},
        {"depth": 0, "fine_depth": 0},
        {"steps": "whole", "upsampling": "shuffle"},
        {"fine_width": 0},
        {"head_kernel": 5, "block": "separable"},
        {"block": "wide"},
        {"attention": "windowed", "window": 5},
    ],
    ids=str,
)
def test_options_change_the_reach_and_the_plan_with_it(options: dict) -> None:
    assert_exact(planned(small("residual", (2, 3), **options)), (0, 0))


@pytest.mark.parametrize("network", ["unet", "autoencoder"])
def test_blur_pooling_has_an_exact_reach(network: str) -> None:
    made = planned(small(network, (2, 2), pooling="blur"))
    for phase in range(made.multiple_of):
        assert_exact(made, (phase, made.multiple_of - 1 - phase))


@pytest.mark.parametrize("factor", FACTORS)
def test_reaches_are_exact_for_every_factor(factor: int) -> None:
    assert_exact(planned(small("residual", (factor, 1))), (0, 0))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_halo_is_the_farthest_cell(network: str) -> None:
    made = awake(small(network, (2, 3)))
    cells = [(axis, c) for axis in (0, 1) for c in range(4 * made.multiple_of)]
    far = [
        max(c - low, high - c)
        for axis, c in cells
        for low, high in made.needs(axis, c * made.factor[axis], (c + 1) * made.factor[axis] - 1)
    ]
    assert made.halo == max(far)


def test_a_network_that_weighs_by_the_whole_field_has_no_halo() -> None:
    made = planned(small("residual", context=True))
    assert made.halo is None
    coarse, _ = touched(made, (0, 0), (30, 30))
    assert coarse == [(0, 29), (0, 29)]


@pytest.mark.parametrize(("network", "upsampling"), EVERY)
@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (7, 5)])
def test_any_size_goes_in(network: str, upsampling: str, shape: tuple[int, int]) -> None:
    spec = small(network, (2, 3), upsampling=upsampling)
    fine_shape = shape[0] * 2, shape[1] * 3
    out = build(spec)(torch.rand(2, spec.coarse_channels, *shape), torch.rand(2, spec.fine_channels, *fine_shape))
    assert out.shape == (2, 1, *fine_shape)
    assert not out.any()


@pytest.mark.parametrize("network", NETWORKS)
def test_zeros_beyond_the_edge_are_the_padding_to_whole_levels(network: str) -> None:
    """Cropping is exact: a field that was framed by hand gives what the network gives of the field alone."""
    spec = small(network, (2, 2))
    made = awake(spec)
    coarse = torch.rand(1, spec.coarse_channels, 5, 6, dtype=torch.float64)
    fine = torch.rand(1, spec.fine_channels, 10, 12, dtype=torch.float64)
    m = made.multiple_of
    pads = (-6) % m, (-5) % m
    framed = (0, pads[0], 0, pads[1]), (0, 2 * pads[0], 0, 2 * pads[1])
    wide = made(nn.functional.pad(coarse, framed[0]), nn.functional.pad(fine, framed[1]))
    torch.testing.assert_close(made(coarse, fine), wide[..., :10, :12], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", UPSAMPLINGS)
@pytest.mark.parametrize("steps", ["prime", "whole"])
@pytest.mark.parametrize("factor", [(f, f) for f in FACTORS] + [(1, 4), (6, 5), (1, 1)])
def test_stages_make_any_whole_factor(name: str, steps: str, factor: tuple[int, int]) -> None:
    layer = Upsampling(name, 3, 2, factor, steps=steps)
    assert layer(torch.rand(1, 3, 3, 2)).shape == (1, 2, 3 * factor[0], 2 * factor[1])


@pytest.mark.parametrize("factor", [(2, 2), (3, 2)])
def test_a_shuffle_starts_without_a_checkerboard(factor: tuple[int, int]) -> None:
    fine = UPSAMPLINGS["shuffle"](3, 2, factor)(torch.rand(1, 3, 5, 4))
    first = fine[..., :: factor[0], :: factor[1]]
    torch.testing.assert_close(fine, first.repeat_interleave(factor[0], -2).repeat_interleave(factor[1], -1))


def test_a_conservative_stage_keeps_constants_at_every_moment() -> None:
    """Phase law, up to the gain of a pair of channels and up to the edge, before and after a step."""
    layer = conservative(3, 2, (2, 3)).double()
    step = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(2):
        fine = layer(torch.ones(1, 3, 4, 5, dtype=torch.float64))
        torch.testing.assert_close(fine, fine[..., :1, :1].expand_as(fine), rtol=1e-12, atol=1e-12)
        assert fine.abs().max() > 1e-3
        (layer(torch.rand(1, 3, 4, 5, dtype=torch.float64)) ** 2).mean().backward()
        step.step()


@pytest.mark.parametrize("factor", [(2, 2), (3, 2)])
def test_unshuffle_undoes_shuffle(factor: tuple[int, int]) -> None:
    field = torch.rand(2, 3 * factor[0] * factor[1], 4, 5)
    assert torch.equal(Unshuffle(factor)(Shuffle(factor)(field)), field)


def test_rectangular_shuffles_lay_phases_as_square_ones_do() -> None:
    """Along one axis a factor of (2, 1) is torch's shuffle of a field that does not vary along the other."""
    field = torch.rand(1, 2, 3, 4)
    square = nn.functional.pixel_shuffle(field.repeat_interleave(2, dim=1), 2)
    assert torch.equal(Shuffle((2, 1))(field), square[..., ::2])


# The planner against torch


@given(
    st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(14, 20), st.booleans()
)
@settings(max_examples=25, deadline=None)
def test_sizes_and_reaches_are_those_of_torch(
    kernel: int, stride: int, dilation: int, padding: int, cells: int, up: bool
) -> None:
    torch.manual_seed(0)
    layer: nn.Module
    if up:
        extra = stride - 1
        layer = nn.ConvTranspose2d(1, 1, (kernel, 1), (stride, 1), (min(padding, kernel - 1), 0), (extra, 0))
    else:
        layer = nn.Conv2d(1, 1, (kernel, 1), (stride, 1), (padding, 0), (dilation, 1))
    nn.init.uniform_(layer.weight, 0.5, 1.0)
    known = plan(layer, 0)
    field = torch.rand(1, 1, cells, 1, requires_grad=True)
    out = layer(field)
    for i in range(out.shape[-2]):
        (grad,) = torch.autograd.grad(out[0, 0, i, 0], field, retain_graph=True)
        moved = grad.flatten().nonzero().flatten()
        low, high = known(i, i)
        inside = [c for c in range(low, high + 1) if 0 <= c < cells and (up or (c - low) % dilation == 0)]
        assert moved.tolist() == inside


def test_planner_words() -> None:
    assert [prime_factors(n) for n in (1, 2, 10, 12)] == [(), (2,), (5, 2), (3, 2, 2)]
    assert stage_factors((1, 1)) == ((1, 1),)
    assert stage_factors((6, 8)) == ((3, 2), (2, 2), (1, 2))
    assert reach(in_parallel(in_sequence(), window_reach(5, padding=2)), 1) == 2
    with pytest.raises(ShapeError, match="expected a layer whose reach is known, received GroupNorm"):
        plan(nn.GroupNorm(1, 1), 0)


# Building


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"colour": 3}, "expected options of 'residual' among 'width', .* received 'colour'"),
        ({"width": "wide"}, "expected option 'width' of 'residual' to be a whole number from 0 to 4096, .* 'wide'"),
        ({"width": True}, "expected option 'width' .* received True"),
        ({"depth": -1}, "expected option 'depth' .* received -1"),
        ({"context": 1}, "expected option 'context' .* true or false, such as False, received 1"),
        ({"upsampling": 2}, "expected option 'upsampling' .* a text"),
        ({"dilations": [0]}, "expected option 'dilations' .* a list of whole numbers from 1 on"),
        ({"dilations": []}, "expected option 'dilations' .* received \\[\\]"),
        ({"upsampling": "nearest"}, "expected upsampling to be among 'conservative', .* received 'nearest'"),
        ({"steps": "all"}, "expected steps to be among 'prime', 'whole', received 'all'"),
        ({"activation": "tanh"}, "expected activation to be among 'silu', .* received 'tanh'"),
        ({"block": "dense"}, "expected block to be among 'plain', .* received 'dense'"),
        ({"head_kernel": 4}, "expected an odd kernel, .* received 4"),
        ({"fine_width": 0, "see_fine": False}, "expected fine_width above zero without see_fine, received 0"),
        ({"width": 0}, "expected option 'width' of 'residual' to be at least 1"),
    ],
)
def test_wrong_options_are_refused_in_words(options: dict, complaint: str) -> None:
    with pytest.raises(OptionError, match=complaint):
        build(ModelSpec("residual", (2, 2), (Variable("v"),), options=options))


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(OptionError, match=r"expected network to be among 'residual', 'unet', .* received 'x'"):
        build(ModelSpec("x", (2, 2), (Variable("v"),)))


@pytest.mark.parametrize("network", NETWORKS)
def test_options_are_those_of_the_network(network: str) -> None:
    assert {"width", "depth", "fine_width", "upsampling", "steps", "activation"} <= set(options_of(network))
    assert build(ModelSpec(network, (2, 2), (Variable("v"),))).factor == (2, 2)


@pytest.mark.parametrize(("network", "upsampling"), EVERY)
def test_half_precision_and_channels_last(network: str, upsampling: str) -> None:
    spec = small(network, (2, 3), upsampling=upsampling)
    made = awake(spec).float()
    coarse, fine = torch.rand(2, spec.coarse_channels, 6, 5), torch.rand(2, spec.fine_channels, 12, 15)
    plain = made(coarse, fine)
    last = made.to(memory_format=torch.channels_last)(
        coarse.contiguous(memory_format=torch.channels_last), fine.contiguous(memory_format=torch.channels_last)
    )
    assert (last - plain).abs().max() < 1e-5 * plain.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        half = made(coarse, fine)
    assert half.dtype == torch.bfloat16
    assert (half.float() - plain).abs().max() < 0.1 * plain.abs().max()


@pytest.mark.parametrize("network", NETWORKS)
def test_every_weight_learns(network: str) -> None:
    spec = small(network, (2, 2))
    made = awake(spec)
    made(
        torch.rand(1, spec.coarse_channels, 8, 8, dtype=torch.float64),
        torch.rand(1, spec.fine_channels, 16, 16, dtype=torch.float64),
    ).square().sum().backward()
    still = [name for name, weight in made.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not still


def test_a_block_starts_near_the_identity() -> None:
    field = torch.rand(1, 8, 6, 6)
    change = (ResidualBlock(8)(field) - field).abs().mean()
    assert 0 < change < 0.1
    assert activation("relu")(-field).abs().max() == 0
    assert convolution(2, 3, 5)(torch.rand(1, 2, 4, 4)).shape == (1, 3, 4, 4)
