"""The protocol of methods, their capabilities, and the location of a block in the domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.fields.noise import Draws
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
    """Any callable that refines a coarse field; :class:`Capabilities` lists optional attributes.

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


@dataclass(frozen=True)
class Capabilities:
    """Requirements and features of an upsampler: its attributes of the same names, or these defaults.

    Attributes
    ----------
    factor, halo, multiple_of, laws
        As for :class:`Upscaler`.
    channels : int
        Number of coarse input fields, if there is a ``variable`` too; with more than one, calls have the shape
        (..., channels, n_y, n_x).
    variable : int
        Index of the field to refine.
    satisfies_constraints : bool
        Whether cell means and bounds hold to rounding without correction.
    applies_detail : bool
        Whether the upsampler itself applies the detail of a climatology, ``place.statics["detail"]``, (maps, terms,
        rows, columns).
    with_noise : callable or None
        Returns the same upsampler with the noise of a :class:`downscale.fields.noise.Draws`, for methods that generate
        ensemble members; their last input is the number of each map.
    working_bytes : callable or None
        Returns the peak bytes on a processor for a number of maps and a coarse shape, for methods that need much more
        memory than their input and output.
    kernel : Separable or None
        The kernel that a network or noise corrects.
    """

    factor: tuple[int, int]
    halo: tuple[int, int] | None
    multiple_of: int
    laws: frozenset[str]
    channels: int = 1
    variable: int = 0
    satisfies_constraints: bool = False
    applies_detail: bool = False
    with_noise: Callable[[Draws], Upscaler] | None = None
    working_bytes: Callable[[int, tuple[int, int]], int] | None = None
    kernel: Upscaler | None = None

    @classmethod
    def of(cls, upscaler: Upscaler) -> Capabilities:
        """Return the capabilities of an upsampler."""
        names = [item.name for item in fields(cls) if hasattr(upscaler, item.name)]
        if "variable" not in names and "channels" in names:
            # The width of a network is often called so; an upsampler of several inputs names the field to refine too.
            names.remove("channels")
        return cls(**{name: getattr(upscaler, name) for name in names})
