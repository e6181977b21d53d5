"""Building blocks of networks.

Convolutions pad with zeros; mask channels, which are zero beyond the domain, mark its edge.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downscale.errors import OptionError, ShapeError, listing
from downscale.kernels.coverage import CoverageWarning

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
}
# Initial factor of the last layer of a residual block, so that deep stacks start near the identity.
BLOCK_START = 0.1


def activation(name: str) -> nn.Module:
    """Return the activation with this name."""
    if name not in ACTIVATIONS:
        raise OptionError(f"expected activation to be among {listing(ACTIVATIONS)}, received {name!r}")
    return ACTIVATIONS[name]()


def convolution(channels: int, out_channels: int, kernel: int = 3, dilation: int = 1) -> nn.Conv2d:
    """Return a convolution with an odd kernel that keeps the size of a field."""
    if kernel % 2 == 0:
        raise OptionError(f"expected an odd kernel, whose cell has as many neighbours on each side, received {kernel}")
    return nn.Conv2d(channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the weights of the layer to zero, so that a network starts without any detail, and return it."""
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
    depthwise = nn.Conv2d(width, width, 5, padding=2 * dilation, dilation=dilation, groups=width)
    return nn.Sequential(depthwise, convolution(width, 4 * width, 1), activation(act), convolution(4 * width, width, 1))


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
        field = x if core is None else x[..., core[0], core[1]]
        return x * (2 * torch.sigmoid(self.gains(field.mean((-2, -1), keepdim=True))))


# Binomial weights, symmetric about the middle of two cells, so that centres of coarse cells stay in place.
TAPS = (1.0, 3.0, 3.0, 1.0)


class BlurPool(nn.Module):
    """Binomial means of four by four cells at every second cell, (B, C, ny, nx) -> (B, C, ny / 2, nx / 2).

    The fixed weights sum to one, so that constants are preserved away from the edges.

    References
    ----------
    Zhang (2019), Making convolutional networks shift-invariant again, ICML.

    Examples
    --------
    >>> BlurPool()(torch.ones(1, 3, 8, 8))[0, 0, 1, 1:3].tolist()
    [1.0, 1.0]
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(TAPS) / sum(TAPS)
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the blurred field at every second cell."""
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1)
        return F.conv2d(x, kernel, stride=2, padding=len(TAPS) // 2 - 1, groups=channels)


HALVINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "strided": lambda width, out_width: nn.Conv2d(width, out_width, 2, stride=2),
    "blur": lambda width, out_width: nn.Sequential(convolution(width, out_width), BlurPool()),
}


def coarsening_layer(name: str, width: int, out_width: int) -> nn.Module:
    """Return the layer with this name that coarsens a map of even size by two."""
    if name not in HALVINGS:
        raise OptionError(f"expected pooling to be among {listing(HALVINGS)}, received {name!r}")
    return HALVINGS[name](width, out_width)


def coprime_dilation(stride: int) -> int:
    """Return the least dilation above one without a common divisor with the stride.

    Examples
    --------
    >>> [coprime_dilation(stride) for stride in (1, 2, 3, 4, 6)]
    [2, 3, 2, 3, 5]
    """
    return next(d for d in range(2, stride + 2) if gcd(d, stride) == 1)


