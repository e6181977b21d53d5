"""Upsampling stages for feature maps, by any integer factor, and smoothing of trained ones.

Each stage maps (B, channels, ny, nx) to (B, out_channels, ny * fy, nx * fx). Factors are split
into primes, with one stage each, so that kernels stay small: 10 becomes 5 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from downscale.errors import OptionError, listing
from downscale.kernels.coverage import Coverage
from downscale.kernels.imaging import AxisKernel, reference_kernel
from downscale.kernels.laws import Law
from downscale.kernels.smooth import kernel_roughness, smooth
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.gather import AxisGeometry, gather
from downscale.nn.layers import DilatedConv2d, Shuffle, activation, convolution

Factor = tuple[int, int]


class AlikePhases(nn.Module):
    """Constraint on filters (out * s_y * s_x, in, kh, kw): phases of a channel have the same sum, up to a gain.

    The least-squares projection is linear, so that gradients pass. Biases (out * s_y * s_x,) become the same for all
    phases.
    """

    def __init__(self, phases: int) -> None:
        super().__init__()
        self.phases = phases

    def forward(self, weight: Tensor) -> Tensor:
        """Return the nearest weight with equal phase sums."""
        sums = weight.flatten(2).sum(2) if weight.ndim > 1 else weight
        parts = sums.unflatten(0, (-1, self.phases))
        excess = (parts - parts.mean(1, keepdim=True)).flatten(0, 1)
        return weight - (excess[:, :, None, None] / weight[0, 0].numel() if weight.ndim > 1 else excess)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return parameters of the nearest weight with equal phase sums."""
        return self.forward(weight)


class ConsistentShuffle(nn.Module):
    """Pixel shuffle that preserves constants up to a gain, for all values of its parameters.

    Parameters
    ----------
    channels, out_channels : int
        Channels before and after.
    factor : (int, int)
        Refinement of rows and columns.
    kernel : int
        Stencil width of the filters, an odd number.

    References
    ----------
    Shi et al. (2016), Real-time single image and video super-resolution using an efficient sub-pixel convolutional
    neural network, CVPR; Aitken et al. (2017), Checkerboard artifact free sub-pixel convolution, arXiv:1707.02937.

    Examples
    --------
    >>> fine = ConsistentShuffle(2, 3, (2, 4))(torch.ones(1, 2, 6, 6))[..., 2:-2, 4:-4]
    >>> fine.shape, bool((fine.amax((2, 3)) - fine.amin((2, 3))).max() < 1e-6)
    (torch.Size([1, 3, 8, 16]), True)
    """

    def __init__(self, channels: int, out_channels: int, factor: Factor, kernel: int = 3) -> None:
        super().__init__()
        phases = factor[0] * factor[1]
        self.filters = convolution(channels, out_channels * phases, kernel)
        start_alike(self.filters, phases)
        for name in ("weight", "bias"):
            parametrize.register_parametrization(self.filters, name, AlikePhases(phases))
        self.shuffle = Shuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Return all phases, interleaved."""
        return self.shuffle(self.filters(x))


def start_alike(filters: nn.Conv2d, phases: int) -> None:
    """Set all phases of a channel to the filter of the first: nearest-neighbour resizing of one filter (ICNR)."""
    with torch.no_grad():
        filters.weight.copy_(filters.weight[::phases].repeat_interleave(phases, dim=0))
        assert filters.bias is not None
        filters.bias.copy_(filters.bias[::phases].repeat_interleave(phases))


def transposed_weight(filters: Tensor, factor: Factor) -> Tensor:
    """Return the weight of the transposed convolution that equals filters and a pixel shuffle.

    Filters (out * s_y * s_x, in, kh, kw) with odd kernels give a weight (in, out, kh * s_y, kw * s_x) for stride
    ``factor`` and padding ``factor * (k - 1) / 2``.
    """
    rows, columns = factor
    table = filters.flip(-2, -1).unflatten(0, (-1, rows, columns))
    return cast(Any, table).permute(3, 0, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def filters_of(weight: Tensor, factor: Factor) -> Tensor:
    """Return the filters whose transposed convolution has this weight: the inverse of `transposed_weight`."""
    rows, columns = factor
    table = weight.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return cast(Any, table).permute(1, 3, 5, 0, 2, 4).flatten(0, 2).flip(-2, -1)


STEPS = ("prime", "whole")


def prime_factors(number: int) -> tuple[int, ...]:
    """Return the prime factors of a number, largest first; none for one.

    Examples
    --------
    >>> prime_factors(10), prime_factors(8), prime_factors(1)
    ((5, 2), (2, 2, 2), ())
    """
    primes, remainder, divisor = [], number, 2
    while remainder > 1:
        while remainder % divisor == 0:
            primes.append(divisor)
            remainder //= divisor
        divisor += 1
    return tuple(reversed(primes))


def stage_factors(factor: tuple[int, int], steps: str = "prime") -> tuple[tuple[int, int], ...]:
    """Return the successive refinements of rows and columns: by prime factors, or in one stage ("whole").

    Examples
    --------
    >>> stage_factors((6, 2)), stage_factors((4, 4), "whole")
    (((3, 2), (2, 1)), ((4, 4),))
    """
    if steps == "whole":
        return (factor,)
    rows, columns = (prime_factors(number) for number in factor)
    count = max(len(rows), len(columns), 1)
    ones = (1,) * count
    return tuple(zip((*rows, *ones)[:count], (*columns, *ones)[:count], strict=True))


def conservative_stage(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a transposed convolution that preserves constants, so that no checkerboard occurs at any time.

    Each fine cell depends on three coarse cells along each axis; initial kernels are Sobolev kernels.
    """
    rows, columns = factor
    return ConservativeConvTranspose2d(
        channels, out_channels, (3 * rows, 3 * columns), factor, law="phase", gain="free", bias=True
    )


