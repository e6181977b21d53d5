"""Self-attention over maps: in a window around each cell, or over the whole field.

The window is centred on each cell, so that results shift with the features and the reach is that of a convolution.
Attention over the whole field has no finite reach, so maps of a network with such a layer cannot be cut into blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from downscale.errors import OptionError
from downscale.nn.layers import BLOCK_START
from downscale.nn.shapes import Layer, Window

ATTENTIONS = ("none", "windowed", "global")
HEADS = 4


class SelfAttention(nn.Module):
    """Projections to queries, keys and values, and back."""

    def __init__(self, width: int, heads: int | None) -> None:
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

    Examples
    --------
    >>> WindowedAttention(8, 5).plan(0).needs(10, 10)
    (8, 12)
    """

    def __init__(self, width: int, window: int = 7, heads: int | None = None) -> None:
        super().__init__(width, heads)
        if window % 2 == 0 or window < 1:
            raise OptionError(f"expected an odd window, with as many cells on each side, received {window}")
        self.window = window
        self.bias = nn.Parameter(torch.zeros(self.heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """Return the field plus the attention."""
        query, key, value = self._split(x)
        batch, width, rows, columns = x.shape
        each = width // self.heads
        one = query.reshape(batch, self.heads, each, 1, rows * columns)
        keys, values = (
            F.unfold(part, self.window, padding=self.window // 2).reshape(batch, self.heads, each, -1, rows * columns)
            for part in (key, value)
        )
        scores = (one * keys).sum(2) * each**-0.5 + self.bias[None, :, :, None]
        made = (values * scores.softmax(2).unsqueeze(2)).sum(3)
        return x + self.outer(made.reshape(batch, width, rows, columns))

    def plan(self, axis: int) -> Layer:
        """Return sizes and reach along an axis (0 rows, 1 columns)."""
        return Window(self.window, padding=self.window // 2)


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

    def __init__(self, width: int, heads: int | None = None) -> None:
        super().__init__(width, heads)

    def forward(self, x: Tensor, core: tuple[slice, slice] | None = None) -> Tensor:
        """Return the field plus the attention to the cells in ``core``, which excludes padding."""
        query, key, value = self._split(x)
        seen = [part if core is None else part[..., core[0], core[1]] for part in (key, value)]
        tokens = [part.unflatten(1, (self.heads, -1)).flatten(3).transpose(2, 3) for part in (query, *seen)]
        made = F.scaled_dot_product_attention(*tokens)
        return x + self.outer(made.transpose(2, 3).reshape(x.shape))


def attention(name: str, width: int, window: int) -> nn.Module | None:
    """Return the attention with this name, None for "none".

    Raises
    ------
    OptionError
        If the name is unknown; the message lists the names.
    """
    if name not in ATTENTIONS:
        raise OptionError(f"expected attention to be among {', '.join(map(repr, ATTENTIONS))}, received {name!r}")
    if name == "none":
        return None
    return WindowedAttention(width, window) if name == "windowed" else GlobalAttention(width)
