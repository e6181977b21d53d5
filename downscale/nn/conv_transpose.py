"""Learnable transposed convolution with conservation constraints on its kernels.

Conservation up to the edge, for every constrained kernel (``EDGES[mode].laws``):

========  =====  =====  ====
mode      total  phase  cell
========  =====  =====  ====
circular  yes    yes    yes
reflect   no     yes    yes
fold      yes    no     yes
zeros     no     no     yes
========  =====  =====  ====

Reflect conserves the total, and fold preserves constants, only for symmetric kernels.  With zeros, a cell kernel
conserves cell means but reduces the field near the edge.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from math import prod, sqrt
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from downscale.errors import OptionError, ShapeError, listing
from downscale.kernels.coverage import warn_of_uneven
from downscale.kernels.laws import (
    Law,
    Size,
    Sizes,
    kernel_geometry,
    law_names,
    law_system,
    project,
    same_padding,
)
from downscale.kernels.simplices import project_nonnegative, simplex_groups
from downscale.kernels.sobolev import axis_weights
from downscale.nn.edges import default_edge, edge_names
from downscale.nn.gather import AxisGeometry, gather, size_pair, tap_range


class KernelPlan(NamedTuple):
    """Constraint, geometry and order of the Sobolev seminorm of an initial kernel."""

    law: Law
    kernel_size: Sizes
    stride: Sizes
    padding: Sizes
    order: float


def sobolev_kernel(
    kernel_size: int, stride: int, padding: int | None = None, order: float = 1.25
) -> NDArray[np.float64]:
    """Return the Sobolev-optimal kernel along a uniform axis, shape (kernel_size,), density form.

    Satisfies total, phase and cell if ``kernel_size`` is an odd multiple of ``stride`` and ``padding`` is the default,
    which gives ``n * stride`` outputs.  For other sizes it is cut from the next longer such kernel, and satisfies the
    constraints only after `project`.

    References
    ----------
    Kyriakidis (2004), A geostatistical framework for area-to-point spatial interpolation, Geographical
    Analysis 36, 259-289.

    Examples
    --------
    >>> sobolev_kernel(2, 2).tolist(), round(float(sobolev_kernel(6, 2).sum()), 12)
    ([1.0, 1.0], 2.0)
    """
    if padding is None:
        padding, _ = same_padding(kernel_size, stride)
    first, last = tap_range(kernel_size, stride, padding)
    reach = max(last, -first)
    taps = 2 * reach + 1
    edges = np.arange(taps + 1.0)
    rows = axis_weights(edges, np.linspace(0.0, taps, taps * stride + 1), taps=taps, order=order).weights
    phases = rows[reach * stride : (reach + 1) * stride]
    kernel = phases[:, ::-1].T.ravel()
    position = np.arange(kernel_size) - padding + reach * stride
    inside = (position >= 0) & (position < kernel.size)
    return np.where(inside, kernel[position.clip(0, kernel.size - 1)], 0.0)


def _sobolev(plan: KernelPlan, pairs: tuple[int, int]) -> Tensor:
    """Return the product of the Sobolev kernels along both axes, projected onto the constraint; one for all pairs."""
    axes = zip(*plan[1:4], strict=True)
    lat, lon = (project(sobolev_kernel(size, step, pad, plan.order), plan.law, step, pad) for size, step, pad in axes)
    return torch.from_numpy(np.outer(lat, lon)).expand(*pairs, *plan.kernel_size)


def _uniform(plan: KernelPlan, pairs: tuple[int, int]) -> Tensor:
    """Return the most uniform kernel that satisfies the constraint, the same for all pairs."""
    kernel = project(np.zeros(plan.kernel_size), plan.law, plan.stride, plan.padding)
    return torch.from_numpy(kernel).expand(*pairs, *plan.kernel_size)


def _random(plan: KernelPlan, pairs: tuple[int, int]) -> Tensor:
    """Return random kernels, uniform between zero and twice the mean, a different one for each pair."""
    mean = prod(plan.stride) / prod(plan.kernel_size)
    return 2.0 * mean * torch.rand(*pairs, *plan.kernel_size, dtype=torch.float64)


INITS: dict[str, Callable[[KernelPlan, tuple[int, int]], Tensor]] = {
    "sobolev": _sobolev,
    "uniform": _uniform,
    "random": _random,
}


Originals = Tensor | tuple[Tensor, Tensor]

# Fraction of the uniform kernel in a non-negative initial kernel, because a weight at zero would not learn.
_UNIFORM_FRACTION = 0.01


class KernelConstraint(nn.Module):
    """Base of the parametrisations: the spatial kernel of each pair of channels satisfies a constraint, up to its gain.

    Weights have shape (in, out, kh, kw). With ``free_gain`` each pair of channels has a learnable gain ``g`` of any
    sign, so that ``C w = g b``; gains are the second original parameter, (in, out).
    """

    def __init__(
        self,
        law: Law,
        shape: tuple[int, int, int, int],
        stride: Size,
        padding: Size | None = None,
        free_gain: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.law = law_names(law)
        self.shape = tuple(shape)
        self.geometry = kernel_geometry(self.shape[2:], stride, padding)
        self.free_gain = free_gain
        self._register_constants(torch.empty(0, device=device).device)

    def _constants(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to store as buffers."""
        raise NotImplementedError

    def _register_constants(self, device: torch.device) -> None:
        # Apple's devices have no float64.
        float_type = torch.float32 if device.type == "mps" else torch.float64
        for name, array in self._constants().items():
            dtype = float_type if array.dtype.kind == "f" else torch.int64
            self.register_buffer(name, torch.tensor(array, dtype=dtype, device=device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> KernelConstraint:
        """Follow a move to another device but not a change of type, so that `layer.half()` keeps constraints exact."""
        super()._apply(fn, recurse)
        self._register_constants(next(self.buffers()).device)
        return self

    def _require_shape(self, weight: Tensor) -> Tensor:
        if tuple(weight.shape) != self.shape:
            raise ShapeError(
                f"weight expected shape {self.shape}, received {tuple(weight.shape)}: "
                "give one kernel for each pair of input and output channels"
            )
        return weight

    def extra_repr(self) -> str:
        """Return the law and the gain for ``repr``."""
        return f"law={self.law}, free_gain={self.free_gain}"


class AffineLaw(KernelConstraint):
    """Weights of any sign: the least-squares projection of free parameters onto the constrained kernels.

    ``weight = P original + g C^+ b`` with ``P = I - C^+ C``.  The map is linear, so that a gain may cross zero.

    Examples
    --------
    >>> weight = AffineLaw("phase", (1, 1, 4, 4), stride=2)(torch.randn(1, 1, 4, 4))
    >>> [round(float(weight[0, 0, row::2, column::2].sum()), 5) for row in (0, 1) for column in (0, 1)]
    [1.0, 1.0, 1.0, 1.0]
    """

    constraints: Tensor
    inverse: Tensor
    least: Tensor

    def _constants(self) -> dict[str, NDArray[Any]]:
        constraints, target, inverse = law_system(self.law, *self.geometry)
        return {"constraints": constraints.T, "inverse": inverse.T, "least": inverse @ target}

    def forward(self, original: Tensor, gain: Tensor | None = None) -> Tensor:
        """Return the weight, shape (in, out, kh, kw), from free parameters of that shape and gains (in, out)."""
        flat = original.flatten(-2).type(self.least.dtype)
        detail = flat - flat @ self.constraints @ self.inverse
        level = self.least if gain is None else gain.unsqueeze(-1).type(self.least.dtype) * self.least
        return (detail + level).reshape(original.shape).type(original.dtype)

    def right_inverse(self, weight: Tensor) -> Originals:
        """Return parameters of the constrained weight nearest to ``weight`` (least squares)."""
        weight = self._require_shape(weight)
        if not self.free_gain:
            return self.forward(weight)
        gain = weight.flatten(-2).type(self.least.dtype) @ self.least / (self.least @ self.least)
        return self.forward(weight, gain), gain.type(weight.dtype)

    def nearest(self, kernel: Tensor) -> Tensor:
        """Return the constrained kernel nearest to an arbitrary one."""
        return project(kernel, self.law, *self.geometry[1:])


class SimplexLaw(KernelConstraint):
    """Non-negative kernels: a softmax over each simplex of the constraint (`simplex_groups`), times the gain.

    total: all weights; phase: the weights of each phase; cell: the central block, other weights being exactly zero.
    Only free gains can make a weight negative.

    Examples
    --------
    >>> weight = SimplexLaw("total", (1, 1, 4, 4), stride=2)(torch.randn(1, 1, 4, 4))
    >>> bool((weight > 0).all()), round(float(weight.sum()), 5)
    (True, 4.0)
    """

    taps: Tensor
    absent: Tensor
    place: Tensor
    used: Tensor

    def _constants(self) -> dict[str, NDArray[Any]]:
        groups = simplex_groups(self.law, *self.geometry)
        self.total = groups.total
        absent = np.where(groups.present, 0.0, -np.inf)
        return {"taps": groups.taps, "absent": absent, "place": groups.place, "used": groups.used}

    def forward(self, original: Tensor, gain: Tensor | None = None) -> Tensor:
        """Return the weight, shape (in, out, kh, kw), from logits of that shape and gains (in, out)."""
        table = original.flatten(-2).type(self.used.dtype)[..., self.taps] + self.absent
        kernel = (table.softmax(-1) * self.total).flatten(-2)[..., self.place] * self.used
        if gain is not None:
            kernel = kernel * gain.unsqueeze(-1).type(kernel.dtype)
        return kernel.reshape(original.shape).type(original.dtype)

    def right_inverse(self, weight: Tensor) -> Originals:
        """Return parameters of ``weight``, or of the constrained kernel nearest to ``weight / g``.

        A free gain is the sum of the weights over ``prod(stride)``.  Zero weights are replaced by the rounding unit.
        """
        wide = self._require_shape(weight).type(self.used.dtype)
        gain = wide.sum((-2, -1)) / prod(self.geometry[1])
        if self.free_gain:
            wide = torch.where(gain == 0, 0.0, 1 / gain)[..., None, None] * wide
        kernel = project_nonnegative(wide, self.law, *self.geometry[1:])
        logits = (kernel + torch.finfo(weight.dtype).eps).log().type(weight.dtype)
        return (logits, gain.type(weight.dtype)) if self.free_gain else logits

    def nearest(self, kernel: Tensor) -> Tensor:
        """Return an initial kernel near an arbitrary one, without zeros among the learnable weights."""
        uniform = project_nonnegative(torch.zeros_like(kernel), self.law, *self.geometry[1:])
        return torch.lerp(project_nonnegative(kernel, self.law, *self.geometry[1:]), uniform, _UNIFORM_FRACTION)


SIGNS: dict[str, type[AffineLaw] | type[SimplexLaw]] = {"any": AffineLaw, "nonnegative": SimplexLaw}
GAINS: dict[str, bool] = {"one": False, "free": True}


class ConservativeConvTranspose2d(nn.Module):
    """A ``torch.nn.ConvTranspose2d`` whose learnable kernels always satisfy conservation constraints.

    The constraint holds at construction, after each optimiser step, after a load and after ``layer.weight = w`` (which
    takes the nearest valid kernel).  The spatial kernel of each pair of channels satisfies total (weights sum to
    ``prod(stride)``), phase (each polyphase component sums to one: preserves constants) or cell (block means of the
    output equal the input).  By default ``n`` cells become exactly ``n * stride``.

    Parameters
    ----------
    in_channels, out_channels, groups : int
        As in ``torch.nn.ConvTranspose2d``; weight of shape (in, out // groups, kh, kw).
    kernel_size, stride : int or pair of int
        Along (lat, lon).
    padding, output_padding : int or pair of int, optional
        As in torch; by default, such that the output has ``n * stride`` cells (if only ``padding`` is given and no
        ``output_padding`` does that, zero).
    bias : bool
        Only with free gains: a bias violates every constraint.
    law : str or tuple of str
        "total", "phase", "cell" or several of them together.
    sign : str
        "any", or "nonnegative": kernels as a softmax over the simplices of the constraint.
    gain : str, optional
        "one" is the strict constraint and needs ``groups == in_channels``, because input channels would add up.
        "free" gives each pair of channels a learnable gain of any sign: constants stay constants (phase), while totals
        and cell means are scaled. Default: "one" if ``groups == in_channels == out_channels``.
    init : str
        "sobolev" (kernel of `sobolev_kernel`), "uniform" or "random".
    padding_mode : str or pair of str, optional
        "zeros", "circular", "reflect" or "fold", for both axes or for (lat, lon). Default: the mode that satisfies the
        constraint up to the edge, "fold" for total and "reflect" for phase and cell.
    order : float
        Order of the Sobolev seminorm of the initial kernel.
    device, dtype
        As in torch.

    Notes
    -----
    A kernel size that is not a multiple of the stride gives a `CoverageWarning` that names the nearest multiple. The
    layer still preserves constants, but phases with fewer weights have a narrower stencil.

    See the table of this module for conservation in each edge mode.  In mixed precision the weights are rounded after
    the constraint.  ``stride`` is the refinement factor: 4 makes a grid four times finer.

    Raises
    ------
    OptionError
        If a name is unknown, or options are incompatible with the constraint.
    ShapeError
        If sizes do not fit, or no kernel of this size satisfies the constraint.

    References
    ----------
    Odena, Dumoulin and Olah (2016), Deconvolution and checkerboard artifacts, Distill.

    Examples
    --------
    >>> layer = ConservativeConvTranspose2d(3, 3, kernel_size=12, stride=4, groups=3, law=("phase", "cell"))
    >>> coarse = torch.rand(1, 3, 5, 6)
    >>> fine = layer(coarse)
    >>> fine.shape, torch.allclose(nn.functional.avg_pool2d(fine, 4), coarse, atol=1e-6)
    (torch.Size([1, 3, 20, 24]), True)
    """

    weight: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size,
        padding: Size | None = None,
        output_padding: Size | None = None,
        groups: int = 1,
        bias: bool = False,
        law: Law = "phase",
        sign: str = "any",
        gain: str | None = None,
        init: str = "sobolev",
        padding_mode: str | Sequence[str] | None = None,
        order: float = 1.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels, groups)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.law = law_names(law)
        self.sign = _require_known("sign", sign, SIGNS)
        self.init = _require_known("init", init, INITS)
        depthwise = groups == in_channels == out_channels
        self.gain = _require_known("gain", gain or ("one" if depthwise else "free"), GAINS)
        _check_gain(self.gain, in_channels, groups, bias)
        self.padding_mode = edge_names(padding_mode or default_edge(self.law))
        self.order = order
        self._axes = _axes(kernel_size, stride, padding, output_padding, self.padding_mode)
        warn_of_uneven(self.kernel_size, self.stride)
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        constraint = SIGNS[sign](self.law, shape, self.stride, self.padding, GAINS[self.gain], device)
        self.weight = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None
        parametrize.register_parametrization(self, "weight", constraint)
        self.reset_parameters()

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Kernel size along (lat, lon)."""
        return self._axes[0].kernel_size, self._axes[1].kernel_size

    @property
    def stride(self) -> tuple[int, int]:
        """Fine cells per coarse cell along (lat, lon)."""
        return self._axes[0].stride, self._axes[1].stride

    @property
    def padding(self) -> tuple[int, int]:
        """Padding along (lat, lon), as in torch."""
        return self._axes[0].padding, self._axes[1].padding

    @property
    def output_padding(self) -> tuple[int, int]:
        """Output padding along (lat, lon), as in torch."""
        return self._axes[0].output_padding, self._axes[1].output_padding

    @property
    def _parametrization(self) -> Any:
        """Parametrisation of the weight, with its parameters, in a list."""
        return cast(Any, self.parametrizations).weight

    @property
    def gains(self) -> Tensor:
        """Gain of each pair of channels, shape (in, out // groups): one, or the learnable parameter."""
        if GAINS[self.gain]:
            return self._parametrization.original1
        return torch.ones_like(self._parametrization.original[..., 0, 0])

    def reset_parameters(self) -> None:
        """Reset to ``init``; free gains are random, such that the output varies as much as the input."""
        pairs = (self.in_channels, self.out_channels // self.groups)
        plan = KernelPlan(self.law, self.kernel_size, self.stride, self.padding, self.order)
        kernel = self._parametrization[0].nearest(INITS[self.init](plan, pairs))
        kernel = kernel * self._initial_gains(pairs)[..., None, None]
        with torch.no_grad():
            self.weight = torch.empty_like(self.weight).copy_(kernel)
            if self.bias is not None:
                self.bias.zero_()

    def _initial_gains(self, pairs: tuple[int, int]) -> Tensor:
        inputs = self.in_channels // self.groups
        if self.gain == "one" or (inputs == 1 and pairs[1] == 1):
            return torch.ones(pairs, dtype=torch.float64)
        return (2.0 * torch.rand(pairs, dtype=torch.float64) - 1.0) * sqrt(3.0 / inputs)

    def forward(self, coarse: Tensor) -> Tensor:
        """Return ``coarse`` of shape (batch, in, lat, lon) or (in, lat, lon), refined to (..., out, lat * s, lon * s).

        Raises
        ------
        ShapeError
            If the channels do not fit or the field is empty.
        """
        return gather(coarse, self.weight, self.bias, self._axes, self.groups)

    def law_residual(self) -> float:
        """Return the largest violation of the constraint, ``max |C w - g b|`` over all pairs of channels."""
        system = law_system(self.law, self.kernel_size, self.stride, self.padding)
        sums = self.weight.detach().cpu().double().flatten(-2).numpy() @ system.constraints.T
        gains = self.gains.detach().cpu().double().numpy()[..., None]
        return float(abs(sums - gains * system.target).max())

    def extra_repr(self) -> str:
        """Return sizes and options for ``repr``."""
        words = ("kernel_size", "stride", "padding", "output_padding", "groups", "law", "sign", "gain")
        options = ", ".join(f"{word}={getattr(self, word)!r}" for word in (*words, "padding_mode"))
        return f"{self.in_channels}, {self.out_channels}, {options}, bias={self.bias is not None}"


def _require_known(option: str, name: str, table: Iterable[str]) -> str:
    if name not in table:
        raise OptionError(f"{option} expected one of {listing(table)}, received {name!r}: choose one of these")
    return name


def _check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    if groups < 1 or in_channels < 1 or out_channels < 1 or in_channels % groups or out_channels % groups:
        raise ShapeError(
            f"channels expected multiples of groups, received in_channels={in_channels}, "
            f"out_channels={out_channels} and groups={groups}: change one of them"
        )


def _check_gain(gain: str, in_channels: int, groups: int, bias: bool) -> None:
    if GAINS[gain]:
        return
    if groups != in_channels:
        raise OptionError(
            f"gain 'one' expected groups == in_channels, received in_channels={in_channels} and "
            f"groups={groups}: {in_channels // groups} inputs would add up in each output and "
            "break the law; take gain='free'"
        )
    if bias:
        raise OptionError(
            "gain 'one' expected bias=False, received bias=True: a bias adds to constants, totals and cell "
            "means and so breaks every law; take gain='free' or no bias"
        )


def _axes(
    kernel_size: Size, stride: Size, padding: Size | None, output_padding: Size | None, edges: tuple[str, str]
) -> tuple[AxisGeometry, AxisGeometry]:
    """Return the geometry along (lat, lon), with defaults for ``n * stride`` outputs."""
    pads = (None, None) if padding is None else size_pair("padding", padding)
    output_pads = (None, None) if output_padding is None else size_pair("output_padding", output_padding)
    sizes, strides = size_pair("kernel_size", kernel_size), size_pair("stride", stride)
    lat, lon = (_axis(*axis) for axis in zip(sizes, strides, pads, output_pads, edges, strict=True))
    return lat, lon


def _axis(kernel_size: int, stride: int, padding: int | None, output_padding: int | None, edge: str) -> AxisGeometry:
    if padding is None:
        half, odd = divmod(kernel_size - stride + (output_padding or 0), 2)
        padding = same_padding(kernel_size, stride)[0] if output_padding is None or odd or half < 0 else half
    if output_padding is None:
        output_padding = stride + 2 * padding - kernel_size
        output_padding = output_padding if 0 <= output_padding <= max(stride - 1, 1) else 0
    return AxisGeometry(kernel_size, stride, padding, output_padding, edge)


Module = TypeVar("Module", bound=nn.Module)


class FixedConvTranspose2d(nn.Module):
    """Fixed copy of a `ConservativeConvTranspose2d`, with constant kernels of shape (in, out // groups, kh, kw)."""

    def __init__(self, layer: ConservativeConvTranspose2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        self.bias = layer.bias
        self.axes, self.groups = layer._axes, layer.groups

    def forward(self, coarse: Tensor) -> Tensor:
        """Return the refined field, bit for bit as the layer does."""
        return gather(coarse, self.weight, self.bias, self.axes, self.groups)


def freeze_kernels(module: Module) -> Module:
    """Return a copy for inference with kernels computed once; results are bit-identical."""
    frozen = copy.deepcopy(module).eval().requires_grad_(False)
    # Copies of a parametrised layer share its class: replace layers instead of removing parametrisations.
    for parent in list(frozen.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ConservativeConvTranspose2d):
                setattr(parent, name, FixedConvTranspose2d(child))
    return frozen
