"""Building blocks of networks, with their sizes and reach along an axis.

Convolutions pad with zeros; mask channels, which are zero beyond the domain, mark its edge.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from downscale.errors import OptionError, ShapeError, listing
from downscale.nn.conv_transpose import ConservativeConvTranspose2d
from downscale.nn.shapes import Branches, Gather, Layer, Spread, Stack, Transposed, Window

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
}
# Initial factor of the last layer of a residual block, so that deep stacks start near the identity.
BLOCK_START = 0.1


@runtime_checkable
class Planned(Protocol):
    """A module that provides its own reach."""

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        ...


def activation(name: str) -> nn.Module:
    """Return the activation with this name.

    Raises
    ------
    OptionError
        If the name is unknown; the message lists the names.
    """
    if name not in ACTIVATIONS:
        raise OptionError(f"expected activation to be among {listing(ACTIVATIONS)}, received {name!r}")
    return ACTIVATIONS[name]()


def convolution(channels: int, out_channels: int, kernel: int = 3, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the size of a field.

    Raises
    ------
    OptionError
        If the kernel size is not odd.
    """
    if kernel % 2 == 0:
        raise OptionError(f"expected an odd kernel, whose cell has as many neighbours on each side, received {kernel}")
    return nn.Conv2d(channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with zero weights, so that a network starts without any detail."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _plain(width: int, act: str, dilation: int) -> nn.Sequential:
    return nn.Sequential(convolution(width, width, dilation=dilation), activation(act), convolution(width, width))


def _wide(width: int, act: str, dilation: int) -> nn.Sequential:
    """Return one convolution to twice the channels and a pointwise one back: half the reach."""
    return nn.Sequential(
        convolution(width, 2 * width, dilation=dilation), activation(act), convolution(2 * width, width, 1)
    )


def _separable(width: int, act: str, dilation: int) -> nn.Sequential:
    """Return a convolution within each channel, then pointwise convolutions across channels."""
    near = nn.Conv2d(width, width, 5, padding=2 * dilation, dilation=dilation, groups=width)
    return nn.Sequential(
        near, convolution(width, 4 * width, 1), activation(act), convolution(4 * width, width, 1)
    )


BLOCKS: dict[str, Callable[[int, str, int], nn.Sequential]] = {
    "plain": _plain,
    "wide": _wide,
    "separable": _separable,
}


class ResidualBlock(nn.Module):
    """Residual block, shape (B, width, ny, nx) -> the same.

    Parameters
    ----------
    width : int
        Channels.
    act : str
        Name in ``ACTIVATIONS``.
    dilation : int
        Dilation of the first convolution.
    kind : {"plain", "wide", "separable"}
        The layers: two convolutions; one to twice the channels; or one within channels and two between them.

    Raises
    ------
    OptionError
        If a name is unknown; the message lists the names.

    References
    ----------
    He, Zhang, Ren and Sun (2016), Deep residual learning for image recognition, CVPR; Lim, Son, Kim, Nah and Lee
    (2017), Enhanced deep residual networks for single image super-resolution, CVPR workshops (no normalisation); Liu,
    Mao, Wu, Feichtenhofer, Darrell and Xie (2022), A ConvNet for the 2020s, CVPR ("separable").
    """

    def __init__(self, width: int, act: str = "silu", dilation: int = 1, kind: str = "plain") -> None:
        super().__init__()
        if kind not in BLOCKS:
            raise OptionError(f"expected block to be among {listing(BLOCKS)}, received {kind!r}")
        self.inner = BLOCKS[kind](width, act, dilation)
        with torch.no_grad():
            next(self.inner[-1].parameters()).mul_(BLOCK_START)

    def forward(self, x: Tensor) -> Tensor:
        """Return the field plus the output of the inner layers."""
        return x + self.inner(x)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Branches((Stack(), plan(self.inner, axis)))


class Shuffle(nn.Module):
    """Rearrangement of channels to ``factor`` cells, (B, C * fy * fx, ny, nx) -> (B, C, ny * fy, nx * fx).

    References
    ----------
    Shi et al. (2016), Real-time single image and video super-resolution using an efficient sub-pixel convolutional
    neural network, CVPR.
    """

    def __init__(self, factor: tuple[int, int]) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the phases as adjacent cells."""
        rows, columns = self.factor
        if rows == columns:
            return nn.functional.pixel_shuffle(x, rows)
        table = x.unflatten(1, (-1, rows, columns))
        return table.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Spread(self.factor[axis])


class Unshuffle(nn.Module):
    """Inverse of `Shuffle`: ``factor`` cells to channels, (B, C, ny * fy, nx * fx) -> (B, C * fy * fx, ny, nx)."""

    def __init__(self, factor: tuple[int, int]) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the phases as channels."""
        rows, columns = self.factor
        if rows == columns:
            return nn.functional.pixel_unshuffle(x, rows)
        table = x.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
        return table.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Gather(self.factor[axis])


class Context(nn.Module):
    """Channel gains from means over the whole field, so that there is no finite reach.

    References
    ----------
    Hu, Shen and Sun (2018), Squeeze-and-excitation networks, CVPR.
    """

    def __init__(self, width: int, act: str = "silu") -> None:
        super().__init__()
        inner = max(width // 4, 1)
        self.gains = nn.Sequential(convolution(width, inner, 1), activation(act), convolution(inner, width, 1))

    def forward(self, x: Tensor, core: tuple[slice, slice] | None = None) -> Tensor:
        """Return channels multiplied by gains between zero and two; ``core`` holds the cells without padding."""
        seen = x if core is None else x[..., core[0], core[1]]
        return x * (2 * torch.sigmoid(self.gains(seen.mean((-2, -1), keepdim=True))))


def plan(module: nn.Module, axis: int) -> Layer:
    """Return sizes and reach of a module along an axis (0 rows, 1 columns), derived from the module itself.

    Raises
    ------
    ShapeError
        If the reach of a kind of layer is unknown.

    Examples
    --------
    >>> plan(nn.Sequential(convolution(1, 8), nn.ReLU(), convolution(8, 1, 5)), 0).needs(10, 10)
    (7, 13)
    """
    if isinstance(module, Planned):
        return module.plan(axis)
    if isinstance(module, nn.Sequential):
        return Stack(tuple(plan(layer, axis) for layer in module))
    if isinstance(module, nn.Conv2d):
        pads = module.padding
        assert not isinstance(pads, str)
        return Window(module.kernel_size[axis], module.stride[axis], module.dilation[axis], int(pads[axis]))
    if isinstance(module, (nn.ConvTranspose2d, ConservativeConvTranspose2d)):
        sizes = (module.kernel_size, module.stride, module.padding, module.output_padding)
        return Transposed(*(int(pair[axis]) for pair in sizes))
    if isinstance(module, tuple(type(make()) for make in ACTIVATIONS.values())):
        return Stack()
    raise ShapeError(f"expected a layer whose reach is known, received {type(module).__name__}; give it a plan(axis)")
