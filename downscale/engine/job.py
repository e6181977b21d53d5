"""The job of one variable: operator, grids, conservation and limits, common to all blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.conservation.measures import stored_bounds
from downscale.engine.cut import Cut
from downscale.engine.device import is_cpu
from downscale.fields.aggregate import Aggregation
from downscale.fields.power import Power
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.latlon import RectilinearGrid
from downscale.grid.subcells import SubcellGrid, Subcells
from downscale.nn.separable import Separable
from downscale.options import option
from downscale.typing import Capabilities, Upscaler

if TYPE_CHECKING:
    from downscale.losses.terrain import TerrainRefinement

Bound = float | None


@dataclass(frozen=True, eq=False)
class Job:
    """Settings common to all blocks of one variable.

    ``upscaler`` computes the proposal on which ``conserve`` ("cell" or None) and ``bounds`` are imposed, the latter as
    stored in ``dtype``. ``strict_bounds`` is whether a coarse value beyond them is an error (explicit bounds) or a
    warning (bounds implied by the name). ``extensive`` is whether values are sums over cells, not means. If the target
    grid does not nest, ``target`` has the pieces of rows and columns, ``fine`` is the grid of these pieces, and results
    on it are averaged to target cells with a missing fraction of at most ``na_thres``. ``warns_of_negatives``
    is whether to warn of negative fine values if no coarse value is negative. ``in_proportion`` is whether the detail
    of a climatology scales the proposal instead of being added.
    ``power`` is the transform of the values that the upsampler, then a linear operator, acts on.
    """

    name: str
    upscaler: Upscaler
    coarse: RectilinearGrid | CurvilinearGrid
    fine: RectilinearGrid | CurvilinearGrid | SubcellGrid
    cells: Aggregation
    dtype: np.dtype[Any]
    tolerance: float
    conserve: str | None = "cell"
    bounds: tuple[Bound, Bound] = (None, None)
    strict_bounds: bool = True
    refinement: TerrainRefinement | None = None
    extensive: bool = False
    check: str = "raise"
    device: str = "auto"
    target: tuple[Subcells, Subcells] | None = None
    na_thres: float = 1.0
    warns_of_negatives: bool = False
    in_proportion: bool = False
    power: Power | None = None
    engine: str = field(default_factory=lambda: str(option("engine")))

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", stored_bounds(self.bounds, self.dtype))

    def __getstate__(self) -> dict[str, Any]:
        # Cached properties are not sent to workers.
        return {key: self.__dict__[key] for key in self.__dataclass_fields__}

    @cached_property
    def layouts(self) -> dict[Any, Any]:
        """Layouts of the operator for some cells of this process, and the batch size of its device."""
        return {}

    @property
    def pieces(self) -> Job:
        """The job of the pieces into which target cells cut coarse cells, before they are averaged."""
        return replace(self, target=None, dtype=np.dtype("f8"))

    @property
    def limits(self) -> tuple[float, float]:
        """The bounds as numbers, infinite where there is none."""
        low, high = self.bounds
        return -np.inf if low is None else low, np.inf if high is None else high

    @property
    def is_compiled(self) -> bool:
        """Whether compiled loops compute the blocks: a product of two axes on the CPU without terrain penalty."""
        is_linear = isinstance(self.upscaler, Separable) and self.refinement is None
        return is_linear and self.engine in ("auto", "numba") and is_cpu(self.device)

    @property
    def capabilities(self) -> Capabilities:
        """Requirements and features of the upsampler."""
        return Capabilities.of(self.upscaler)

    @property
    def input_count(self) -> int:
        """Number of coarse input fields of the upsampler, stacked before rows and columns."""
        return self.capabilities.channels

    @property
    def input_ndim(self) -> int:
        """Number of dimensions of the input of one map: rows and columns, and stacked input fields if any."""
        return 2 if self.input_count == 1 else 3

    def select_variable(self, maps: Any) -> Any:
        """Return the field to refine, from maps (n, inputs, ...) or (n, ...)."""
        return maps if self.input_count == 1 else maps[:, self.capabilities.variable]

    def block_shape(self, rows: Cut, columns: Cut) -> tuple[int, int]:
        """Return the rows and columns of the result of one block."""
        if self.target is not None:
            return self.target[0].target.size, self.target[1].target.size
        return rows.core.length * self.cells.factor_y, columns.core.length * self.cells.factor_x

    @property
    def margin(self) -> tuple[int, int]:
        """Coarse cells beyond the core of a block that its refinement needs."""
        return (0, 0) if self.refinement is None else self.refinement.halo


def feature_bytes_of(job: Job, maps: int, shape: tuple[int, int]) -> int:
    """Return the bytes of the features of a network in this process, for maps of coarse rows and columns."""
    working_bytes = job.capabilities.working_bytes
    return 0 if working_bytes is None or not is_cpu(job.device) else working_bytes(maps, shape)
