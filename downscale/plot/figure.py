"""The comparison figure: coarse field, fine field and added detail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from downscale.cf.horizontal import Horizontal, XarrayObject
from downscale.errors import GridError, InputError
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.plot.cells import Drawn, check_select, find_field, index_like, read_field, read_static, reduce_field
from downscale.plot.geography import draw_coast, draw_graticules, draw_relief, relief_level
from downscale.plot.output import check_path, write
from downscale.plot.panels import draw_fields, layout
from downscale.plot.view import choose_view
from downscale.plot.words import name_of, subtitle

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = tuple[xr.DataArray, Horizontal]
Pair = tuple[tuple[Place, Place], tuple[xr.DataArray, xr.DataArray], tuple[Drawn, Drawn]]


def compare(
    coarse: XarrayObject,
    fine: XarrayObject,
    *,
    path: str | Path | None = None,
    select: Mapping[str, int] | None = None,
    title: str | None = None,
    cmap: Any = None,
    sftlf: XarrayObject | None = None,
    orog: XarrayObject | None = None,
    dpi: int = 150,
) -> Figure:
    """Plot a coarse field, its fine field and the added detail side by side.

    The detail is the fine value minus that of its coarse cell; with cell conservation it averages to zero over each
    coarse cell.

    Parameters
    ----------
    coarse, fine : DataArray or Dataset of one field
        In the same unit, on lat/lon (degrees), the axes of a projection or a rotated pole (plotted in that projection),
        or two-dimensional latitudes and longitudes; both of the same kind, but the grids need not nest. Only a Dataset
        has bounds: the edges of a DataArray are midway between its centres.
    path : path, optional
        Output file, .png or another format of matplotlib; it appears when complete.
    select : mapping of dimension to index, optional
        Time, member, ... of the coarse field to show; the first of each by default. If the times of the fine field
        differ, the nearest one is shown, and the figure states both dates.
    title, cmap : optional
        By default the ``long_name``, and colours for the ``standard_name``.
    sftlf : DataArray, optional
        Land fraction (% or 1), on lat/lon or the axes of the fields: its contour at half is the coast if no coastline
        file is installed.
    orog : DataArray, optional
        Surface altitude in m: one dotted contour on the coarse panel, which cannot resolve it.
    dpi : int
        Resolution of the file in dots per inch; 150 makes it about 2000 pixels wide.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes are the three panels and two colour bars; it is not registered with pyplot.

    Raises
    ------
    OutputError, OptionError, GridError, InputError
        If the path, select or cmap is not usable; if axes or units of the fields differ.
    """
    target = None if path is None else check_path(Path(path))
    found, fields, cells = read_pair(coarse, fine, select or {})
    view = choose_view(*cells, fields[1], found[1][1].mapping)
    relief = None if orog is None else read_static(orog)
    level = relief_level(relief)
    words = subtitle([field for field, _ in found], fields, select or {}, level)
    figure, panels, bars = layout(view, title or name_of(fields[1], capital=True), words)
    draw_fields(panels, bars, view, cells, fields, cmap)
    draw_coast(panels, view, sftlf)
    draw_graticules(panels, view)
    draw_relief(panels[0], view, relief, level)
    if target is not None:
        write(figure, target, dpi)
    return figure


def read_pair(coarse: XarrayObject, fine: XarrayObject, select: Mapping[str, int]) -> Pair:
    """Return two comparable fields and their axes, their selected maps, and their cells.

    Raises
    ------
    GridError, InputError, OptionError
        If kinds of axes or units differ, or a selection does not exist.
    """
    found = find_field(coarse), find_field(fine)
    (whole, there), (split, here) = found
    check_select(select, (whole, split))
    fields = reduce_field(whole, there, select), reduce_field(split, here, index_like(split, whole, select))
    units = [field.attrs.get("units") for field in fields]
    if None not in units and units[0] != units[1]:
        raise InputError(f"expected fields in one unit, received {units[0]!r} and {units[1]!r}; convert one")
    kinds = [_kind(where) for where in (there, here)]
    if kinds[0] != kinds[1]:
        raise GridError(f"expected axes of one kind, received {kinds[0]} and {kinds[1]}; reproject one field")
    return found, fields, (read_field(fields[0], there), read_field(fields[1], here))


def _kind(where: Horizontal) -> str:
    if isinstance(where.grid, CurvilinearGrid):
        return "two-dimensional positions"
    return f"{'rotated ' if where.mapping is not None and where.mapping.rotated else ''}{where.grid.x.kind}"
