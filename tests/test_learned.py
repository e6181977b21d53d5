"""Learned models keep their laws for any weights: structure, constraints, channels (no grid but its shares)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from learned_models import awake, lat_lon, place_of, rain, some_fields, spec_of, upscaled
from torch import Tensor

from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.fields.conserve import additive, bounded
from downscale.nn.channels import MOST_RATIO, channels
from downscale.nn.edges import Frame, box_mean
from downscale.nn.learned import SOFTMAX_FLOOR, Learned
from downscale.nn.networks import NETWORKS
from downscale.nn.spec import CONSTRAINTS, TRANSFORMS, ModelSpec, Variable
from downscale.nn.upsampling import UPSAMPLINGS

LAWFUL = [name for name in CONSTRAINTS if name != "none"]
GRID = lat_lon(6, 9)


def assert_cell_law(y: Tensor, x: Tensor, cells: Aggregation, rtol: float = 1e-6) -> None:
    """Cell means of the stored values, taken in float64, beside the largest value of the cell."""
    y = y.detach()
    mask = torch.isfinite(y)
    means = cells.apply_mask(mask).mean(y.double())
    size = cells.reduce_cells(torch.where(mask, y.abs(), torch.zeros_like(y)).double(), torch.maximum, 0.0)
    size = torch.maximum(size, x.double().abs())
    known = torch.isfinite(means) & torch.isfinite(x)
    assert known.any()
    assert ((means - x.double()).abs() <= rtol * size)[known].all()


# Untrained


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("network", NETWORKS)
def test_an_untrained_model_is_the_kernel(network: str, upsampling: str, constraint: str) -> None:
    """Tier 1 to the last bit under its own constraints; under the others where they bind nothing."""
    model = Learned(spec_of(network, (2, 3), constraint=constraint, upsampling=upsampling)).double()
    x, proposal, cells, statics = some_fields(GRID, (2, 3), dtype=torch.float64)
    # No part of this field falls below the floor.
    x, proposal = x + 20, proposal + 20
    assert (proposal > 2 * SOFTMAX_FLOOR * cells.broadcast_to_fine(x)).all()
    y = model(x, proposal, cells, statics=statics)
    if constraint in ("additive", "bounded"):
        same = {"additive": additive, "bounded": bounded}[constraint](proposal, x, cells, (0.0, None))
        assert torch.equal(y, same)
    torch.testing.assert_close(y, proposal, rtol=1e-12, atol=0)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_an_untrained_model_is_the_kernel_beside_gaps(constraint: str) -> None:
    model = Learned(spec_of("residual", (2, 3), constraint=constraint)).double()
    x, proposal, cells, statics = some_fields(GRID, (2, 3), dtype=torch.float64, missing=0.2)
    y = model(x + 20, proposal + 20, cells, statics=statics)
    assert torch.equal(torch.isnan(y), torch.isnan(proposal))
    torch.testing.assert_close(y, proposal + 20, rtol=1e-12, atol=0, equal_nan=True)


# Laws for any weights


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("constraint", LAWFUL)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("missing", [0.0, 0.25])
def test_the_cell_law_holds_in_single_precision(network: str, constraint: str, transform: str, missing: float) -> None:
    """Random weights, unequal cells, missing cells, masked parts; and nothing falls below zero."""
    model = awake(spec_of(network, (3, 2), constraint=constraint, transform=transform))
    x, proposal, cells, statics = some_fields(GRID, (3, 2), missing=missing, masked=missing)
    y = model(x, proposal, cells, statics=statics)
    assert y.dtype == torch.float32
    assert torch.equal(torch.isnan(y), torch.isnan(proposal))
    assert_cell_law(y, x, cells)
    moved = (y - proposal).abs().nan_to_num().max()
    assert moved > 1e-3 * x.nan_to_num().max(), "the network must have its say"
    if constraint != "additive":
        assert y.nan_to_num().min() >= 0


@pytest.mark.parametrize("constraint", LAWFUL)
def test_dry_cells_stay_dry(constraint: str) -> None:
    model = awake(spec_of("residual", (3, 2), constraint=constraint, transform="local"))
    x, proposal, cells, statics = some_fields(GRID, (3, 2))
    x[:] = 0
    y = model(x, torch.zeros_like(proposal), cells, statics=statics)
    assert (y == 0).all()


def test_upper_bounds_hold_too_and_each_variable_has_its_own() -> None:
    cloud, temperature = Variable("clt", bounds=(0, 1)), Variable("tas", "K", mean=280.0, std=5.0)
    spec = ModelSpec("residual", (3, 2), (cloud, temperature, rain("linear")), constraint="bounded")
    model = awake(spec, spread=0.05)
    x, _, cells, _ = some_fields(GRID, (3, 2), variables=3)
    x[:, 0] = x[:, 0] / (1 + x[:, 0].amax())
    x[:, 1] += 280
    y = model(x, cells.broadcast_to_fine(x), cells)
    assert_cell_law(y, x, cells)
    assert 0 <= y[:, 0].min() <= y[:, 0].max() <= 1
    assert y[:, 2].min() >= 0
    alone = bounded(model(x, cells.broadcast_to_fine(x), cells, constrain=False)[:, :1], x[:, :1], cells, (0, 1))
    torch.testing.assert_close(y[:, :1], alone)


@pytest.mark.parametrize("constraint", ["bounded", "multiplicative", "softmax"])
def test_a_cell_beyond_its_bounds_keeps_its_value_evenly(constraint: str) -> None:
    """The law goes before the bounds, as it does without a network; its neighbours are not touched."""
    model = awake(spec_of("residual", (3, 2), constraint=constraint))
    x, proposal, cells, statics = some_fields(GRID, (3, 2))
    x[:, :, 2, 3] = -0.5
    y = model(x, proposal, cells, statics=statics)
    assert (y[:, :, 6:9, 6:8] == -0.5).all()
    assert_cell_law(y, x, cells)
    assert (y < 0).sum() == 2 * 6


@pytest.mark.parametrize("constraint", [*LAWFUL, "none"])
def test_without_the_constraint_the_projection_stays(constraint: str) -> None:
    """(I - S A) g: the means of what the network adds are zero; of "none" they are anything."""
    model = awake(spec_of("residual", (3, 2), constraint=constraint)).double()
    x, proposal, cells, statics = some_fields(GRID, (3, 2), dtype=torch.float64, masked=0.2)
    z = model(x, proposal, cells, statics=statics, constrain=False)
    seen = torch.isfinite(proposal)
    shift = cells.apply_mask(seen).mean(z - proposal).abs().nan_to_num().max()
    if constraint in ("none", "softmax"):
        assert shift > 1e-2
    else:
        assert shift < 1e-12
        assert (z - proposal).abs().nan_to_num().max() > 1e-2
    assert model.laws == (frozenset() if constraint == "none" else frozenset({"cell", "total"}))


# Channels


def test_channels_are_what_the_model_says() -> None:
    spec = ModelSpec(
        "residual", (3, 2), (rain("local"), Variable("tas", "K", mean=280.0, std=5.0)), (Variable("uas", "m s-1"),),
        ("orog", "aspect"), ("hour",),
    )  # fmt: skip
    x, proposal, cells, _ = some_fields(GRID, (3, 2), variables=2, missing=0.2)
    wind = torch.randn(2, 1, 6, 9)
    statics = torch.stack([torch.full((18, 18), 2500.0), torch.zeros(18, 18), torch.full((18, 18), torch.nan)])
    made = channels(spec, x, proposal, cells, wind, statics, torch.tensor([[0.5, -0.5], [1.0, 0.0]]))
    assert made.coarse.shape == (2, spec.coarse_channels, 6, 9) == (2, 11, 6, 9)
    assert made.fine.shape == (2, spec.fine_channels, 18, 18) == (2, 7, 18, 18)
    seen = torch.isfinite(x)
    assert torch.equal(made.coarse[:, 6:8] == 1, seen)
    assert (made.coarse[:, :4][~seen[:, :1].expand(-1, 4, -1, -1)] == 0).all()
    assert torch.equal(made.coarse[:, 5], wind[:, 0])
    assert (made.coarse[0, 9] == 0.5).all()
    assert (made.coarse[0, 10] == -0.5).all()
    torch.testing.assert_close(made.coarse[:, 4][seen[:, 1]], ((x[:, 1] - 280) / 5)[seen[:, 1]])
    assert (made.fine[:, 4] == 2.5).all()
    assert not made.fine[:, 5:].any()
    assert torch.equal(made.fine[:, 2:4] == 1, torch.isfinite(proposal))
    assert spec.units == (2, 1)
    assert torch.equal(made.units[:, 1], x[:, 0].nan_to_num())
    assert (made.units[:, 2] == 5).all()


def test_times_may_differ_from_place_to_place() -> None:
    spec = ModelSpec("residual", (2, 2), (Variable("v"),), encodings=("hour",))
    x, proposal, cells, _ = some_fields(GRID, (2, 2))
    clock = torch.rand(2, 2, 6, 9)
    assert torch.equal(channels(spec, x, proposal, cells, time_features=clock).coarse[:, 2:], clock)


def test_log1p_is_the_logarithm_of_what_is_above_zero() -> None:
    spec = ModelSpec("residual", (2, 2), (Variable("pr", transform="log1p", mean=0.5, std=2.0, scale=0.1),))
    x, proposal, cells, _ = some_fields(GRID, (2, 2))
    x[:, :, 0] = -3
    made = channels(spec, x, proposal, cells).coarse[:, :1]
    torch.testing.assert_close(made, (torch.log1p(x.clamp_min(0) / 0.1) - 0.5) / 2)


def test_the_local_scale_is_a_mean_over_valid_neighbours() -> None:
    field, valid = torch.rand(1, 1, 5, 6), torch.rand(1, 1, 5, 6) > 0.3
    field = torch.where(valid, field, torch.zeros_like(field))
    for closed in (False, True):
        mean = box_mean(field, valid.float(), 1, closed)
        for j, i in ((0, 0), (2, 5), (4, 3)):
            rows = [r for r in (j - 1, j, j + 1) if 0 <= r < 5]
            columns = [c % 6 if closed else c for c in (i - 1, i, i + 1) if closed or 0 <= c < 6]
            near = [(r, c) for r in rows for c in columns if valid[0, 0, r, c]]
            wanted = sum(float(field[0, 0, r, c]) for r, c in near) / max(len(near), 1)
            assert math.isclose(float(mean[0, 0, j, i]), wanted, rel_tol=1e-5, abs_tol=1e-7)


def test_local_channels_are_bounded_beside_a_downpour() -> None:
    spec = ModelSpec("residual", (2, 2), (rain("local"),))
    x, _, cells, _ = some_fields(GRID, (2, 2))
    x[:], x[:, :, 2, 2], x[:, :, 5, 8] = 0.0, 1e4, 1e-9
    made = channels(spec, x, cells.broadcast_to_fine(x) + torch.randn(2, 1, 12, 18), cells)
    assert made.coarse.abs().max() <= MOST_RATIO
    assert made.fine.abs().max() <= MOST_RATIO


@pytest.mark.parametrize("constraint", LAWFUL)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_scale_free_model_does_not_know_the_unit(network: str, constraint: str) -> None:
    """g(a x) = a g(x): millimetres an hour or metres a second."""
    model = awake(spec_of(network, (3, 2), constraint=constraint, transform="local"))
    x, proposal, cells, statics = some_fields(GRID, (3, 2), missing=0.1)
    y = model(x, proposal, cells, statics=statics).detach()
    for unit in (1 / 3.6e6, 86400.0):
        other = model(x * unit, proposal * unit, cells, statics=statics) / unit
        torch.testing.assert_close(other, y, rtol=1e-3, atol=2e-4 * float(y.nan_to_num().max()), equal_nan=True)
    with_unit = awake(spec_of(network, (3, 2), constraint=constraint, transform="linear"))
    other = with_unit(x * 10, proposal * 10, cells, statics=statics) / 10
    assert (other - with_unit(x, proposal, cells, statics=statics)).abs().nan_to_num().max() > 1e-2


# Gradients


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_gradients_flow_through_the_whole_beside_gaps(network: str, constraint: str) -> None:
    model = awake(spec_of(network, (2, 2), constraint=constraint, transform="local", upsampling="shuffle"))
    x, proposal, cells, statics = some_fields(GRID, (2, 2), missing=0.3, masked=0.2)
    y = model(x, proposal, cells, statics=statics)
    torch.where(torch.isfinite(y), y, torch.zeros_like(y)).square().sum().backward()
    # What is the same everywhere is no detail.
    last = [name for name, _ in model.named_parameters()][-1] if constraint != "none" else ""
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.any() or name == last, name


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_gradients_are_those_of_differences(constraint: str) -> None:
    """The derivative along a random direction of all weights, from the start and on."""
    model = awake(spec_of("residual", (2, 2), constraint=constraint, transform="linear"), spread=0.05).double()
    x, proposal, cells, statics = some_fields(GRID, (2, 2), dtype=torch.float64, missing=0.2)
    x, proposal = x + 20, proposal + 20
    weights = list(model.parameters())
    torch.manual_seed(3)
    step = [torch.randn_like(weight) for weight in weights]

    def loss(size: float) -> Tensor:
        moved = {name: w + size * s for (name, w), s in zip(model.named_parameters(), step, strict=True)}
        y = torch.func.functional_call(model, moved, (x, proposal, cells), {"statics": statics})
        return torch.where(torch.isfinite(y), y, torch.zeros_like(y)).square().mean()

    slope = sum((g * s).sum() for g, s in zip(torch.autograd.grad(loss(0.0), weights), step, strict=True))
    with torch.no_grad():
        difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close(slope, difference, rtol=1e-4, atol=1e-6)


def test_an_untrained_model_learns_at_once() -> None:
    model = Learned(spec_of("residual", (2, 2), constraint="bounded", transform="local"))
    x, proposal, cells, statics = some_fields(GRID, (2, 2))
    truth = (proposal + 0.3 * torch.rand_like(proposal)).clamp_min(0)
    x = cells.mean(truth)
    step = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = (model(x, proposal, cells, statics=statics) - truth).square().mean()
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_mixed_precision_keeps_the_law() -> None:
    model = awake(spec_of("residual", (3, 2), constraint="bounded", transform="local"))
    x, proposal, cells, statics = some_fields(GRID, (3, 2), missing=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x, proposal, cells, statics=statics)
    assert y.dtype == torch.float32
    assert_cell_law(y, x, cells)
    torch.testing.assert_close(y, model(x, proposal, cells, statics=statics), rtol=0.3, atol=0.3, equal_nan=True)


# Refusals


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"x": (2, 2, 6, 9)}, r"expected x \(pr\) of shape \(2, 1, 6, 9\), received \(2, 2, 6, 9\)"),
        ({"proposal": (2, 1, 6, 9)}, r"expected proposal \(pr\) of shape \(2, 1, 18, 18\), received \(2, 1, 6, 9\)"),
        ({"statics": None}, r"expected statics \(orog\) of shape \(2, 1, 18, 18\), received nothing"),
        ({"statics": (2, 18, 18)}, r"expected statics \(orog\)"),
        ({"predictors": (2, 1, 6, 8)}, r"expected predictors \(uas\) of shape \(2, 1, 6, 9\), received \(2, 1, 6, 8\)"),
        ({"time_features": (2, 3)}, r"expected time_features \(hour_sin, .* shape \(2, 2, 6, 9\), received \(2, 3\)"),
    ],
)
def test_fields_that_do_not_fit_are_refused(change: dict, complaint: str) -> None:
    spec = ModelSpec("residual", (3, 2), (rain("local"),), (Variable("uas"),), ("orog",), ("hour",))
    shapes = {
        "x": (2, 1, 6, 9), "proposal": (2, 1, 18, 18), "predictors": (2, 1, 6, 9), "statics": (1, 18, 18),
        "time_features": (2, 2), **change,
    }  # fmt: skip
    fields = {key: None if shape is None else torch.zeros(shape) for key, shape in shapes.items()}
    cells = some_fields(GRID, (3, 2))[2]
    with pytest.raises(ShapeError, match=complaint):
        Learned(spec)(cells=cells, **fields)


def test_cells_of_another_factor_are_refused() -> None:
    x, proposal, cells, _ = some_fields(GRID, (2, 3))
    with pytest.raises(ShapeError, match="expected cells of 3 x 2 parts, as the model was trained for, received 2 x 3"):
        Learned(ModelSpec("residual", (3, 2), (Variable("v"),)))(x, proposal, cells)


# Frames


@pytest.mark.parametrize("corner", [(0, 0), (3, -7), (5, 2)])
@pytest.mark.parametrize("closed", [False, True])
def test_frames_align_to_the_world_and_crop_exactly(corner: tuple[int, int], closed: bool) -> None:
    field = torch.rand(1, 1, 10, 14)
    frame = Frame.of((5, 7), 4, corner, closed, wrap=3)
    framed = frame.pad(field, (2, 2))
    assert torch.equal(frame.crop(framed, (2, 2)), field)
    for pads, first, given, size in zip((frame.rows, frame.columns), corner, (5, 7), framed.shape[-2:], strict=True):
        assert (first - pads[0]) % 4 == 0
        assert size == 2 * (pads[0] + given + pads[1])
        assert size % 8 == 0
    assert frame.columns[0] >= (3 if closed else 0)
    left = framed[..., 2 * frame.rows[0] : 2 * frame.rows[0] + 10, : 2 * frame.columns[0]]
    index = torch.arange(-2 * frame.columns[0], 0) % 14
    assert torch.equal(left, field[..., index] if closed else torch.zeros_like(left))


def test_place_and_fields_go_together() -> None:
    """The helper that other tests stand on: its proposal is the kernel's."""
    x, proposal, _, _ = some_fields(GRID, (3, 2), dtype=torch.float64)
    torch.testing.assert_close(upscaled(GRID, (3, 2), x, place_of(GRID, (3, 2))), proposal)


def test_less_of_the_detail_is_kept_outside_training_only() -> None:
    grid, factor = lat_lon(6, 7), (2, 2)
    x, proposal, cells, orog = some_fields(grid, factor)
    whole = awake(spec_of("residual", factor, "additive", "linear"))
    half = Learned(replace(whole.spec, kept=0.5))
    half.load_state_dict(whole.state_dict())
    full, less = (model.eval()(x, proposal, cells, statics=orog) for model in (whole, half))
    kernel = Learned(whole.spec)(x, proposal, cells, statics=orog)
    torch.testing.assert_close(less - kernel, (full - kernel) / 2, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(half.train()(x, proposal, cells, statics=orog), full)
    with pytest.raises(OptionError, match="expected kept above 0 and up to 1, received 0"):
        replace(whole.spec, kept=0)
