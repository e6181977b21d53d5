"""The learnable transposed convolution: its law at every moment, its sizes and its mixing."""

from __future__ import annotations

import copy
import itertools
import warnings

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parametrize

from downscale.errors import OptionError, ShapeError
from downscale.kernels.coverage import CoverageWarning
from downscale.kernels.laws import law_residual, obeys, project
from downscale.nn.conv_transpose import INITS, AffineLaw, ConservativeConvTranspose2d, SimplexLaw
from downscale.nn.edges import EDGES

LAWS = ["total", "phase", "cell", ("phase", "cell")]
BOUND = [(law, "any") for law in LAWS] + [(law, "nonnegative") for law in LAWS[:3]]
TYPES = [torch.float32, torch.float64]


# Uneven sizes are the harder case; what they warn of is tested by itself.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::downscale.kernels.coverage.CoverageWarning"),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def tolerance(dtype):
    return 1e-12 if dtype == torch.float64 else 1e-5


def depthwise(channels=3, kernel_size=(7, 6), stride=(3, 2), **options):
    """A depthwise layer with an uneven random kernel in float64."""
    options = {"init": "random", "dtype": torch.float64, "groups": channels, **options}
    return ConservativeConvTranspose2d(channels, channels, kernel_size, stride, **options)


def block_mean(fine, stride):
    return F.avg_pool2d(fine, stride)


def train(layer, optimiser, steps=3):
    """A few large steps towards noise."""
    optimiser = optimiser(layer.parameters(), lr=0.3)
    for _ in range(steps):
        optimiser.zero_grad()
        fine = layer(torch.randn(2, layer.in_channels, 4, 5, dtype=layer.weight.dtype))
        (fine - torch.randn_like(fine)).square().mean().backward()
        optimiser.step()


# The law at every moment ---------------------------------------------------------------------------


@pytest.mark.parametrize(("law", "sign"), BOUND)
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dtype", TYPES)
def test_law_at_construction(law, sign, init, dtype):
    layer = ConservativeConvTranspose2d(
        2, 2, (7, 6), (3, 2), groups=2, law=law, sign=sign, init=init, dtype=dtype
    )
    assert law_residual(layer.weight, law, (3, 2)) < tolerance(dtype)
    assert layer.law_residual() < tolerance(dtype)
    assert obeys(layer.weight, law, (3, 2))
    if sign == "nonnegative":
        assert layer.weight.min() >= 0


@pytest.mark.parametrize(("law", "sign"), BOUND)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("gain", ["one", "free"])
def test_law_after_training_and_after_a_load(law, sign, dtype, optimiser, gain):
    options = {"groups": 2, "law": law, "sign": sign, "dtype": dtype, "gain": gain}
    layer = ConservativeConvTranspose2d(2, 4, (7, 6), (3, 2), **options)
    before = layer.weight.detach().clone()
    train(layer, optimiser)
    assert (layer.weight - before).abs().max() > 1e-3
    kernel = layer.weight.detach() / layer.gains.detach()[..., None, None]
    assert layer.law_residual() < tolerance(dtype) * max(1.0, float(layer.weight.detach().abs().max()))
    assert obeys(kernel, law, (3, 2))
    if sign == "nonnegative":
        assert kernel.min() >= 0
    other = ConservativeConvTranspose2d(2, 4, (7, 6), (3, 2), init="random", **options)
    assert not torch.equal(other.weight, layer.weight)
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)


@pytest.mark.parametrize(("law", "sign"), BOUND)
def test_saved_states_hold_parameters_alone(law, sign, tmp_path):
    layer = depthwise(law=law, sign=sign)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    state = torch.load(tmp_path / "layer.pt", weights_only=True)
    assert list(state) == ["parametrizations.weight.original"]
    other = depthwise(law=law, sign=sign)
    other.load_state_dict(state, strict=True)
    assert torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize(("law", "sign"), BOUND)
