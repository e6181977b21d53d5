"""Compatibility of the axes of two grids: geographic, rotated, projected, two-dimensional positions.

All code that compares two grids uses this test: numbers of axes are compared only if both have the same reference.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from downscale.cf.horizontal import Horizontal, XarrayObject
from downscale.cf.mapping import GridMapping
from downscale.errors import GridError
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.sphere import arc, unit_vectors

AxesKind = Literal["geographic", "rotated", "projected", "positions"]
# Maximum difference of equal positions as a fraction of a cell: datums and single precision.
MOST_SHIFT = 0.1
COPY = "copy its grid_mapping variable from the other file (ncks -A -v)"


def axes_kind(where: Horizontal) -> AxesKind:
    """Return the reference of the numbers of the axes."""
    if isinstance(where.grid, CurvilinearGrid):
        return "positions"
    if where.grid.y.kind != "latitude":
        return "projected"
    return "rotated" if where.rotated else "geographic"


def axes_words(where: Horizontal) -> str:
    """Return a description of the rows and columns of a field, for messages."""
    kind, mapping = axes_kind(where), where.mapping
    if kind == "positions":
        return "two-dimensional latitudes and longitudes"
    if kind == "geographic":
        return "latitudes and longitudes"
    if kind == "rotated":
        if mapping is None or not mapping.rotated:
            return "the axes of a rotated pole without a grid_mapping"
        lat, lon = (float(mapping.cf[f"grid_north_pole_{name}"]) for name in ("latitude", "longitude"))
        return f"the axes of a pole at latitude {lat:g}, longitude {lon:g}"
    if mapping is None:
        return "metres of a projection without a grid_mapping"
    name = mapping.cf.get("grid_mapping_name")
    return "metres of a projection" + (f" ({name})" if name else "")


def same_axes(one: Horizontal, other: Horizontal) -> bool:
    """Return whether numbers of the axes of two grids have the same reference.

    Grid mappings are compared by the positions that they give, to a tenth of the smaller cell. Names, datums that agree
    within metres and different descriptions of one pole make no difference. Two grids without a grid mapping are taken
    for the same. One with and one without are the same only if they span one domain in cells that nest, which never
    happens for two projections.
    """
    if axes_kind(one) != axes_kind(other):
        return False
    if axes_kind(one) in ("geographic", "positions"):
        return True
    if one.mapping is None or other.mapping is None:
        return one.mapping is other.mapping or _one_domain(one, other)
    return _one_place(one, other, one.mapping, other.mapping)


def _one_place(one: Horizontal, other: Horizontal, mine: GridMapping, theirs: GridMapping) -> bool:
    """Return whether two grid mappings give the cells of both grids the same positions."""
    if _plain(mine) == _plain(theirs):
        return True
    locate, relocate = one.locator, other.locator
    if locate is None or relocate is None:
        return False
    steps = [np.abs(np.diff(axis.edges)).min() for where in (one, other) for axis in (where.grid.y, where.grid.x)]
    y, x = (_sample(axis.edges) for axis in (one.grid.y, one.grid.x))
    points = np.meshgrid(x, y)
    first, second = unit_vectors(*locate(*points)), unit_vectors(*relocate(*points))
    beside = unit_vectors(*locate(points[0] + min(steps), points[1]))
    with np.errstate(invalid="ignore"):
        near = arc(first, second) <= MOST_SHIFT * arc(first, beside)
    reached = np.isfinite(first).all(-1) & np.isfinite(second).all(-1) & np.isfinite(beside).all(-1)
    return bool(reached.any() and near[reached].all())


def _one_domain(one: Horizontal, other: Horizontal) -> bool:
    """Return whether two product grids begin and end at the same numbers, with sizes that divide."""
    pairs = zip((one.grid.y, one.grid.x), (other.grid.y, other.grid.x), strict=True)
    return all(
        max(a.size, b.size) % min(a.size, b.size) == 0
        and np.allclose(np.sort(a.edges)[[0, -1]], np.sort(b.edges)[[0, -1]], rtol=0,
                        atol=1e-3 * min(np.abs(np.diff(a.edges)).min(), np.abs(np.diff(b.edges)).min()))
        for a, b in pairs
    )  # fmt: skip


def _plain(mapping: GridMapping) -> dict[str, str]:
    return {key: str(np.asarray(value).tolist()) for key, value in mapping.attrs.items()}


def _sample(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    return edges[np.unique(np.linspace(0, edges.size - 1, 5).astype(int))]


def with_named_mapping(where: Horizontal, obj: XarrayObject, beside: Horizontal) -> Horizontal:
    """Return ``where`` with the grid mapping of ``beside`` if a field of ``obj`` names it but lost the variable.

    A DataArray keeps only the name of its grid mapping; the variable stays in its Dataset.
    """
    if where.mapping is not None or beside.mapping is None or axes_kind(where) == "positions":
        return where
    fields = getattr(obj, "data_vars", {"": obj}).values()
    named = {str(place.get("grid_mapping")) for v in fields for place in (v.attrs, v.encoding)}
    if beside.mapping.name not in named or axes_kind(where) == "geographic":
        return where
    return replace(where, mapping=beside.mapping)


def require_same_axes(
    given: Horizontal, wanted: Horizontal, what: str, role: str, remedy: str, noun: str = "a field"
) -> None:  # fmt: skip
    """Refuse a grid whose axes have another reference than those of another grid.

    Parameters
    ----------
    given, wanted : Horizontal
        The grid to check, and the reference grid.
    what, role : str
        Names of the first and the second, for the message.
    remedy : str
        The remedy, unless it is to copy a missing grid mapping.
    noun : str
        The kind of ``what``.

    Raises
    ------
    GridError
        If the references differ; the message names both kinds of axes.
    """
    if same_axes(given, wanted):
        return
    kinds = axes_kind(given), axes_kind(wanted)
    lacking = kinds[0] == kinds[1] and (given.mapping is None) != (wanted.mapping is None)
    raise GridError(
        f"{what}: expected {noun} on {axes_words(wanted)}, as {role} is, received one on {axes_words(given)}; "
        f"{COPY if lacking else remedy}"
    )
