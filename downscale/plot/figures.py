"""Figures of maps: coarse beside fine field, a part of the map enlarged, and conservation errors."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.cf.horizontal import XarrayObject, as_dataset
from downscale.check.conservation import cell_error
from downscale.conservation.measures import default_tolerance
from downscale.errors import GridError, InputError, OptionError, listing
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.plot.cells import Array, Cells, View, choose_view, find_field, read_cells, read_pair
from downscale.plot.maps import (
    MISSING,
    add_panel,
    colour_maps,
    draw_bar,
    draw_cells,
    draw_coast,
    draw_contour,
    draw_graticules,
    orography_level,
    robust_limits,
)
from downscale.plot.style import (
    INK,
    MINUS,
    PALETTE,
    SOFT_INK,
    TIMES,
    check_path,
    describe_maps,
    field_name,
    new_figure,
    style_chart,
    write_figure,
    write_note,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Box = tuple[float, float, float, float]
MARK_COLOUR = "#D55E00"  # the box of a zoom, the worst cell, the tolerance
DIVISOR = 4  # of the domain along each axis: the default part
# Inches. Margins are left, right, between, below.
SLIDE_WIDTH, TALLEST_PANEL, NARROWEST = 40 / 3, 4.9, 2.4
MAP_MARGINS, PLANE_MARGINS = (0.66, 0.4, 0.34, 1.2), (0.85, 0.25, 0.3, 1.4)
ROUNDING = 1e-6  # of the largest value: smaller detail is rounding and must not fill the colour scale
LEAST_ERROR = 1e-17  # smaller errors have no decade of their own: they count as exact


def _titled_figure(width: float, height: float, title: str, words: str, middle: float) -> Figure:
    """Return an empty figure with this room in inches below its title, which is centred at ``middle``, and subtitle."""
    lines = textwrap.wrap(title, int(width / 0.135))
    head = 0.16 + 0.28 * len(lines)
    total = height + head + (0.6 if words else 0.38)
    figure = new_figure(width, total)
    style: dict[str, Any] = {"ha": "center", "va": "top", "parse_math": False}
    figure.text(middle / width, 1 - 0.16 / total, "\n".join(lines), fontsize=16, color=INK, **style)
    figure.text(middle / width, 1 - (head + 0.02) / total, words, fontsize=10.5, color=SOFT_INK, **style)
    return figure


def _map_size(view: View, widest: float, tallest: float) -> tuple[float, float]:
    """Return width and height of a map with the shape of the domain."""
    extent = np.ptp(view.outline, axis=0)
    width = min(widest, tallest * extent[0] / extent[1])
    return width, width * extent[1] / extent[0]


def _units(pair: tuple[Cells, Cells]) -> str:
    return str(pair[1].field.attrs.get("units", pair[0].field.attrs.get("units", "")))


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
    target = check_path(path)
    pair = coarse_cells, fine_cells = read_pair(coarse, fine, select or {})
    view = choose_view(*pair)
    orog_cells = None if orog is None else read_cells(*find_field(orog))
    level = orography_level(orog_cells)
    name, words = field_name(fine_cells.field, capital=True), describe_maps(pair, select or {}, level)
    figure, panels, bars = _place_three_maps(view, title or name, words)
    detail = replace(fine_cells, values=fine_cells.values - coarse_cells.values_under(fine_cells))
    main_colours, detail_colours = colour_maps(fine_cells.field, cmap)
    values = np.concatenate([cells.values.ravel() for cells in pair])
    limits = robust_limits(values)
    reach = max(*np.abs(robust_limits(detail.values)), ROUNDING * max(np.abs(limits)))
    styles = (main_colours, limits), (main_colours, limits), (detail_colours, (-reach, reach))
    meshes = [
        draw_cells(panel, view, cells, *style)
        for panel, cells, style in zip(panels, (*pair, detail), styles, strict=True)
    ]
    for panel, words, cells in zip(panels, ("Coarse", "Fine"), pair, strict=False):
        panel.set_title(f"{words} ({_size_words(cells)})", fontsize=12.5, color=INK, pad=7)
    panels[2].set_title("Added detail", fontsize=12.5, color=INK, pad=7)
    draw_bar(bars[0], meshes[1], values, field_name(fine_cells.field, capital=False), _units(pair))
    draw_bar(bars[1], meshes[2], detail.values, f"fine {MINUS} its coarse cell", _units(pair))
    draw_coast(panels, view, sftlf)
    draw_graticules(panels, view)
    if orog_cells is not None and level is not None:
        draw_contour(panels[0], view, orog_cells, level, linestyles=":")
    return write_figure(figure, target, dpi)


def _size_words(cells: Cells) -> str:
    return f"{cells.values.shape[0]} {TIMES} {cells.values.shape[1]} cells"


def _place_three_maps(view: View, title: str, words: str) -> tuple[Figure, list[Any], list[Any]]:
    """Place three panels with the domain's shape and two colour bars without overlaps."""
    left, right, gap, bottom = PLANE_MARGINS if view.projection is None else MAP_MARGINS
    width, height = _map_size(view, (SLIDE_WIDTH - left - right - 2 * gap) / 3, TALLEST_PANEL)
    spare = max(0.0, NARROWEST - width)  # titles and bars are wider than a narrow panel
    left, right, gap = left + spare / 2, right + spare / 2, gap + spare
    figure = _titled_figure(left + right + 2 * gap + 3 * width, bottom + height, title, words, left + 1.5 * width + gap)
    panels = [add_panel(figure, left + i * (width + gap), bottom, width, height, view) for i in range(3)]
    wide_bar, narrow_bar = 0.62 * (2 * width + gap), max(0.82 * width, NARROWEST - 0.1)
    centres = left + width + gap / 2, left + 2.5 * width + 2 * gap
    bars = [add_panel(figure, x - w / 2, 0.68, w, 0.14) for x, w in zip(centres, (wide_bar, narrow_bar), strict=True)]
    return figure, panels, bars


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
    target = check_path(path)
    pair = coarse_cells, fine_cells = read_pair(coarse, fine, select or {})
    if coarse_cells.is_mesh:
        raise GridError("expected fields on axes, received two-dimensional positions; compare a part of them")
    view = choose_view(*pair)
    part = _part_view(view, coarse_cells, fine_cells, box)
    words = describe_maps(pair, select or {}, None)
    figure, panels, bar = _place_map_and_parts(view, part, title or field_name(fine_cells.field, capital=True), words)
    colour_map, _ = colour_maps(fine_cells.field, cmap)
    values = np.concatenate([coarse_cells.values.ravel(), fine_cells.values.ravel()])
    names = f"Fine ({_size_words(fine_cells)})", "Coarse, within the box", "Fine, within the box"
    maps = (view, fine_cells), (part, coarse_cells), (part, fine_cells)
    for panel, (frame, cells), name in zip(panels, maps, names, strict=True):
        mesh = draw_cells(panel, frame, cells, colour_map, robust_limits(values))
        draw_coast([panel], frame, sftlf)
        panel.set_title(name, fontsize=12.5, color=INK, pad=7)
    draw_graticules([panels[0]], view)
    ring = view.ring(part.west, part.east, part.south, part.north)
    for style in ({"color": "white", "linewidth": 3.4}, {"color": MARK_COLOUR, "linewidth": 1.8}):
        panels[0].plot(ring[:, 0], ring[:, 1], scalex=False, scaley=False, **style)
    draw_bar(bar, mesh, values, field_name(fine_cells.field, capital=False), _units(pair))
    return write_figure(figure, target, dpi)


