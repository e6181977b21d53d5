"""Conversion of physical fields to network channels, and of network outputs to physical detail.

Missing values become zeros, marked in a mask channel. Three functions define the scaling: :func:`features`,
:func:`feature` and :func:`units`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from downscale.errors import ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.nn.framing import box_mean
from downscale.nn.spec import FEATURES, ModelSpec, Variable

# Cells on each side for the local scale; the wide scale is a mean over more cells, applied twice.
LOCAL_RADIUS, WIDE_RADIUS = 2, 7
# Largest ratio of a cell of a box to the mean of the box.
MOST_RATIO = float((2 * LOCAL_RADIUS + 1) ** 2)
# Fractions of the wide scale from which features of magnitude start.
LEAST_SHARE, LEAST_RATIO = 0.1, 0.01
# Scales of the statics: height, height above the cell mean (both in metres), slope; others are of order one.
STATIC_SCALES = {"orog": 1000.0, "relief": 300.0, "slope": 0.1}


@dataclass(frozen=True)
class Channels:
    """Input channels of a network, and factors of its outputs.

    Attributes
    ----------
    coarse : Tensor, shape (B, C_c, ny, nx)
        Variables and predictors, a mask for each, and times.
    fine : Tensor, shape (B, C_f, ny * fy, nx * fx)
        Proposals, a mask for each, and statics.
    units : Tensor, shape (B, U, ny, nx)
        Factors of the network's outputs, ``spec.units`` of them per output.
    """

    coarse: Tensor
    fine: Tensor
    units: Tensor


def channels(
    spec: ModelSpec,
    x: Tensor,
    proposal: Tensor,
    cells: Aggregation,
    predictors: Tensor | None = None,
    statics: Tensor | None = None,
    clock: Tensor | None = None,
    closed: bool = False,
    noise: tuple[Tensor, Tensor] | None = None,
) -> Channels:
    """Return the channels of a network; shapes as in :meth:`downscale.nn.learned.Learned.forward`.

    Raises
    ------
    ShapeError
        If a field is missing, or its channels or sizes are not those of the model.
    """
    _check(spec, x, proposal, cells, predictors, statics, clock)
    _check_noise(spec, cells, noise)
    given = x if predictors is None or not spec.predictors else torch.cat([x, predictors.to(x)], dim=1)
    valid = torch.isfinite(given)
    values = torch.where(valid, given, torch.zeros_like(given))
    every = (*spec.outputs, *spec.predictors)
    plain = all(each.transform == "linear" for each in every)
    scales = Scales(values, values) if plain else Scales.of(values, valid, closed)
    known = torch.cat([features(values, scales, i, each) for i, each in enumerate(every)], dim=1)
    coarse = [torch.where(_repeated(valid, every), known, torch.zeros_like(known)), valid.to(x)]
    if spec.clock_channels and clock is not None:
        times = clock.to(x) if clock.ndim == 4 else clock.to(x)[..., None, None]
        coarse.append(times.expand(x.shape[0], -1, *x.shape[-2:]))
    seen = torch.isfinite(proposal)
    there = torch.where(seen, proposal, torch.zeros_like(proposal))
    # Fine cells take the scale of their coarse cell.
    own = cells.broadcast_to_fine(scales.near[:, : len(spec.outputs)])
    known = torch.stack([feature(there[:, i], own[:, i], each) for i, each in enumerate(spec.outputs)], dim=1)
    fine = [torch.where(seen, known, torch.zeros_like(known)), seen.to(x)]
    if spec.static_channels and statics is not None:
        fine.append(_scaled(spec, statics.to(x)).expand(x.shape[0], -1, *proposal.shape[-2:]))
    if noise is not None:
        coarse, fine = [*coarse, noise[0].to(x)], [*fine, noise[1].to(x)]
    return Channels(torch.cat(coarse, dim=1), torch.cat(fine, dim=1), units(values, scales, spec))


def _repeated(valid: Tensor, variables: tuple[Variable, ...]) -> Tensor:
    """Return the mask of each variable, repeated for each of its features."""
    counts = [FEATURES[each.transform] for each in variables]
    return torch.cat([valid[:, i : i + 1].expand(-1, count, -1, -1) for i, count in enumerate(counts)], dim=1)


@dataclass(frozen=True)
class Scales:
    """Mean magnitudes of valid values around each coarse cell, shape (B, C, ny, nx), near and wide.

    They scale with the values, so that ratios to them are independent of units.
    """

    near: Tensor
    wide: Tensor

    @classmethod
    def of(cls, values: Tensor, valid: Tensor, closed: bool) -> Scales:
        """Return means over boxes, the wide one applied twice to avoid steps."""
        size, weight = values.abs(), valid.to(values)
        wide = box_mean(box_mean(size, weight, WIDE_RADIUS, closed) * weight, weight, LOCAL_RADIUS, closed)
        return cls(box_mean(size, weight, LOCAL_RADIUS, closed), wide)


def features(values: Tensor, scales: Scales, index: int, variable: Variable) -> Tensor:
    """Return the coarse channels of one variable, shape (B, n, ny, nx).

    Variables with the transform "local" have four features: logarithm relative to the wide scale, root relative to the
    near one, logarithm of near over wide, and presence of any signal. All are independent of units.
    """
    value, near, wide = (field[:, index : index + 1] for field in (values, scales.near, scales.wide))
    if variable.transform != "local":
        return feature(value, near, variable)
    over = torch.where(wide > 0, wide, torch.ones_like(wide))
    large = value.sign() * torch.log1p(value.abs() / (LEAST_SHARE * over))
    # The near scale equals the wide one where values are zero over many cells.
    ratio = torch.where(wide > 0, near / over, torch.ones_like(near))
    some = (value != 0).to(value)
    return torch.cat([large, feature(value, near, variable), torch.log(ratio + LEAST_RATIO), some], dim=1)


def feature(values: Tensor, near: Tensor, variable: Variable) -> Tensor:
    """Return one channel of coarse or fine values, with the local scale ``near``."""
    if variable.transform == "local":
        # The stencil is wider than the box: beside a downpour its ripples are large for a dry place.
        ratio = values / torch.where(near > 0, near, torch.ones_like(near))
        ratio = torch.where(near > 0, ratio.clamp(-MOST_RATIO, MOST_RATIO), torch.zeros_like(values))
        return ratio.sign() * ratio.abs().sqrt()
    if variable.transform == "log1p":
        values = torch.log1p(values.clamp_min(0) / variable.scale)
    return (values - variable.mean) / variable.std


def units(values: Tensor, scales: Scales, spec: ModelSpec) -> Tensor:
    """Return the factors from network outputs to detail in physical units, (B, U, ny, nx).

    The factor is the standard deviation for "linear". For values that span orders of magnitude ("local", "log1p"), the
    factors are the local scale and the magnitude of the cell itself. Detail then scales with intensity, and vanishes in
    dry cells.
    """
    each = []
    for i, variable in enumerate(spec.outputs):
        if variable.transform == "linear":
            each.append(torch.full_like(values[:, i], variable.std))
        else:
            each += [scales.near[:, i], values[:, i].abs()]
    return torch.stack(each, dim=1)


def _scaled(spec: ModelSpec, statics: Tensor) -> Tensor:
    """Return statics (B, S, ...) or (S, ...), scaled to order one, zero where missing."""
    scales = [STATIC_SCALES.get(name, 1.0) for name in spec.static_channels]
    scaled = statics / statics.new_tensor(scales)[:, None, None]
    scaled = torch.where(torch.isfinite(scaled), scaled, torch.zeros_like(scaled))
    return scaled if scaled.ndim == 4 else scaled.unsqueeze(0)


def _check(
    spec: ModelSpec,
    x: Tensor,
    proposal: Tensor,
    cells: Aggregation,
    predictors: Tensor | None,
    statics: Tensor | None,
    clock: Tensor | None,
) -> None:
    (ny, nx), (rows, columns) = cells.coarse_shape, cells.fine_shape
    if (cells.factor_y, cells.factor_x) != spec.factor:
        raise ShapeError(
            f"expected cells of {spec.factor[0]} x {spec.factor[1]} parts, as the model was trained for, received "
            f"{cells.factor_y} x {cells.factor_x}; use a model of that factor"
        )
    batch = x.shape[0] if x.ndim else 0
    wanted: list[tuple[str, Tensor | None, tuple[str, ...], list[tuple[int, ...]]]] = [
        ("x", x, tuple(v.name for v in spec.outputs), [(batch, len(spec.outputs), ny, nx)]),
        ("proposal", proposal, tuple(v.name for v in spec.outputs), [(batch, len(spec.outputs), rows, columns)]),
        ("predictors", predictors, tuple(v.name for v in spec.predictors), [(batch, len(spec.predictors), ny, nx)]),
        ("statics", statics, spec.static_channels, _with_batch(batch, len(spec.static_channels), rows, columns)),
        ("clock", clock, spec.clock_channels, _clock_shapes(batch, len(spec.clock_channels), ny, nx)),
    ]
    for word, field, names, shapes in wanted:
        if names and (field is None or tuple(field.shape) not in shapes):
            got = "nothing" if field is None else str(tuple(field.shape))
            raise ShapeError(f"expected {word} ({', '.join(names)}) of shape {shapes[-1]}, received {got}")


def _check_noise(spec: ModelSpec, cells: Aggregation, noise: tuple[Tensor, Tensor] | None) -> None:
    given = (0, 0) if noise is None else tuple(each.shape[-3] for each in noise)
    if given != spec.noise:
        raise ShapeError(f"expected {spec.noise} channels of noise at coarse and fine resolution, received {given}")
    for each, shape in zip(noise or (), (cells.coarse_shape, cells.fine_shape), strict=False):
        if tuple(each.shape[-2:]) != shape:
            raise ShapeError(f"expected noise of {shape[0]} x {shape[1]} cells, received {tuple(each.shape)}")


def _with_batch(batch: int, *sizes: int) -> list[tuple[int, ...]]:
    return [sizes, (1, *sizes), (batch, *sizes)]


def _clock_shapes(batch: int, *sizes: int) -> list[tuple[int, ...]]:
    return [(batch, sizes[0]), (batch, *sizes)]