class Resize(nn.Module):
    """Bilinear interpolation of the features.

    References
    ----------
    Odena, Dumoulin and Olah (2016), Deconvolution and checkerboard artifacts, Distill.
    """

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Interpolate between cell centres."""
        size = [cells * count for cells, count in zip(x.shape[-2:], self.factor, strict=True)]
        return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


class SobolevResize(nn.Module):
    """Fixed Sobolev kernel on the features, which has the smallest images of waves among the kernels here.

    Notes
    -----
    Each channel conserves cell means and preserves constants up to the edge, which reflects.
    """

    weight: Tensor

    def __init__(self, factor: Factor) -> None:
        super().__init__()
        self.factor = factor
        kernels = [
            reference_kernel("sobolev", count) if count > 1 else AxisKernel(np.ones(1), 1, 0) for count in factor
        ]
        kernel = torch.from_numpy(np.outer(kernels[0].weights, kernels[1].weights)).float()
        self.register_buffer("weight", kernel[None, None], persistent=False)
        self.axes = [AxisGeometry(len(axis.weights), axis.stride, axis.padding, 0, "reflect") for axis in kernels]

    def forward(self, x: Tensor) -> Tensor:
        """Return each channel, refined."""
        weight = self.weight.type(x.dtype).expand(x.shape[1], 1, -1, -1)
        return gather(x, weight, None, self.axes, x.shape[1])


def sobolev_stage(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return the Sobolev kernel followed by a convolution; channels are mixed before, where cells are few."""
    return nn.Sequential(
        convolution(channels, out_channels, 1), SobolevResize(factor), convolution(out_channels, out_channels)
    )


