"""Conversion of fields to network channels, of network outputs to physical detail, and of fine fields to codes.

Missing values become zeros, marked in a mask channel. Three functions define the scaling: :func:`features`,
:func:`feature` and :func:`units`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from downscale.errors import ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.nn.edges import box_mean
from downscale.nn.layers import ResidualBlock, Unshuffle, activation, convolution, zero_init
from downscale.nn.spec import FEATURES, Code, ModelSpec, Variable

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

    Shapes: ``coarse`` (B, C_c, ny, nx), ``fine`` (B, C_f, ny * fy, nx * fx), ``units`` (B, U, ny, nx).
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
    time_features: Tensor | None = None,
    closed: bool = False,
    noise: tuple[Tensor, Tensor] | None = None,
) -> Channels:
    """Return the channels of a network; shapes as in :meth:`downscale.nn.learned.Learned.forward`."""
    _check(spec, x, proposal, cells, predictors, statics, time_features)
    _check_noise(spec, cells, noise)
    fields = x if predictors is None or not spec.predictors else torch.cat([x, predictors.to(x)], dim=1)
    valid = torch.isfinite(fields)
    values = torch.where(valid, fields, torch.zeros_like(fields))
    variables = (*spec.outputs, *spec.predictors)
    all_linear = all(variable.transform == "linear" for variable in variables)
    scales = Scales(values, values) if all_linear else Scales.of(values, valid, closed)
    scaled = torch.cat([features(values, scales, i, variable) for i, variable in enumerate(variables)], dim=1)
    coarse = [torch.where(_repeat_features(valid, variables), scaled, torch.zeros_like(scaled)), valid.to(x)]
    if spec.time_channels and time_features is not None:
        times = time_features.to(x) if time_features.ndim == 4 else time_features.to(x)[..., None, None]
        coarse.append(times.expand(x.shape[0], -1, *x.shape[-2:]))
    finite = torch.isfinite(proposal)
    zero_filled = torch.where(finite, proposal, torch.zeros_like(proposal))
    # Fine cells take the scale of their coarse cell.
    near = cells.broadcast_to_fine(scales.near[:, : len(spec.outputs)])
    scaled = torch.stack(
        [feature(zero_filled[:, i], near[:, i], variable) for i, variable in enumerate(spec.outputs)], dim=1
    )
    fine = [torch.where(finite, scaled, torch.zeros_like(scaled)), finite.to(x)]
    if spec.static_channels and statics is not None:
        fine.append(_scale_statics(spec, statics.to(x)).expand(x.shape[0], -1, *proposal.shape[-2:]))
    if noise is not None:
        coarse, fine = [*coarse, noise[0].to(x)], [*fine, noise[1].to(x)]
    return Channels(torch.cat(coarse, dim=1), torch.cat(fine, dim=1), units(values, scales, spec))


def _repeat_features(valid: Tensor, variables: tuple[Variable, ...]) -> Tensor:
    """Return the mask of each variable, repeated for each of its features."""
    counts = [FEATURES[variable.transform] for variable in variables]
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
    divisor = torch.where(wide > 0, wide, torch.ones_like(wide))
    large = value.sign() * torch.log1p(value.abs() / (LEAST_SHARE * divisor))
    # The near scale equals the wide one where values are zero over many cells.
    ratio = torch.where(wide > 0, near / divisor, torch.ones_like(near))
    nonzero = (value != 0).to(value)
    return torch.cat([large, feature(value, near, variable), torch.log(ratio + LEAST_RATIO), nonzero], dim=1)


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
    factors = []
    for i, variable in enumerate(spec.outputs):
        if variable.transform == "linear":
            factors.append(torch.full_like(values[:, i], variable.std))
        else:
            factors += [scales.near[:, i], values[:, i].abs()]
    return torch.stack(factors, dim=1)


def _scale_statics(spec: ModelSpec, statics: Tensor) -> Tensor:
    """Return statics (B, S, ...) or (S, ...), scaled to order one, zero where missing."""
    detail = 1.0 if spec.in_proportion else spec.outputs[0].std
    known = STATIC_SCALES | {"climatology": detail}
    scales = [known.get(name, 1.0) for name in spec.static_channels]
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
    time_features: Tensor | None,
) -> None:
    (ny, nx), (rows, columns) = cells.coarse_shape, cells.fine_shape
    if (cells.factor_y, cells.factor_x) != spec.factor:
        raise ShapeError(
            f"expected cells of {spec.factor[0]} x {spec.factor[1]} parts, as the model was trained for, received "
            f"{cells.factor_y} x {cells.factor_x}; use a model of that factor"
        )
    batch = x.shape[0] if x.ndim else 0
    inputs: list[tuple[str, Tensor | None, tuple[str, ...], list[tuple[int, ...]]]] = [
        ("x", x, tuple(v.name for v in spec.outputs), [(batch, len(spec.outputs), ny, nx)]),
        ("proposal", proposal, tuple(v.name for v in spec.outputs), [(batch, len(spec.outputs), rows, columns)]),
        ("predictors", predictors, tuple(v.name for v in spec.predictors), [(batch, len(spec.predictors), ny, nx)]),
        ("statics", statics, spec.static_channels, _static_shapes(batch, len(spec.static_channels), rows, columns)),
        ("time_features", time_features, spec.time_channels, _time_shapes(batch, len(spec.time_channels), ny, nx)),
    ]
    for word, field, names, shapes in inputs:
        if names and (field is None or tuple(field.shape) not in shapes):
            received = "nothing" if field is None else str(tuple(field.shape))
            raise ShapeError(f"expected {word} ({', '.join(names)}) of shape {shapes[-1]}, received {received}")


def _check_noise(spec: ModelSpec, cells: Aggregation, noise: tuple[Tensor, Tensor] | None) -> None:
    counts = (0, 0) if noise is None else tuple(field.shape[-3] for field in noise)
    if counts != spec.noise:
        raise ShapeError(f"expected {spec.noise} channels of noise at coarse and fine resolution, received {counts}")
    for field, shape in zip(noise or (), (cells.coarse_shape, cells.fine_shape), strict=False):
        if tuple(field.shape[-2:]) != shape:
            raise ShapeError(f"expected noise of {shape[0]} x {shape[1]} cells, received {tuple(field.shape)}")


def _static_shapes(batch: int, *sizes: int) -> list[tuple[int, ...]]:
    return [sizes, (1, *sizes), (batch, *sizes)]


def _time_shapes(batch: int, *sizes: int) -> list[tuple[int, ...]]:
    return [(batch, sizes[0]), (batch, *sizes)]


# A code is one of -127 ... 127, which a byte holds alongside a fill value, times a step that is exact in binary.
LEVELS, STEP = 127, 1 / 128
# Largest coded coefficient, in standard deviations or multiples of the mean magnitude nearby.
MOST_SPREADS = 4.0
# Fraction of the largest coefficient below which steps are uniform; above it they grow with its root.
LINEAR_FRACTION = 1e-3
ACTIVATION = "silu"


class Codec(nn.Module):
    """Encoder to codes n / 128 from -1 to 1, and the linear part of the decoder.

    References
    ----------
    Ahmed, Natarajan and Rao (1974), Discrete cosine transform, IEEE Trans. Computers C-23, 90-93; Hinton and
    Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313, 504-507; Bengio,
    Leonard and Courville (2013), Estimating or propagating gradients through stochastic neurons, arXiv:1308.3432
    (rounding that lets gradients through).
    """

    most: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        assert spec.code is not None
        code: Code = spec.code
        self.factor, self.outputs = spec.factor, len(spec.outputs)
        waves, owners = cosines(self.outputs, self.factor, code.channels)
        self.analysis, self.synthesis = nn.Parameter(waves.clone()), nn.Parameter(waves)
        kinds = [MOST_SPREADS if spec.outputs[i].transform == "linear" else MOST_RATIO for i in owners]
        self.register_buffer("most", torch.tensor(kinds)[:, None, None])
        fine_channels = 2 * self.outputs * math.prod(self.factor)
        self.layers = nn.Sequential(
            Unshuffle(self.factor), convolution(fine_channels, code.width), activation(ACTIVATION),
            *(ResidualBlock(code.width, ACTIVATION) for _ in range(code.depth)),
            zero_init(convolution(code.width, code.channels, 1)),
        )  # fmt: skip

    def forward(self, detail: Tensor, valid: Tensor) -> Tensor:
        """Return the codes, (B, C, ny, nx), of dimensionless detail and its validity mask, (B, V, Y, X) each.

        Gradients pass through the rounding unchanged.
        """
        waves = functional.conv2d(detail, self.analysis / math.prod(self.factor), stride=self.factor)
        correction = self.layers(torch.cat([compress_range(detail, LINEAR_FRACTION), valid], dim=1))
        soft = (compress_range(waves / self.most, LINEAR_FRACTION) + correction).clamp(-1, 1)
        codes = torch.round(soft * LEVELS) * STEP
        return codes + (soft - soft.detach())

    def decode(self, codes: Tensor) -> Tensor:
        """Return the detail of the codes alone, (B, V, Y, X): a transposed convolution of coefficients."""
        values = torch.where(torch.isfinite(codes), codes, torch.zeros_like(codes)) / (LEVELS * STEP)
        waves = expand_range(values, LINEAR_FRACTION) * self.most
        return functional.conv_transpose2d(waves, self.synthesis, stride=self.factor)


def cosines(outputs: int, factor: tuple[int, int], channels: int) -> tuple[Tensor, list[int]]:
    """Return the longest waves in a coarse cell, mean square one, shape (C, V, fy, fx), and the output of each.

    Outputs alternate; waves are in order of wave number, without the constant.
    """
    orders = sorted(
        ((i, j) for i in range(factor[0]) for j in range(factor[1]) if i + j),
        key=lambda pair: (math.hypot(pair[0] / factor[0], pair[1] / factor[1]), pair),
    )
    waves, owners = torch.zeros(channels, outputs, *factor), []
    for channel in range(channels):
        number, owner = divmod(channel, outputs)
        owners.append(owner)
        # Channels beyond all waves of a cell start at zero and are learned.
        if number < len(orders):
            y, x = (_wave(order, size) for order, size in zip(orders[number], factor, strict=True))
            waves[channel, owner] = y[:, None] * x
    return waves, owners


def _wave(order: int, size: int) -> Tensor:
    wave = torch.cos(math.pi * order * (torch.arange(size) + 0.5) / size)
    return wave * (2**0.5 if order else 1.0)


def compress_range(values: Tensor, linear: float) -> Tensor:
    """Return signed roots, linear near zero and equal to one at one, so that small values get more of the steps.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 9)
    >>> torch.allclose(expand_range(compress_range(x, 1e-3), 1e-3), x, atol=1e-6)
    True
    """
    return values * ((1 + linear) / (values.abs() + linear)) ** 0.5


def expand_range(roots: Tensor, linear: float) -> Tensor:
    """Return the inverse of :func:`compress_range`."""
    root = roots.abs() / (1 + linear) ** 0.5
    return roots.sign() * root * (root + (root**2 + 4 * linear) ** 0.5) / 2


def detail_of(
    spec: ModelSpec, target: Tensor, x: Tensor, proposal: Tensor, cells: Aggregation, closed: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the dimensionless residual of the fine fields from the kernel, and its validity mask, (B, V, Y, X) each.

    The unit is the standard deviation for "linear" variables, else the mean magnitude nearby.
    """
    valid = torch.isfinite(x)
    near = cells.broadcast_to_fine(Scales.of(torch.where(valid, x, torch.zeros_like(x)), valid, closed).near)
    finite = torch.isfinite(target) & torch.isfinite(proposal)
    error = torch.where(finite, target - proposal, torch.zeros_like(proposal))
    ratios = []
    for i, variable in enumerate(spec.outputs):
        scale = torch.full_like(near[:, i], variable.std) if variable.transform == "linear" else near[:, i]
        ratio = error[:, i] / torch.where(scale > 0, scale, torch.ones_like(scale))
        ratios.append(torch.where(scale > 0, ratio, torch.zeros_like(ratio)).clamp(-MOST_RATIO, MOST_RATIO))
    return torch.stack(ratios, dim=1), finite.to(x)
