"""Networks: measured reaches, any size, any factor, no start of their own (layers, stages)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from downscale.errors import OptionError, ShapeError
from downscale.nn.layers import ResidualBlock, Shuffle, Unshuffle, activation, convolution
from downscale.nn.networks import NETWORKS, ModuleNetwork, Network, build, options_of
from downscale.nn.spec import ModelSpec, Variable
from downscale.nn.upsampling import UPSAMPLINGS, Upsampling, conservative_stage, prime_factors, stage_factors

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
    coarse, fine = (
        torch.randn(1, channels, *sizes, dtype=torch.float64, generator=torch_random, requires_grad=True)
        for channels, sizes in zip(network.channels, (shape, (shape[0] * fy, shape[1] * fx)), strict=True)
    )
    out = network(coarse, fine)[..., cell[0] * fy : (cell[0] + 1) * fy, cell[1] * fx : (cell[1] + 1) * fx]
    (out * torch.rand(out.shape, dtype=torch.float64, generator=torch_random)).sum().backward()
    found = []
    for field, parts in ((coarse, (1, 1)), (fine, (fy, fx))):
        moved = (field.grad != 0).any(dim=1)[0]
        spans = [moved.any(dim=1 - axis).nonzero().flatten() // parts[axis] for axis in (0, 1)]
        found.append([(int(span.min()), int(span.max())) for span in spans])
    return found


def assert_exact(network: Network, cell: tuple[int, int], exact: bool = True) -> None:
    """The measured reach is that of the derivatives, whatever the weights: none too few, none too many."""
    assert network.spans is not None
    far = [max(network.reach(axis), 1) + network.multiple_of for axis in (0, 1)]
    turns = [-(-size // network.multiple_of) * network.multiple_of for size in far]
    centre = (turns[0] + cell[0], turns[1] + cell[1])
    shape = (centre[0] + far[0] + 1, centre[1] + far[1] + 1)
    coarse, fine = touched(network, centre, shape)
    for axis in (0, 1):
        wanted = network.spans[axis][:, cell[axis] % network.multiple_of] + centre[axis]
        for found, (low, high) in zip((coarse[axis], fine[axis]), wanted.tolist(), strict=True):
            assert low <= found[0]
            assert found[1] <= high
            assert not exact or found == (low, high)


@pytest.mark.parametrize(("network", "upsampling"), EVERY)
@pytest.mark.parametrize("factor", [(2, 2), (3, 4)])
def test_every_reach_is_exact(network: str, upsampling: str, factor: tuple[int, int]) -> None:
    made = awake(small(network, factor, upsampling=upsampling))
    for phase in range(made.multiple_of):
        # Interpolation to an odd factor has weights of zero, through which NaN spreads.
        assert_exact(made, (phase, made.multiple_of - 1 - phase), upsampling != "resize" or factor == (2, 2))


@pytest.mark.parametrize("network", ["unet", "autoencoder"])
def test_deeper_levels_are_followed_phase_by_phase(network: str) -> None:
    made = awake(small(network, (2, 1), levels=2, depth=0, upsampling="shuffle"))
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
    assert_exact(awake(small("residual", (2, 3), **options)), (0, 0))


@pytest.mark.parametrize("network", ["unet", "autoencoder"])
def test_blur_pooling_has_an_exact_reach(network: str) -> None:
    made = awake(small(network, (2, 2), pooling="blur"))
    for phase in range(made.multiple_of):
        assert_exact(made, (phase, made.multiple_of - 1 - phase))


@pytest.mark.parametrize("factor", FACTORS)
def test_reaches_are_exact_for_every_factor(factor: int) -> None:
    assert_exact(awake(small("residual", (factor, 1))), (0, 0))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_halo_is_the_farthest_cell_whatever_the_weights(network: str) -> None:
    spec = small(network, (2, 3))
    made = awake(spec)
    assert made.spans is not None
    assert made.halo == max(abs(axis).max() for axis in made.spans) == build(spec).halo
    assert (made.reach(0), made.reach(1)) == tuple(abs(axis).max() for axis in made.spans)


class Own(nn.Module):
    """A network that knows nothing of this package: a dilated convolution, and one at fine resolution."""

    def __init__(self, coarse: int = 2, fine: int = 1, **options) -> None:
        super().__init__()
        self.head = nn.Conv2d(coarse, 4, 3, padding=2, dilation=2, **options)
        self.last = nn.Conv2d(4 + fine, 1, 3, padding=1)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        features = nn.functional.interpolate(torch.relu(self.head(coarse)), scale_factor=2, mode="nearest")
        return self.last(torch.cat([features, fine], dim=1))


def test_a_module_of_any_kind_is_a_network_whose_reach_is_measured() -> None:
    made = ModuleNetwork(Own(), (2, 1), (2, 2))
    assert made.spans is not None
    assert [axis[:, 0].tolist() for axis in made.spans] == [[[-3, 3], [-1, 1]]] * 2
    assert made.halo == 3


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.GroupNorm(1, 2), nn.Conv2d(2, 1, 1)),
        nn.Conv2d(2, 1, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 1, (301, 1), padding=(150, 0)),
    ],
    ids=["normalisation", "circular", "wide"],
)
def test_a_module_that_sees_far_cells_needs_the_whole_field(module: nn.Module) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
            return self.module(coarse)

    made = ModuleNetwork(Alone(), (2, 1), (1, 1))
    assert made.is_global
    assert (made.spans, made.halo, made.reach(0)) == (None, None, 0)


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(2, 3, 2, stride=2), nn.ConvTranspose2d(3, 1, 2, stride=2)

    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(coarse))


def test_a_module_with_deeper_levels_states_their_size() -> None:
    module = Deep()
    with pytest.raises(OptionError, match="multiple_of"):
        ModuleNetwork(module, (2, 1), (1, 1)).halo  # noqa: B018
    module.multiple_of = 2
    assert ModuleNetwork(module, (2, 1), (1, 1)).halo == 1
    with pytest.raises(ShapeError, match=r"64 x 16 fine cells from 32 x 8.*received the shape .*32, 8"):
        ModuleNetwork(Small(), (2, 1), (2, 2)).halo  # noqa: B018


class Small(nn.Module):
    def forward(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return coarse


def test_a_network_that_weighs_by_the_whole_field_has_no_halo() -> None:
    made = awake(small("residual", context=True))
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
    layer = conservative_stage(3, 2, (2, 3)).double()
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


def test_factors_are_split_into_primes() -> None:
    assert [prime_factors(n) for n in (1, 2, 10, 12)] == [(), (2,), (5, 2), (3, 2, 2)]
    assert stage_factors((1, 1)) == ((1, 1),)
    assert stage_factors((6, 8)) == ((3, 2), (2, 2), (1, 2))


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