def resize_stage(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return bilinear interpolation followed by a convolution; channels are mixed before, where cells are few."""
    return nn.Sequential(
        convolution(channels, out_channels, 1), Resize(factor), convolution(out_channels, out_channels)
    )


def shuffle_stage(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a pixel shuffle whose phases are equal initially, as in nearest-neighbour resizing of one filter.

    References
    ----------
    Aitken et al. (2017), Checkerboard artifact free sub-pixel convolution, arXiv:1707.02937.
    """
    layer = convolution(channels, out_channels * factor[0] * factor[1])
    start_alike(layer, factor[0] * factor[1])
    return nn.Sequential(layer, Shuffle(factor))


def transposed_stage(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a plain, unconstrained transposed convolution with kernels of twice the stride."""
    rows, columns = (_plain_sizes(count) for count in factor)
    kernel, padding, extra = zip(rows, columns, strict=True)
    return nn.ConvTranspose2d(channels, out_channels, kernel, factor, padding, extra)


def dilated_stage(channels: int, out_channels: int, factor: Factor) -> nn.Module:
    """Return a plain transposed convolution and a dilated one after it, whose stencil covers all phases."""
    return nn.Sequential(
        transposed_stage(channels, out_channels, factor), DilatedConv2d(out_channels, out_channels, factor)
    )


def _plain_sizes(factor: int) -> tuple[int, int, int]:
    """Return kernel, padding and output padding along an axis, for ``factor`` times as many cells."""
    kernel, padding = 2 * factor if factor > 1 else 3, (factor + 1) // 2
    return kernel, padding, factor + 2 * padding - kernel


UPSAMPLINGS: dict[str, Callable[[int, int, Factor], nn.Module]] = {
    "conservative": conservative_stage,
    "resize": resize_stage,
    "shuffle": shuffle_stage,
    "transposed": transposed_stage,
    "consistent_shuffle": ConsistentShuffle,
    "dilated": dilated_stage,
    "sobolev": sobolev_stage,
}


class Upsampling(nn.Module):
    """All stages of a factor, an activation after each, (B, channels, ny, nx) -> (B, out_channels, ny * fy, nx * fx).

    Parameters
    ----------
    name : {"conservative", "resize", "shuffle", "transposed", "consistent_shuffle", "dilated", "sobolev"}
        Kind of stage.
    channels, out_channels : int
        Channels before the first stage, and after each.
    factor : (int, int)
        Refinement of rows and columns.
    act : str
        Name of an activation.
    steps : {"prime", "whole"}
        One stage per prime factor, or one for all.

    Raises
    ------
    OptionError
        If a name is unknown; the message lists the names.

    Examples
    --------
    >>> import torch
    >>> Upsampling("shuffle", 8, 4, (6, 5))(torch.zeros(1, 8, 3, 7)).shape
    torch.Size([1, 4, 18, 35])
    """

    def __init__(
        self, name: str, channels: int, out_channels: int, factor: Factor, act: str = "silu", steps: str = "prime"
    ) -> None:
        super().__init__()
        if name not in UPSAMPLINGS:
            raise OptionError(f"expected upsampling to be among {listing(UPSAMPLINGS)}, received {name!r}")
        if steps not in STEPS:
            raise OptionError(f"expected steps to be among {listing(STEPS)}, received {steps!r}")
        layers: list[nn.Module] = []
        for part in stage_factors(factor, steps):
            layers += [UPSAMPLINGS[name](channels, out_channels, part), activation(act)]
            channels = out_channels
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, refined stage by stage."""
        return self.layers(x)


Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class UpsamplingLayer:
    """One upsampling layer of a network, as a transposed convolution.

    Attributes
    ----------
    name : str
        Its name in the network.
    kind : str
        Description of its kind.
    layer : Module
        Module with the weight.
    stride, padding : (int, int)
        Stride and padding along rows and columns.
    law : str, tuple of str, or None
        Its constraint; None if there is none.
    gain : {"one", "kept"}
        Whether the constraint is strict, or up to a gain of each pair of channels.
    shuffle_factor : (int, int) or None
        The factor, if the weight is that of a convolution before a pixel shuffle.
    """

    name: str
    kind: str
    layer: nn.Module
    stride: Pair
    padding: Pair
    law: Law | None
    gain: str
    shuffle_factor: Pair | None = None

    @property
    def weight(self) -> Tensor:
        """Kernels of all pairs of channels, shape (in, out // groups, k_y, k_x)."""
        assert isinstance(self.layer.weight, Tensor)
        weight = self.layer.weight.detach()
        return weight if self.shuffle_factor is None else transposed_weight(weight, self.shuffle_factor)

    @property
    def coverage(self) -> Coverage:
        """Coverage of its kernels."""
        return Coverage.of(tuple(self.weight.shape[-2:]), self.stride, self.padding)

    def assign(self, weight: Tensor) -> None:
        """Set the kernels of the layer, of that shape."""
        layer_weight = weight if self.shuffle_factor is None else filters_of(weight, self.shuffle_factor)
        with torch.no_grad():
            if isinstance(self.layer, nn.ConvTranspose2d) or not hasattr(self.layer, "parametrizations"):
                self.layer.weight.copy_(layer_weight)  # type: ignore[operator, union-attr]
            else:
                self.layer.weight = layer_weight.contiguous()


def upsampling_layers(module: nn.Module) -> Iterator[UpsamplingLayer]:
    """Yield the upsampling layers of a network in order, with their names."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.ConvTranspose2d):
            assert not isinstance(layer.padding, str)
            stride, padding = _pair(layer.stride), _pair(layer.padding)
            yield UpsamplingLayer(name, "transposed convolution", layer, stride, padding, None, "kept")
        elif isinstance(layer, ConservativeConvTranspose2d):
            gain = "one" if layer.gain == "one" else "kept"
            yield UpsamplingLayer(
                name, "constrained transposed convolution", layer, layer.stride, layer.padding, layer.law, gain
            )
        elif isinstance(layer, nn.Sequential):
            yield from _shuffles(name, list(layer))
        elif isinstance(layer, ConsistentShuffle):
            yield _shuffle(name, layer.filters, layer.shuffle.factor, "constrained pixel shuffle", "phase")


def _shuffles(name: str, layers: list[nn.Module]) -> Iterator[UpsamplingLayer]:
    """Yield convolutions before a pixel shuffle."""
    for i, (first, second) in enumerate(pairwise(layers)):
        if isinstance(first, nn.Conv2d) and isinstance(second, Shuffle):
            yield _shuffle(f"{name}.{i}".lstrip("."), first, second.factor, "pixel shuffle", None)


def _shuffle(name: str, filters: nn.Conv2d, factor: Pair, kind: str, law: Law | None) -> UpsamplingLayer:
    padding = (filters.kernel_size[0] // 2 * factor[0], filters.kernel_size[1] // 2 * factor[1])
    return UpsamplingLayer(name, kind, filters, factor, padding, law, "kept", factor)


def _pair(sizes: tuple[int, ...]) -> Pair:
    return int(sizes[0]), int(sizes[1])


@dataclass(frozen=True)
class SmoothingResult:
    """Result of smoothing a layer.

    Attributes
    ----------
    name, kind : str
        Name and kind of the layer.
    law : str
        Constraint of the smoothing.
    before, after : float
        Roughness of its kernels, ``w' L w`` over ``w' w``.
    """

    name: str
    kind: str
    law: str
    before: float
    after: float


def smooth_layers(module: nn.Module, strength: float) -> list[SmoothingResult]:
    """Replace the kernels of all upsampling layers by the nearest smooth ones, in place; return the results.

    Parameters
    ----------
    module : Module
        A trained network.
    strength : float
        Lambda of :func:`downscale.kernels.smooth.smooth`; zero imposes the constraints alone.

    Notes
    -----
    Constrained layers keep their constraints (total, phase, cell); others then preserve constants up to their gains.

    Raises
    ------
    OptionError
        If the network has no upsampling layer, or the strength is not usable.
    """
    layers, results = list(upsampling_layers(module)), []
    if not layers:
        raise OptionError("expected a network with transposed convolutions or pixel shuffles, received one without")
    for layer in layers:
        law: Law = "phase" if layer.law is None else layer.law
        # `weight` may return the layer's own memory.
        weight, before = layer.weight, _relative_roughness(layer.weight)
        kernels = smooth(weight.double().cpu().numpy(), strength, law, layer.stride, layer.padding, gain=layer.gain)
        layer.assign(torch.from_numpy(kernels).type(weight.dtype))
        name = law if isinstance(law, str) else ", ".join(law)
        results.append(SmoothingResult(layer.name, layer.kind, name, before, _relative_roughness(layer.weight)))
    return results


def _relative_roughness(weight: Tensor) -> float:
    return float(kernel_roughness(weight.double()) / weight.double().square().sum().clamp_min(1e-300))