class DilatedConv2d(nn.Conv2d):
    """Dilated convolution that keeps the size of a field and matches the stride of the upsampling before it.

    Parameters
    ----------
    in_channels, out_channels : int
        As in ``torch.nn.Conv2d``.
    factor : (int, int)
        Stride of the upsampling before it, rows and columns.
    kernel_size : int
        Stencil width along each axis, an odd number.
    dilation : (int, int), optional
        Spacing of the stencil; by default the least above one without a common divisor with the stride.

    Raises
    ------
    ShapeError
        If the kernel size is even, so that the kernel has no centre.

    Warns
    -----
    CoverageWarning
        If dilation and stride have a common divisor.

    References
    ----------
    Yu and Koltun (2016), Multi-scale context aggregation by dilated convolutions, ICLR.

    Examples
    --------
    >>> DilatedConv2d(1, 1, (2, 4)).dilation
    (3, 3)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: tuple[int, int],
        kernel_size: int = 3,
        dilation: tuple[int, int] | None = None,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ShapeError(f"expected an odd kernel size, received {kernel_size}; take {kernel_size + 1}")
        dilations = (coprime_dilation(factor[0]), coprime_dilation(factor[1])) if dilation is None else dilation
        _warn_of_common(dilations, factor)
        padding = (dilations[0] * (kernel_size // 2), dilations[1] * (kernel_size // 2))
        super().__init__(in_channels, out_channels, kernel_size, padding=padding, dilation=dilations)
        self.factor = factor


def _warn_of_common(dilation: tuple[int, int], factor: tuple[int, int]) -> None:
    for axis, (d, s) in enumerate(zip(dilation, factor, strict=True)):
        if gcd(d, s) != 1:
            nearest = min((n for n in range(1, 2 * s + d + 2) if gcd(n, s) == 1), key=lambda n: (abs(n - d), -n))
            warnings.warn(
                f"dilation {d} and stride {s} along axis {axis} have the divisor {gcd(d, s)} in common: the taps see "
                f"some phases only and checkerboards stay; the nearest good dilation is {nearest}",
                CoverageWarning,
                stacklevel=3,
            )


ATTENTIONS = ("none", "windowed", "global")
HEADS = 4


class SelfAttention(nn.Module):
    """Projections to queries, keys and values, and back."""

    def __init__(self, width: int, heads: int | None = None) -> None:
        super().__init__()
        self.heads = heads if heads is not None else next(h for h in (HEADS, 2, 1) if width % h == 0)
        if self.heads < 1 or width % self.heads:
            raise OptionError(f"expected heads that divide the width {width}, received {heads}; take 1, 2 or 4")
        self.inner = nn.Conv2d(width, 3 * width, 1)
        self.outer = nn.Conv2d(width, width, 1)
        with torch.no_grad():
            self.outer.weight.mul_(BLOCK_START)
            nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.inner(x).chunk(3, dim=1)
        return query, key, value


class WindowedAttention(SelfAttention):
    """Windowed self-attention added to the field, (B, width, ny, nx) -> the same.

    Parameters
    ----------
    width : int
        Channels.
    window : int
        Cells of the window along each axis, an odd number; the reach is half of it.
    heads : int, optional
        Groups of channels with separate attention; must divide the width.

    Notes
    -----
    Each place of the window has a learnable bias, so that weights can depend on distance. Beyond the edge of the field
    features are zero, as for convolutions.

    Raises
    ------
    OptionError
        If the window is even, or the heads do not divide the width.

    References
    ----------
    Ramachandran et al. (2019), Stand-alone self-attention in vision models, NeurIPS; Hassani, Walton, Li, Li and Shi
    (2023), Neighborhood attention transformer, CVPR.
    """

    def __init__(self, width: int, window: int = 7, heads: int | None = None) -> None:
        super().__init__(width, heads)
        if window % 2 == 0 or window < 1:
            raise OptionError(f"expected an odd window, with as many cells on each side, received {window}")
        self.window = window
        self.bias = nn.Parameter(torch.zeros(self.heads, window * window))

    def forward(self, x: Tensor, core: tuple[slice, slice] | None = None) -> Tensor:
        """Return the field plus the attention, whatever the core."""
        query, key, value = self._split(x)
        batch, width, rows, columns = x.shape
        depth = width // self.heads
        queries = query.reshape(batch, self.heads, depth, 1, rows * columns)
        keys, values = (
            F.unfold(part, self.window, padding=self.window // 2).reshape(batch, self.heads, depth, -1, rows * columns)
            for part in (key, value)
        )
        scores = (queries * keys).sum(2) * depth**-0.5 + self.bias[None, :, :, None]
        attention_values = (values * scores.softmax(2).unsqueeze(2)).sum(3)
        return x + self.outer(attention_values.reshape(batch, width, rows, columns))


class GlobalAttention(SelfAttention):
    """Self-attention over the whole field added to it, (B, width, ny, nx) -> the same: no finite reach.

    Parameters
    ----------
    width : int
        Channels.
    heads : int, optional
        Groups of channels with separate attention; must divide the width.

    Raises
    ------
    OptionError
        If the heads do not divide the width.

    References
    ----------
    Zhang, Goodfellow, Metaxas and Odena (2019), Self-attention generative adversarial networks, ICML.
    """

    def forward(self, x: Tensor, core: tuple[slice, slice] | None = None) -> Tensor:
        """Return the field plus the attention to the cells in ``core``, which excludes padding."""
        query, key, value = self._split(x)
        sources = [part if core is None else part[..., core[0], core[1]] for part in (key, value)]
        tokens = [part.unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3) for part in (query, *sources)]
        attention_values = F.scaled_dot_product_attention(*tokens)
        return x + self.outer(attention_values.transpose(2, 3).reshape(x.shape))


def attention(name: str, width: int, window: int) -> nn.Module | None:
    """Return the attention with this name, None for "none"."""
    if name not in ATTENTIONS:
        raise OptionError(f"expected attention to be among {', '.join(map(repr, ATTENTIONS))}, received {name!r}")
    if name == "none":
        return None
    return WindowedAttention(width, window) if name == "windowed" else GlobalAttention(width)