@pytest.mark.parametrize("gain", ["one", "free"])
@pytest.mark.parametrize("dtype", TYPES)
def test_assigning_a_weight(law, sign, gain, dtype):
    layer = depthwise(law=law, sign=sign, gain=gain, dtype=dtype)
    donor = depthwise(law=law, sign=sign, gain=gain, dtype=dtype)
    train(donor, torch.optim.SGD)
    layer.weight = donor.weight
    close = 1e-12 if dtype == torch.float64 else 3e-6
    torch.testing.assert_close(layer.weight, donor.weight, rtol=close, atol=close)
    torch.testing.assert_close(layer.gains, donor.gains, rtol=close, atol=close)
    layer.weight = torch.randn_like(layer.weight)
    assert layer.law_residual() < tolerance(dtype)


@pytest.mark.parametrize("law", LAWS)
def test_assigning_takes_the_nearest_weight(law):
    wish = torch.randn(3, 1, 7, 6, dtype=torch.float64)
    strict = depthwise(law=law)
    strict.weight = wish
    torch.testing.assert_close(strict.weight, project(wish, law, (3, 2)))
    free = depthwise(law=law, gain="free")
    free.weight = wish
    gains = free.gains[..., None, None]
    rival = (gains + 0.1) * project(free.weight / gains, law, (3, 2))
    assert (free.weight - wish).norm() < (strict.weight - wish).norm()
    assert (free.weight - wish).norm() < (rival - wish).norm()
    # The residual of a least-squares projection on a linear space is orthogonal to that space.
    assert ((free.weight - wish) * free.weight).sum((-2, -1)).abs().max() < 1e-10


@pytest.mark.parametrize("sign", ["any", "nonnegative"])
def test_a_free_gain_can_be_zero(sign):
    layer = depthwise(law="phase", sign=sign, gain="free")
    layer.weight = torch.zeros(3, 1, 7, 6, dtype=torch.float64)
    assert not layer.weight.any()
    assert layer.law_residual() < 1e-12
    train(layer, torch.optim.SGD)
    assert layer.weight.isfinite().all()
    assert layer.law_residual() < 1e-12


@pytest.mark.parametrize(("law", "sign"), BOUND)
def test_law_survives_a_change_of_type(law, sign):
    layer = depthwise(law=law, sign=sign, dtype=torch.float32).half().double()
    assert layer.weight.dtype == torch.float64
    assert layer.law_residual() < 1e-12
    assert obeys(layer.half().weight, law, (3, 2))


@pytest.mark.parametrize(("law", "sign"), BOUND)
def test_a_layer_made_without_memory_gets_its_law_on_arrival(law, sign):
    layer = depthwise(law=law, sign=sign, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    assert layer.law_residual() < 1e-12


def test_mixed_precision_leaves_the_law_alone():
    layer = depthwise(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.ones(3, 4, 4)).dtype == torch.bfloat16
        assert layer.weight.dtype == torch.float32
        assert layer.law_residual() < 1e-6


@pytest.mark.parametrize(("law", "sign"), BOUND)
@pytest.mark.parametrize("gain", [False, True])
def test_gradient_of_the_parametrised_weight(law, sign, gain):
    bound = {"any": AffineLaw, "nonnegative": SimplexLaw}[sign](law, (1, 2, 3, 4), (2, 1), free_gain=gain)
    original = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    gains = (torch.randn(1, 2, dtype=torch.float64, requires_grad=True),) if gain else ()
    assert torch.autograd.gradcheck(bound, (original, *gains))


@pytest.mark.parametrize(("law", "sign"), [("phase", "any"), ("total", "nonnegative")])
@pytest.mark.parametrize("edge", EDGES)
def test_gradient_of_the_layer(law, sign, edge):
    layer = depthwise(2, (4, 3), (2, 1), law=law, sign=sign, padding_mode=edge)
    coarse = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = tuple(layer.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (coarse, *parameters))


def test_parametrisations_can_be_worn_by_another_layer():
    layer = torch.nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4, bias=False)
    parametrize.register_parametrization(layer, "weight", SimplexLaw("phase", (4, 1, 4, 4), 2, 1))
    fine = layer(torch.ones(1, 4, 6, 6))
    torch.testing.assert_close(fine[..., 1:-1, 1:-1], torch.ones(1, 4, 10, 10))


# Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_layer_is_the_transposed_convolution_with_its_weight(groups):
    options = {"padding_mode": "zeros", "gain": "free", "bias": True, "groups": groups}
    layer = ConservativeConvTranspose2d(4, 8, (5, 4), (2, 3), (1, 0), (0, 2), **options)
    with torch.no_grad():
        layer.bias.normal_()
    coarse = torch.randn(2, 4, 5, 6)
    plain = torch.nn.ConvTranspose2d(4, 8, (5, 4), (2, 3), (1, 0), (0, 2), groups)
    plain.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    torch.testing.assert_close(layer(coarse), plain(coarse))
    torch.testing.assert_close(layer(coarse)[1], layer(coarse[1]))


@pytest.mark.parametrize(("kernel_size", "stride"), [*itertools.product(range(1, 8), range(1, 5))])
@pytest.mark.parametrize("edge", EDGES)
def test_default_sizes_are_n_times_stride(kernel_size, stride, edge):
    layer = ConservativeConvTranspose2d(1, 2, kernel_size, stride, law="total", padding_mode=edge)
    assert layer(torch.ones(1, 3, 1)).shape == (2, 3 * stride, stride)


def test_sizes_left_out_are_chosen_for_n_times_stride():
    assert ConservativeConvTranspose2d(1, 1, 3, 2, padding=1).output_padding == (1, 1)
    assert ConservativeConvTranspose2d(1, 1, 4, 4, output_padding=2, law="total").padding == (1, 1)
    free = ConservativeConvTranspose2d(1, 1, 3, 2, padding=0, padding_mode="zeros")
    assert free(torch.ones(1, 1, 5, 5)).shape == (1, 1, 11, 11)


def test_reset_starts_again():
    layer = depthwise(init="sobolev")
    start = layer.weight.detach().clone()
    train(layer, torch.optim.SGD)
    layer.reset_parameters()
    assert torch.equal(layer.weight, start)


# Mixing channels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", ["any", "nonnegative"])
@pytest.mark.parametrize("init", INITS)
def test_mixing_layers_make_no_checkerboard_of_constants(sign, init):
    layer = ConservativeConvTranspose2d(
        4, 6, (7, 5), (3, 2), groups=2, bias=True, sign=sign, init=init, dtype=torch.float64
    )
    assert layer.gain == "free"
    train(layer, torch.optim.Adam)
    levels = torch.randn(1, 4, 1, 1, dtype=torch.float64).expand(1, 4, 5, 6)
    fine = layer(levels)
    torch.testing.assert_close(fine, fine[..., :1, :1].expand_as(fine), rtol=0, atol=1e-12)
    mixed = torch.einsum("gi,gio->go", levels[0, :, 0, 0].view(2, 2), layer.gains.view(2, 2, 3)).flatten()
    torch.testing.assert_close(fine[0, :, 0, 0], mixed + layer.bias)


