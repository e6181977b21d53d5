"""How much memory the features of a network take at once, told without computing any (torch; knows no field)."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from downscale.nn.base import Network

# Convolutions on a processor copy what they read and write into the order that they work in (measured).
REORDERED = 2


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are alive, and the most that ever were (``peak``)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry an operation out and count what it made; views take no memory of their own."""
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def gone(_: Any) -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def shapes_only(network: nn.Module) -> nn.Module:
    """Return a network that knows the shapes of everything and the values of nothing."""
    return copy.deepcopy(network)._apply(lambda weight: torch.empty_like(weight, device="meta"))


def feature_bytes(network: Network, coarse: int, fine: int, maps: int, shape: tuple[int, int]) -> int:
    """Return the bytes that a network takes at once for some maps, its weights left out.

    Parameters
    ----------
    network : Network
        Its own weights, or one of :func:`shapes_only`.
    coarse, fine : int
        Channels.
    maps : int
        Maps side by side.
    shape : (int, int)
        Coarse rows and columns of each, with what lies around the cells that are asked for.

    Examples
    --------
    >>> from downscale.nn.residual import ResidualNetwork
    >>> small, wide = (shapes_only(ResidualNetwork(2, 1, 1, (2, 2), width=w, depth=1)) for w in (8, 16))
    >>> feature_bytes(small, 2, 1, 1, (20, 20)) < feature_bytes(wide, 2, 1, 1, (20, 20))
    True
    """
    known = shapes_only(network) if any(weight.device.type != "meta" for weight in network.parameters()) else network
    # Levels are aligned to the world, which may take one cell of the coarsest more.
    step = network.multiple_of
    rows, columns = (n if step == 1 else (-(-n // step) + 1) * step for n in shape)
    kind = next(network.parameters()).dtype
    live = Live()
    with torch.no_grad(), live:
        x = torch.empty(maps, coarse, rows, columns, dtype=kind, device="meta")
        many = rows * network.factor[0], columns * network.factor[1]
        beside = torch.empty(maps, fine, *many, dtype=kind, device="meta")
        known(x, beside, (slice(0, rows), slice(0, columns)))
    return REORDERED * live.peak
