"""Words shared by all floors: what an up-sampler is and how a block is told its place (no torch at run time)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.grid.curvilinear import CurvilinearGrid
    from downscale.grid.latlon import RectilinearGrid
    from downscale.grid.parts import PartsGrid
    from downscale.kernels.sobolev import AxisWeights


@dataclass(frozen=True)
class Place:
    """Where in the world the coarse cells given to an up-sampler lie.

    Attributes
    ----------
    coarse, fine : RectilinearGrid
        Grids of the whole domain; where a target does not nest, fine cells are the parts that it cuts from coarse ones.
    row, column : int
        Index in the whole domain of the first coarse row and column given; a negative column, or one beyond the
        end, has been wrapped around a periodic axis.
    statics : mapping of str to array
        Fine-resolution companions (orography, masks) of the given cells, cut in lock-step.
    """

    coarse: RectilinearGrid | CurvilinearGrid
    fine: RectilinearGrid | CurvilinearGrid | PartsGrid
    row: int = 0
    column: int = 0
    statics: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Upscaler(Protocol):
    """Anything that makes a fine field of a coarse one.

    Attributes
    ----------
    factor : (int, int)
        Refinement of rows and columns.
    halo : (int, int) or None
        Coarse cells beyond a block that move the block's fine values; None means all of them, so that the
        horizontal axes cannot be cut.
    multiple_of : int
        Sizes that the up-sampler accepts are multiples of this.
    laws : frozenset of str
        Laws ("total", "phase", "cell") that hold by construction.
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
        """Map (..., n_y, n_x) to (..., n_y * factor_y, n_x * factor_x); within ``halo`` of a cut it may be wrong."""
        ...


@runtime_checkable
class ManyInputs(Protocol):
    """An up-scaler that looks at several coarse fields; it is called with (..., channels, n_y, n_x).

    Attributes
    ----------
    channels : int
        Coarse fields that it is given.
    variable : int
        Which of them it makes finer.
    """

    @property
    def channels(self) -> int: ...  # noqa: D102

    @property
    def variable(self) -> int: ...  # noqa: D102


@runtime_checkable
class Drawing(Protocol):
    """An up-scaler that makes members of an ensemble; the last of its many inputs is the number of each map."""

    def drawn(self, draws: Any) -> Any:
        """Return the same for the noise of a :class:`downscale.fields.noise.Draws`."""
        ...


@runtime_checkable
class Working(Protocol):
    """An up-scaler whose work takes much more memory than what it is given and makes."""

    def working_bytes(self, maps: int, shape: tuple[int, int]) -> int:
        """Return the bytes it takes at once on a processor, called with maps of so many coarse rows and columns."""
        ...


@runtime_checkable
class SeparableOperator(Protocol):
    """An up-scaler that is one linear operator along rows and one along columns, as numbers.

    Attributes
    ----------
    axes : (AxisWeights, AxisWeights)
        The operators along rows and columns of the whole coarse grid.
    reach : (int, int)
        Coarse rows and columns beyond its own that a fine cell looks at.
    """

    @property
    def axes(self) -> tuple[AxisWeights, AxisWeights]: ...  # noqa: D102

    @property
    def reach(self) -> tuple[int, int]: ...  # noqa: D102
