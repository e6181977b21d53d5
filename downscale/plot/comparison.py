"""Figures that compare a coarse with a fine field: side by side, or a part of the map enlarged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.horizontal import Horizontal, XarrayObject
from downscale.errors import GridError, InputError, OptionError
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.plot.cells import (
    Cells,
    Drawn,
    check_select,
    find_field,
    index_like,
    read_field,
    read_static,
    reduce_field,
)
from downscale.plot.maps import (
    add_map,
    colours,
    draw_bar,
    draw_cells,
    draw_coast,
    draw_contour,
    draw_fields,
    draw_graticules,
    layout,
    relief_level,
    robust_limits,
)
from downscale.plot.style import INK, SOFT_INK, TIMES, blank, check_path, name_of, subtitle, write
from downscale.plot.view import View, choose_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = tuple[xr.DataArray, Horizontal]
Pair = tuple[tuple[Place, Place], tuple[xr.DataArray, xr.DataArray], tuple[Drawn, Drawn]]
Box = tuple[float, float, float, float]
BOX_LINE = "#D55E00"
SHARE = 4  # of the domain along each axis: the default part
WIDE, TALL = 6.6, 5.6  # maximum inches of the whole map


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
    axes_pair, fields, cells = read_pair(coarse, fine, select or {})
    view = choose_view(*cells, fields[1], axes_pair[1][1].mapping)
    relief = None if orog is None else read_static(orog)
    level = relief_level(relief)
    words = subtitle([field for field, _ in axes_pair], fields, select or {}, level)
    figure, panels, bars = layout(view, title or name_of(fields[1], capital=True), words)
    draw_fields(panels, bars, view, cells, fields, cmap)
    draw_coast(panels, view, sftlf)
    draw_graticules(panels, view)
    if relief is not None and level is not None:
        draw_contour(panels[0], view, relief, level, linestyles=":")
    if target is not None:
        write(figure, target, dpi)
    return figure


def read_pair(coarse: XarrayObject, fine: XarrayObject, select: Mapping[str, int]) -> Pair:
    """Return two comparable fields and their axes, their selected maps, and their cells."""
    pair = find_field(coarse), find_field(fine)
    (coarse_field, coarse_axes), (fine_field, fine_axes) = pair
    check_select(select, (coarse_field, fine_field))
    fields = (
        reduce_field(coarse_field, coarse_axes, select),
        reduce_field(fine_field, fine_axes, index_like(fine_field, coarse_field, select)),
    )
    units = [field.attrs.get("units") for field in fields]
    if None not in units and units[0] != units[1]:
        raise InputError(f"expected fields in one unit, received {units[0]!r} and {units[1]!r}; convert one")
    kinds = [_kind(where) for where in (coarse_axes, fine_axes)]
    if kinds[0] != kinds[1]:
        raise GridError(f"expected axes of one kind, received {kinds[0]} and {kinds[1]}; reproject one field")
    return pair, fields, (read_field(fields[0], coarse_axes), read_field(fields[1], fine_axes))


def _kind(where: Horizontal) -> str:
    if isinstance(where.grid, CurvilinearGrid):
        return "two-dimensional positions"
    return f"{'rotated ' if where.mapping is not None and where.mapping.rotated else ''}{where.grid.x.kind}"


def zoom(
    coarse: XarrayObject,
    fine: XarrayObject,
    box: Box | None = None,
    *,
    path: str | Path | None = None,
    select: Mapping[str, int] | None = None,
    title: str | None = None,
    cmap: Any = None,
    sftlf: XarrayObject | None = None,
    dpi: int = 150,
) -> Figure:
    """Plot the whole fine field and one part of it, coarse and fine, on one colour scale.

    Parameters
    ----------
    coarse, fine : DataArray or Dataset of one field
        As for :func:`downscale.plot.compare`, on axes (not on quadrilaterals).
    box : (west, east, south, north), optional
        The part, in degrees or in metres of the axes; by default a quarter of each axis, with the strongest detail.
    path, select, title, cmap, sftlf, dpi
        As for :func:`downscale.plot.compare`.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes are the whole, the coarse part, the fine part and a colour bar; it is not registered with pyplot.

    Raises
    ------
    GridError, OptionError, InputError, OutputError
        If positions are two-dimensional, the box is outside the domain, units differ, or the path is not usable.
    """
    target = None if path is None else check_path(Path(path))
    pair, fields, cells = read_pair(coarse, fine, select or {})
    blocks, parts = cells
    if not isinstance(blocks, Cells) or not isinstance(parts, Cells):
        raise GridError("expected fields on axes, received two-dimensional positions; compare a part of them")
    view = choose_view(blocks, parts, fields[1], pair[1][1].mapping)
    part = _part(view, blocks, parts, box)
    words = subtitle([field for field, _ in pair], fields, select or {}, None)
    figure, panels, bar = _sheet(view, part, title or name_of(fields[1], capital=True), words)
    colour_map, _ = colours(fields[1], cmap)
    values = np.concatenate([blocks.values.ravel(), parts.values.ravel()])
    limits = robust_limits(values)
    for panel, frame, field_cells in zip(panels, (view, part, part), (parts, blocks, parts), strict=True):
        mesh = draw_cells(panel, frame, field_cells, colour_map, limits)
    for panel, frame in zip(panels, (view, part, part), strict=True):
        draw_coast([panel], frame, sftlf)
    draw_graticules([panels[0]], view)
    ring = view.ring(part.west, part.east, part.south, part.north)
    panels[0].plot(ring[:, 0], ring[:, 1], color="white", linewidth=3.4, scalex=False, scaley=False)
    panels[0].plot(ring[:, 0], ring[:, 1], color=BOX_LINE, linewidth=1.8, scalex=False, scaley=False)
    for panel, name in zip(panels, ("Fine", "Coarse, within the box", "Fine, within the box"), strict=True):
        panel.set_title(name, fontsize=12.5, color=INK, pad=6)
    panels[0].set_title(f"Fine ({parts.sizes[0]} {TIMES} {parts.sizes[1]} cells)", fontsize=12.5, color=INK, pad=7)
    units = str(fields[1].attrs.get("units", fields[0].attrs.get("units", "")))
    draw_bar(bar, mesh, values, name_of(fields[1], capital=False), units)
    if target is not None:
        write(figure, target, dpi)
    return figure


def _part(view: View, blocks: Cells, parts: Cells, box: Box | None) -> View:
    """Return the view of a part of the domain."""
    west, east, south, north = box or _liveliest(blocks, parts)
    if parts.x.kind == "longitude":
        turn = 360.0 * np.floor((west - view.west) / 360.0 + 1e-9)
        west, east = west - turn, east - turn
    slack = 1e-6 * max(view.east - view.west, view.north - view.south)
    inside = west >= view.west - slack and east <= view.east + slack
    if not (west < east and south < north and inside and south >= view.south - slack and north <= view.north + slack):
        domain = f"{view.west:g} to {view.east:g} and {view.south:g} to {view.north:g}"
        raise OptionError(f"expected a box (west, east, south, north) within {domain}, received {box}")
    return replace(view, west=west, east=east, south=south, north=north)


def _liveliest(blocks: Cells, parts: Cells) -> Box:
    """Return the window of a quarter of each axis with the strongest detail, on edges of coarse cells."""
    detail = np.nan_to_num((parts.values - blocks.under(parts)) ** 2)
    sums = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    y, x = (
        np.searchsorted(axis.edges, coarse_axis.edges - 1e-9)
        for axis, coarse_axis in ((parts.y, blocks.y), (parts.x, blocks.x))
    )
    y, x = np.clip(y, 0, detail.shape[0]), np.clip(x, 0, detail.shape[1])
    height, width = max(blocks.sizes[0] // SHARE, 2), max(blocks.sizes[1] // SHARE, 2)
    height, width = min(height, len(y) - 1), min(width, len(x) - 1)
    window_sums = sums[np.ix_(y[height:], x[width:])] - sums[np.ix_(y[:-height], x[width:])]
    window_sums = window_sums - sums[np.ix_(y[height:], x[:-width])] + sums[np.ix_(y[:-height], x[:-width])]
    row, column = np.unravel_index(int(window_sums.argmax()), window_sums.shape)
    edges_y, edges_x = blocks.y.edges, blocks.x.edges
    return edges_x[column], edges_x[column + width], edges_y[row], edges_y[row + height]


def _sheet(view: View, part: View, title: str, words: str) -> tuple[Figure, list[Any], Any]:
    """Create the axes of the whole map, two parts above each other, and a colour bar below."""
    ring, part_outline = view.outline(), part.outline()
    extent, inner = np.ptp(ring, axis=0), np.ptp(part_outline, axis=0)
    width = min(WIDE, TALL * extent[0] / extent[1])
    height = max(width * extent[1] / extent[0], 3.6)
    part_height = (height - 0.55) / 2
    part_width = min(max(part_height * inner[0] / inner[1], 1.6), 5.2)
    figure_width, figure_height = width + part_width + 1.7, height + 2.15
    figure = blank(figure_width, figure_height)

    def place(x: float, y: float, w: float, h: float, seen: View | None) -> Any:
        position = x / figure_width, y / figure_height, w / figure_width, h / figure_height
        return figure.add_axes(position) if seen is None else add_map(figure, position, seen)

    low, x = 1.1, 0.7 + width + 0.6
    panels = [place(0.7, low, width, height, view), place(x, low + part_height + 0.55, part_width, part_height, part)]
    panels.append(place(x, low, part_width, part_height, part))
    for panel in panels[1:]:
        panel.set_xticks([])
        panel.set_yticks([])
        for spine in panel.spines.values():
            spine.set(edgecolor=BOX_LINE, linewidth=1.8)
    bar = place(figure_width / 2 - 0.3 * figure_width, 0.58, 0.6 * figure_width, 0.14, None)
    figure.text(0.5, 1 - 0.14 / figure_height, title, ha="center", va="top", fontsize=16, color=INK, parse_math=False)
    figure.text(
        0.5, 1 - 0.46 / figure_height, words, ha="center", va="top", fontsize=10.5, color=SOFT_INK, parse_math=False
    )
    return figure, panels, bar
