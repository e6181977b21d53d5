"""Search and constrained smoothing of trained upsampling layers in a network.

Plain transposed convolutions and pixel shuffles are unconstrained. A repair makes each pair of channels preserve
constants up to its gain, so that constants give no checkerboards. Layers of this package keep their constraints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from downscale.errors import OptionError
from downscale.kernels.coverage import Coverage
from downscale.kernels.laws import Law
from downscale.kernels.smooth import roughness, smooth
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.layers import Shuffle
from downscale.nn.subpixel import ConsistentShuffle, filters_of, transposed_weight

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Upsampler:
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
    shuffled : (int, int) or None
        The factor, if the weight is that of a convolution before a pixel shuffle.
    """

    name: str
    kind: str
    layer: nn.Module
    stride: Pair
    padding: Pair
    law: Law | None
    gain: str
    shuffled: Pair | None = None

    @property
    def weight(self) -> Tensor:
        """Kernels of all pairs of channels, shape (in, out // groups, k_y, k_x)."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        return weight.detach() if self.shuffled is None else transposed_weight(weight.detach(), self.shuffled)

    @property
    def coverage(self) -> Coverage:
        """Coverage of its kernels."""
        return Coverage.of(tuple(self.weight.shape[-2:]), self.stride, self.padding)

    def assign(self, weight: Tensor) -> None:
        """Set the kernels of the layer, of that shape."""
        plain = weight if self.shuffled is None else filters_of(weight, self.shuffled)
        with torch.no_grad():
            if isinstance(self.layer, nn.ConvTranspose2d) or not hasattr(self.layer, "parametrizations"):
                self.layer.weight.copy_(plain)  # type: ignore[operator, union-attr]
            else:
                self.layer.weight = plain.contiguous()


def upsamplers(module: nn.Module) -> Iterator[Upsampler]:
    """Yield the upsampling layers of a network in order, with their names."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.ConvTranspose2d):
            assert not isinstance(layer.padding, str)
            stride, padding = _pair(layer.stride), _pair(layer.padding)
            yield Upsampler(name, "transposed convolution", layer, stride, padding, None, "kept")
        elif isinstance(layer, ConservativeConvTranspose2d):
            gain = "one" if layer.gain == "one" else "kept"
            yield Upsampler(
                name, "constrained transposed convolution", layer, layer.stride, layer.padding, layer.law, gain
            )
        elif isinstance(layer, nn.Sequential):
            yield from _shuffles(name, list(layer))
        elif isinstance(layer, ConsistentShuffle):
            yield _shuffle(name, layer.filters, layer.shuffle.factor, "constrained pixel shuffle", "phase")


def _shuffles(name: str, layers: list[nn.Module]) -> Iterator[Upsampler]:
    """Yield convolutions before a pixel shuffle."""
    for i, (first, second) in enumerate(pairwise(layers)):
        if isinstance(first, nn.Conv2d) and isinstance(second, Shuffle):
            yield _shuffle(f"{name}.{i}".lstrip("."), first, second.factor, "pixel shuffle", None)


def _shuffle(name: str, filters: nn.Conv2d, factor: Pair, kind: str, law: Law | None) -> Upsampler:
    padding = (filters.kernel_size[0] // 2 * factor[0], filters.kernel_size[1] // 2 * factor[1])
    return Upsampler(name, kind, filters, factor, padding, law, "kept", factor)


def _pair(sizes: tuple[int, ...]) -> Pair:
    return int(sizes[0]), int(sizes[1])


@dataclass(frozen=True)
class Smoothed:
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


def smooth_layers(module: nn.Module, strength: float) -> list[Smoothed]:
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
    found, told = list(upsamplers(module)), []
    if not found:
        raise OptionError("expected a network with transposed convolutions or pixel shuffles, received one without")
    for each in found:
        law: Law = "phase" if each.law is None else each.law
        # `weight` may return the layer's own memory.
        weight, before = each.weight, _relative(each.weight)
        made = smooth(weight.double().cpu().numpy(), strength, law, each.stride, each.padding, gain=each.gain)
        each.assign(torch.from_numpy(made).type(weight.dtype))
        name = law if isinstance(law, str) else ", ".join(law)
        told.append(Smoothed(each.name, each.kind, name, before, _relative(each.weight)))
    return told


def _relative(weight: Tensor) -> float:
    return float(roughness(weight.double()) / weight.double().square().sum().clamp_min(1e-300))
