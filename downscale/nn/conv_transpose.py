"""Learnable transposed convolution with conservation constraints on its kernels.

Conservation up to the edge, for every constrained kernel (``EDGES[mode].keeps``):

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

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from downscale.errors import OptionError, ShapeError, listing
from downscale.kernels.coverage import warn_of_uneven
from downscale.kernels.laws import Law, Size, law_names, law_system, same_padding
from downscale.nn.edges import default_edge, edge_names
from downscale.nn.gather import AxisGeometry, gather, pair
from downscale.nn.initial import INITS, KernelPlan
from downscale.nn.parametrization import GAINS, SIGNS


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
        self.sign = _known("sign", sign, SIGNS)
        self.init = _known("init", init, INITS)
        depthwise = groups == in_channels == out_channels
        self.gain = _known("gain", gain or ("one" if depthwise else "free"), GAINS)
        _check_gain(self.gain, in_channels, groups, bias)
        self.padding_mode = edge_names(padding_mode or default_edge(self.law))
        self.order = order
        self._axes = _axes(kernel_size, stride, padding, output_padding, self.padding_mode)
        warn_of_uneven(self.kernel_size, self.stride)
        shape = (in_channels, out_channels // groups, *self.kernel_size)
        bound = SIGNS[sign](self.law, shape, self.stride, self.padding, GAINS[self.gain], device)
        self.weight = nn.Parameter(torch.zeros(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None
        parametrize.register_parametrization(self, "weight", bound)
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
    def _bound(self) -> Any:
        """Parametrisation of the weight, with its parameters, in a list."""
        return cast(Any, self.parametrizations).weight

    @property
    def gains(self) -> Tensor:
        """Gain of each pair of channels, shape (in, out // groups): one, or the learnable parameter."""
        if GAINS[self.gain]:
            return self._bound.original1
        return torch.ones_like(self._bound.original[..., 0, 0])

    def reset_parameters(self) -> None:
        """Reset to ``init``; free gains are random, such that the output varies as much as the input."""
        pairs = (self.in_channels, self.out_channels // self.groups)
        plan = KernelPlan(self.law, self.kernel_size, self.stride, self.padding, self.order)
        kernel = self._bound[0].nearest(INITS[self.init](plan, pairs))
        kernel = kernel * self._initial_gains(pairs)[..., None, None]
        with torch.no_grad():
            self.weight = torch.empty_like(self.weight).copy_(kernel)
            if self.bias is not None:
                self.bias.zero_()

    def _initial_gains(self, pairs: tuple[int, int]) -> Tensor:
        mixed = self.in_channels // self.groups
        if self.gain == "one" or (mixed == 1 and pairs[1] == 1):
            return torch.ones(pairs, dtype=torch.float64)
        return (2.0 * torch.rand(pairs, dtype=torch.float64) - 1.0) * sqrt(3.0 / mixed)

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


def _known(word: str, name: str, table: Iterable[str]) -> str:
    if name not in table:
        raise OptionError(f"{word} expected one of {listing(table)}, received {name!r}: choose one of these")
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
    pads = (None, None) if padding is None else pair("padding", padding)
    extra = (None, None) if output_padding is None else pair("output_padding", output_padding)
    sizes = zip(pair("kernel_size", kernel_size), pair("stride", stride), pads, extra, edges, strict=True)
    lat, lon = (_axis(*axis) for axis in sizes)
    return lat, lon


def _axis(kernel_size: int, stride: int, padding: int | None, extra: int | None, edge: str) -> AxisGeometry:
    if padding is None:
        whole, odd = divmod(kernel_size - stride + (extra or 0), 2)
        padding = same_padding(kernel_size, stride)[0] if extra is None or odd or whole < 0 else whole
    if extra is None:
        extra = stride + 2 * padding - kernel_size
        extra = extra if 0 <= extra <= max(stride - 1, 1) else 0
    return AxisGeometry(kernel_size, stride, padding, extra, edge)