def test_mixing_layers_scale_cell_means_by_their_gains():
    layer = ConservativeConvTranspose2d(3, 2, 8, 2, law="cell", dtype=torch.float64, init="random")
    coarse = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    expected = torch.einsum("bihw,io->bohw", coarse, layer.gains)
    torch.testing.assert_close(block_mean(layer(coarse), 2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("init", INITS)
def test_a_fresh_mixing_layer_neither_blows_up_nor_dies(init):
    layer = ConservativeConvTranspose2d(64, 64, 12, 4, init=init)
    assert 0.3 < layer(torch.randn(2, 64, 6, 6)).std() < 3


# Words and errors ----------------------------------------------------------------------------------


def test_repr_tells_the_law():
    text = repr(depthwise(law=("phase", "cell"), padding_mode=("reflect", "circular")))
    assert "3, 3, kernel_size=(7, 6), stride=(3, 2)" in text
    assert "law=('phase', 'cell'), sign='any', gain='one', padding_mode=('reflect', 'circular')" in text


def test_no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = ConservativeConvTranspose2d(2, 4, 6, 3, groups=2, law="total")
        train(layer, torch.optim.Adam)


def test_an_uneven_kernel_is_warned_of_where_it_is_made():
    words = r"\(5, 4\) is not a multiple of stride \(2, 2\).*kernel_size is \(6, 4\)"
    with pytest.warns(CoverageWarning, match=words) as seen:
        ConservativeConvTranspose2d(2, 2, (5, 4), 2)
    assert seen[0].filename == __file__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "mass"}, "law expected one or more of 'total', 'phase', 'cell', received 'mass'"),
        ({"sign": "positive"}, "sign expected one of 'any', 'nonnegative', received 'positive'"),
        ({"gain": "two"}, "gain expected one of 'one', 'free', received 'two'"),
        ({"init": "zeros"}, "init expected one of 'sobolev', 'uniform', 'random', received 'zeros'"),
        ({"order": 1.5}, "order above 0.5 and not 1.5"),
        ({"padding_mode": "replicate"}, r"padding_mode expected .*'zeros', .*'fold', received 'replicate'"),
        ({"padding_mode": ("zeros",) * 3}, r"received \('zeros', 'zeros', 'zeros'\): choose among"),
        ({"bias": True}, "gain 'one' expected bias=False, received bias=True: a bias adds"),
        ({"sign": "nonnegative", "law": ("phase", "cell")}, "leave only the block of ones"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(OptionError, match=message):
        ConservativeConvTranspose2d(2, 2, 4, 2, **{"groups": 2, **options})


def test_a_gain_of_one_needs_one_input_for_each_output():
    with pytest.raises(OptionError, match="received in_channels=4 and groups=2: 2 inputs would add up"):
        ConservativeConvTranspose2d(4, 4, 4, 2, groups=2, gain="one")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 3, "stride": 4}, r"law 'phase' expected .* received k=\(3, 3\) and s=\(4, 4\)"),
        ({"groups": 3}, "multiples of groups, received in_channels=2, out_channels=2 and groups=3"),
        ({"stride": (2, 2, 2)}, r"stride expected a whole number or a pair .*, received \(2, 2, 2\)"),
        ({"stride": 0}, r"stride expected 1 whole number\(s\) >= 1, received \(0,\)"),
        ({"padding": -1}, r"padding expected 1 whole number\(s\) >= 0, received \(-1,\)"),
        ({"padding": 0}, r"padding_mode 'reflect' expected n \* stride outputs, .* making n \* stride \+2"),
        ({"output_padding": 2}, r"output_padding expected 0 to max\(stride - 1, 1\) = 1, received 2"),
        ({"output_padding": 1}, r"making n \* stride \+1: leave padding out"),
    ],
)
def test_wrong_sizes(options, message):
    with pytest.raises(ShapeError, match=message):
        ConservativeConvTranspose2d(2, 2, **{"kernel_size": 4, "stride": 2, **options})


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4), (2, 4, 2, 4, 4)])
def test_fields_of_other_channels_are_refused(shape):
    layer = ConservativeConvTranspose2d(2, 2, 4, 2)
    with pytest.raises(ShapeError, match=r"coarse field expected shape \(\[batch,\] 2, lat, lon\), received"):
        layer(torch.ones(shape))


def test_fields_too_small_are_refused():
    layer = ConservativeConvTranspose2d(1, 1, 3, 2, padding=2, law="total", padding_mode="zeros")
    with pytest.raises(ShapeError, match="expected cells enough for an output, received 1 with"):
        layer(torch.ones(1, 1, 4))
    with pytest.raises(ShapeError, match="received 0 with"):
        ConservativeConvTranspose2d(1, 1, 4, 2)(torch.ones(1, 0, 4))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"weight expected shape \(3, 1, 7, 6\), received \(1, 3, 7, 6\)"):
        depthwise().weight = torch.zeros(1, 3, 7, 6, dtype=torch.float64)
