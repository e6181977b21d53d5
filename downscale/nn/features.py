"""Memory of the features of a network, estimated without computing them."""

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

# CPU convolutions copy their inputs and outputs into another memory order (measured).
REORDERED = 2


class Live(TorchDispatchMode):
    """Count of the bytes of all live tensors, and its maximum (``peak``)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count its results; views need no memory of their own."""
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
    """Return a network with shapes but without values."""
    return copy.deepcopy(network)._apply(lambda weight: torch.empty_like(weight, device="meta"))


def feature_bytes(network: Network, coarse: int, fine: int, maps: int, shape: tuple[int, int]) -> int:
    """Return the peak bytes of a network for some maps, without its weights.

    Parameters
    ----------
    network : Network
        A network with weights, or one of :func:`shapes_only`.
    coarse, fine : int
        Channels.
    maps : int
        Number of maps.
    shape : (int, int)
        Coarse rows and columns of each map, including the halo.

    Examples
    --------
    >>> from downscale.nn.residual import ResidualNetwork
    >>> small, wide = (shapes_only(ResidualNetwork(2, 1, 1, (2, 2), width=w, depth=1)) for w in (8, 16))
    >>> feature_bytes(small, 2, 1, 1, (20, 20)) < feature_bytes(wide, 2, 1, 1, (20, 20))
    True
    """
    known = shapes_only(network) if any(weight.device.type != "meta" for weight in network.parameters()) else network
    # Alignment of the levels to the world may need one more cell of the coarsest level.
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