def _part_view(view: View, coarse_cells: Cells, fine_cells: Cells, box: Box | None) -> View:
    """Return the view of a part of the domain."""
    west, east, south, north = box or _most_detailed_box(coarse_cells, fine_cells)
    if fine_cells.grid.x.kind == "longitude":
        shift = 360.0 * np.floor((west - view.west) / 360.0 + 1e-9)
        west, east = west - shift, east - shift
    slack = 1e-6 * max(view.east - view.west, view.north - view.south)
    is_inside = west >= view.west - slack and east <= view.east + slack
    is_inside &= south >= view.south - slack and north <= view.north + slack
    if not (west < east and south < north and is_inside):
        domain = f"{view.west:g} to {view.east:g} and {view.south:g} to {view.north:g}"
        raise OptionError(f"expected a box (west, east, south, north) within {domain}, received {box}")
    return replace(view, west=west, east=east, south=south, north=north)


def _most_detailed_box(coarse_cells: Cells, fine_cells: Cells) -> Box:
    """Return the window of a quarter of each axis with the strongest detail, on edges of coarse cells."""
    detail = np.nan_to_num((fine_cells.values - coarse_cells.values_under(fine_cells)) ** 2)
    sums = np.pad(detail.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    y, x = (
        np.searchsorted(axis.edges, coarse_axis.edges - 1e-9)
        for axis, coarse_axis in ((fine_cells.grid.y, coarse_cells.grid.y), (fine_cells.grid.x, coarse_cells.grid.x))
    )
    y, x = np.clip(y, 0, detail.shape[0]), np.clip(x, 0, detail.shape[1])
    height, width = max(coarse_cells.values.shape[0] // DIVISOR, 2), max(coarse_cells.values.shape[1] // DIVISOR, 2)
    height, width = min(height, len(y) - 1), min(width, len(x) - 1)
    window_sums = sums[np.ix_(y[height:], x[width:])] - sums[np.ix_(y[:-height], x[width:])]
    window_sums = window_sums - sums[np.ix_(y[height:], x[:-width])] + sums[np.ix_(y[:-height], x[:-width])]
    row, column = np.unravel_index(int(window_sums.argmax()), window_sums.shape)
    edges_y, edges_x = coarse_cells.grid.y.edges, coarse_cells.grid.x.edges
    return edges_x[column], edges_x[column + width], edges_y[row], edges_y[row + height]


def _place_map_and_parts(view: View, part: View, title: str, words: str) -> tuple[Figure, list[Any], Any]:
    """Place the whole map, two parts above each other, and a colour bar below."""
    width, height = _map_size(view, 6.6, 5.6)
    height = max(height, 3.6)
    part_height = (height - 0.55) / 2
    extent = np.ptp(part.outline, axis=0)
    part_width = min(max(part_height * extent[0] / extent[1], 1.6), 5.2)
    total, bottom, x = width + part_width + 1.7, 1.1, 1.3 + width
    figure = _titled_figure(total, bottom + height, title, words, total / 2)
    panels = [add_panel(figure, 0.7, bottom, width, height, view)]
    for y in (bottom + part_height + 0.55, bottom):
        panels.append(add_panel(figure, x, y, part_width, part_height, part))
        panels[-1].set(xticks=[], yticks=[])
        for spine in panels[-1].spines.values():
            spine.set(edgecolor=MARK_COLOUR, linewidth=1.8)
    return figure, panels, add_panel(figure, 0.2 * total, 0.58, 0.6 * total, 0.14)


def conservation(
    coarse: XarrayObject,
    fine: XarrayObject,
    *,
    path: str | Path | None = None,
    variable: str | None = None,
    mask: Any = None,
    tolerance: float | None = None,
    title: str | None = None,
    sftlf: XarrayObject | None = None,
    dpi: int = 150,
) -> Figure:
    """Plot the largest relative error of every coarse cell over all times, with the worst cell and a histogram.

    Parameters
    ----------
    coarse, fine : Dataset or DataArray
        As for :func:`downscale.cell_error`, on grids that nest.
    path : path, optional
        Output file; it appears when complete.
    variable : str, optional
        Name of the variable, if there are several.
    mask : Dataset, DataArray or file, optional
        The mask that was used for the fine field.
    tolerance : float, optional
        Position of a line; by default that of :func:`downscale.check_conservation`.
    title : str, optional
        By default the ``long_name`` of the field.
    sftlf : DataArray, optional
        Land fraction, whose contour is the coast if no coastline file is installed.
    dpi : int
        Resolution of the file in dots per inch.

    Returns
    -------
    matplotlib.figure.Figure
        Its axes are the map, the histogram and a colour bar; it is not registered with pyplot.

    Raises
    ------
    GridError, InputError, OutputError
        If the grids do not nest, there are several variables, or the path is not usable.
    """
    target = check_path(path)
    errors = cell_error(coarse, fine, mask=mask)
    names = [str(name).removesuffix("_relative_error") for name in errors if str(name).endswith("_relative_error")]
    if (variable is None and len(names) > 1) or (variable is not None and variable not in names):
        raise InputError(f"expected the name of a variable among {listing(names)}, received {variable!r}")
    name = variable or names[0]
    key = f"{name}_relative_error"
    cells = read_cells(*find_field(errors[[key]].max(errors[key].dims[:-2])))
    coarse_field = as_dataset(coarse)[0][name]
    dtypes = [x.dtype for x in (coarse_field, as_dataset(fine)[0].get(name, coarse_field)) if x.dtype.kind == "f"]
    threshold = tolerance or max(map(default_tolerance, dtypes), default=1e-12)
    view = choose_view(cells, cells)
    width, height = _map_size(view, 6.4, 5.0)
    height = max(height, 2.4)
    title = title or f"{field_name(coarse_field, capital=True)}: the error of every coarse cell"
    figure = _titled_figure(width + 6.4, 1.05 + height, title, "", width / 2 + 3.2)
    panel = add_panel(figure, 0.7, 1.05, width, height, view)
    bar = add_panel(figure, 0.7 + 0.08 * width, 0.58, 0.84 * width, 0.14)
    _draw_errors(panel, bar, view, cells, threshold)
    draw_coast([panel], view, sftlf)
    draw_graticules([panel], view)
    _draw_decades(add_panel(figure, width + 1.75, 1.05, 4.3, height - 0.25), np.asarray(errors[key].values), threshold)
    return write_figure(figure, target, dpi)


def _draw_errors(panel: Any, bar: Any, view: View, cells: Cells, threshold: float) -> None:
    """Plot the errors on a logarithmic scale, and a ring around the worst cell."""
    import matplotlib
    from matplotlib.colors import LogNorm

    finite = cells.values[np.isfinite(cells.values)].clip(min=LEAST_ERROR)
    top = max(_decade(finite.max(initial=LEAST_ERROR), np.ceil), threshold)
    low = min(max(_decade(np.percentile(finite, 1), np.floor), LEAST_ERROR) if finite.size else 0.1, 1e-2 * top)
    mesh = draw_cells(panel, view, replace(cells, values=cells.values.clip(min=LEAST_ERROR)),
                      matplotlib.colormaps["cividis"].with_extremes(bad=MISSING), (low, top))  # fmt: skip
    mesh.set_norm(LogNorm(low, top))
    panel.figure.colorbar(mesh, cax=bar, orientation="horizontal").outline.set(linewidth=0.5)
    bar.set_xlabel("largest relative error of the cell, all times", fontsize=10.5, color=INK)
    panel.set_title("Where (ring: the worst cell)", fontsize=12.5, color=INK, pad=7)
    if finite.size and finite.max() > LEAST_ERROR:
        row, column = np.unravel_index(int(np.nanargmax(cells.values)), cells.values.shape)
        x, y = _centre(view, cells, int(row), int(column))
        ring: dict[str, Any] = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "clip_on": False}
        for colour, width in (("white", 3.6), (MARK_COLOUR, 2.0)):
            panel.plot(x, y, markeredgecolor=colour, markeredgewidth=width, scalex=False, scaley=False, **ring)


def _decade(value: float, rounding: Any) -> float:
    return float(10.0 ** rounding(np.log10(value)))


def _centre(view: View, cells: Cells, row: int, column: int) -> tuple[Array, Array]:
    """Return the map coordinates of the centre of a cell."""
    if isinstance(cells.grid, CurvilinearGrid):
        return view.place(cells.grid.lon[row, column][None], cells.grid.lat[row, column][None])
    x = cells.grid.x.centres[[column]]
    if cells.grid.x.kind == "longitude":
        x = view.west + np.mod(x - view.west, 360.0)
    return view.project(x, cells.grid.y.centres[[row]])


def _draw_decades(chart: Any, errors: Array, threshold: float) -> None:
    """Plot the number of cells of all times by the decade of their error."""
    finite = errors[np.isfinite(errors)].clip(min=LEAST_ERROR)
    # A few nearly exact cells must not stretch the axis.
    low = _decade(min(np.percentile(finite, 0.5) if finite.size else 0.1, threshold / 10), np.floor)
    top = max(_decade(finite.max(initial=LEAST_ERROR), np.ceil), 10 * threshold)
    edges = np.geomspace(low, top, int(4 * np.log10(top / low)) + 1)
    chart.set_xscale("log")
    chart.hist(finite.clip(low, top), edges, color=PALETTE[0], edgecolor="white", linewidth=0.5)
    chart.axvline(threshold, color=MARK_COLOUR, linewidth=1.6)
    largest = f", largest {errors[np.isfinite(errors)].max():.1e}" if finite.size else ""
    style_chart(chart, f"How large ({finite.size:,} cells{largest})", "relative error", "cells")
    chart.set_xlim(low, top)
    style = {"transform": chart.get_xaxis_transform(), "rotation": 90, "va": "top", "ha": "right", "color": "#A84300"}
    write_note(chart, threshold, 0.98, f"tolerance {threshold:g} ", **style)
