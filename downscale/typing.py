"""Protocols of upsamplers, and the location of a block in the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.grid.curvilinear import CurvilinearGrid
    from downscale.grid.latlon import RectilinearGrid
    from downscale.grid.subcells import SubcellGrid


@dataclass(frozen=True)
class Place:
    """Location of the coarse cells passed to an upsampler.

    Attributes
    ----------
    coarse, fine : RectilinearGrid
        Grids of the whole domain. If a target does not nest, fine cells are the pieces of coarse cells that it cuts.
    row, column : int
        Index in the whole domain of the first coarse row and column of the block. A negative column, or one beyond the
        end, has been wrapped around a periodic axis.
    statics : mapping of str to array
        Static fine fields (orography, masks) of the same cells, cut together with them.
    """

    coarse: RectilinearGrid | CurvilinearGrid
    fine: RectilinearGrid | CurvilinearGrid | SubcellGrid
    row: int = 0
    column: int = 0
    statics: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Upscaler(Protocol):
    """Any callable that refines a coarse field.

    Attributes
    ----------
    factor : (int, int)
        Refinement of rows and columns.
    halo : (int, int) or None
        Coarse cells beyond a block that affect its fine values. None means all of them, so that the horizontal axes
        cannot be split.
    multiple_of : int
        Sizes must be multiples of this.
    laws : frozenset of str
        Conservation ("total", "phase", "cell") that holds by construction.
    """

    @property
    def factor(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def halo(self) -> tuple[int, int] | None: ...  # noqa: D102

    @property
    def multiple_of(self) -> int: ...  # noqa: D102

    @property
    def laws(self) -> frozenset[str]: ...  # noqa: D102

    def __call__(self, coarse: Tensor, place: Place) -> Tensor:
        """Map (..., n_y, n_x) to (..., n_y * factor_y, n_x * factor_x); values within ``halo`` of a cut may be off."""
        ...


@runtime_checkable
class ManyInputs(Protocol):
    """An upsampler with several coarse input fields, called with (..., channels, n_y, n_x).

    Attributes
    ----------
    channels : int
        Number of coarse input fields.
    variable : int
        Index of the field to refine.
    """

    @property
    def channels(self) -> int: ...  # noqa: D102

    @property
    def variable(self) -> int: ...  # noqa: D102


@runtime_checkable
class Drawing(Protocol):
    """An upsampler that generates ensemble members; its last input is the number of each map."""

    def drawn(self, draws: Any) -> Any:
        """Return the same upsampler with the noise of a :class:`downscale.fields.noise.Draws`."""
        ...


@runtime_checkable
class Working(Protocol):
    """An upsampler that needs much more memory than its input and output."""

    def working_bytes(self, maps: int, shape: tuple[int, int]) -> int:
        """Return the peak bytes on a processor for a call with ``maps`` maps of this coarse shape."""
        ...
