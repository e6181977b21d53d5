"""Figure of conservation errors: a map and a histogram."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.horizontal import XarrayObject, as_dataset
from downscale.check.conservation import cell_error
from downscale.conservation.measures import default_tolerance
from downscale.errors import InputError, listing
from downscale.plot.cells import Array, Cells, Drawn, find_field, read_field, reduce_field
from downscale.plot.maps import MISSING, add_map, draw_cells, draw_coast, draw_graticules
from downscale.plot.style import INK, PALETTE, blank, check_path, name_of, note, tidy, write
from downscale.plot.view import View, choose_view

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Smaller errors have no decade of their own: they count as exact.
LEAST = 1e-17
WIDTH, TALLEST = 6.4, 5.0  # inches of the map


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
    target = None if path is None else check_path(Path(path))
    errors = cell_error(coarse, fine, mask=mask)
    names = [str(name).removesuffix("_relative_error") for name in errors if str(name).endswith("_relative_error")]
    if (variable is None and len(names) > 1) or (variable is not None and variable not in names):
        raise InputError(f"expected the name of a variable among {listing(names)}, received {variable!r}")
    name = variable or names[0]
    coarse_field, field = as_dataset(coarse)[0][name], errors[f"{name}_relative_error"]
    largest, where = find_field(_largest_of(errors, f"{name}_relative_error"))
    error_map = reduce_field(largest, where, {})
    cells = read_field(error_map, where)
    view = choose_view(cells, cells, error_map, where.mapping)
    figure, panel, bar, chart = _sheet(view)
    kinds = [x.dtype for x in (coarse_field, as_dataset(fine)[0].get(name, coarse_field)) if x.dtype.kind == "f"]
    allowed = tolerance or max(map(default_tolerance, kinds), default=1e-12)
    _draw_map(panel, bar, view, cells, allowed)
    draw_coast([panel], view, sftlf)
    draw_graticules([panel], view)
    _draw_decades(chart, np.asarray(field.values), allowed)
    words = title or f"{name_of(coarse_field, capital=True)}: the error of every coarse cell"
    figure.suptitle(words, fontsize=14, color=INK, parse_math=False)
    if target is not None:
        write(figure, target, dpi)
    return figure


def _largest_of(errors: xr.Dataset, name: str) -> xr.Dataset:
    """Return the largest error of each cell over all other dimensions."""
    field = errors[name]
    other_dims = field.dims[:-2]
    # Cells without any value have no maximum; the warning is of no use.
    maxima = field.fillna(-1.0).max(other_dims) if other_dims else field.fillna(-1.0)
    names = [key for key, value in errors.coords.items() if not set(value.dims) & set(other_dims)]
    return xr.Dataset({name: maxima.where(maxima >= 0)}, {key: errors.coords[key] for key in names})


def _sheet(view: View) -> tuple[Figure, Any, Any, Any]:
    """Create the axes of the map, its colour bar and the histogram."""
    extent = np.ptp(view.outline(), axis=0)
    width = min(WIDTH, TALLEST * extent[0] / extent[1])
    height = max(width * extent[1] / extent[0], 2.4)
    figure_width, figure_height = width + 6.4, height + 1.9
    figure = blank(figure_width, figure_height)
    panel = add_map(
        figure, (0.7 / figure_width, 1.05 / figure_height, width / figure_width, height / figure_height), view
    )
    bar = figure.add_axes(
        ((0.7 + 0.08 * width) / figure_width, 0.58 / figure_height, 0.84 * width / figure_width, 0.14 / figure_height)
    )
    chart = figure.add_axes(
        ((width + 1.75) / figure_width, 1.05 / figure_height, 4.3 / figure_width, (height - 0.25) / figure_height)
    )
    return figure, panel, bar, chart


def _draw_map(panel: Any, bar: Any, view: View, cells: Drawn, allowed: float) -> None:
    """Plot the decades of the errors, and a ring around the worst cell."""
    import matplotlib

    exponent = np.log10(np.maximum(cells.values, LEAST))
    finite = exponent[np.isfinite(exponent)]
    top = max(float(np.ceil(finite.max())) if finite.size else 0.0, np.log10(allowed))
    low = min(max(float(np.floor(np.percentile(finite, 1))) if finite.size else -1.0, np.log10(LEAST)), top - 2)
    colours = matplotlib.colormaps["cividis"].with_extremes(bad=MISSING)
    mesh = draw_cells(panel, view, cells.holding(exponent), colours, (low, top))
    colour_bar = panel.figure.colorbar(mesh, cax=bar, orientation="horizontal", ticks=_decades(low, top))
    colour_bar.ax.set_xticklabels([_power(value) for value in colour_bar.get_ticks()])
    colour_bar.outline.set(linewidth=0.5)
    bar.set_xlabel("largest relative error of the cell, all times", fontsize=10.5, color=INK)
    panel.set_title("Where (ring: the worst cell)", fontsize=12.5, color=INK, pad=7)
    if finite.size and finite.max() > np.log10(LEAST):
        row, column = np.unravel_index(int(np.nanargmax(exponent)), exponent.shape)
        x, y = _centre(view, cells, int(row), int(column))
        ring: dict[str, Any] = {"marker": "o", "markersize": 15, "markerfacecolor": "none", "clip_on": False}
        ring |= {"scalex": False, "scaley": False}
        panel.plot(x, y, markeredgecolor="white", markeredgewidth=3.6, **ring)
        panel.plot(x, y, markeredgecolor="#D55E00", markeredgewidth=2.0, **ring)


def _centre(view: View, cells: Drawn, row: int, column: int) -> tuple[Array, Array]:
    if isinstance(cells, Cells):
        lon = float(cells.x.centres[column])
        if cells.x.kind == "longitude":
            lon = view.west + float(np.mod(lon - view.west, 360.0))
        return view.project(np.array([lon]), np.array([float(cells.y.centres[row])]))
    return view.place(cells.grid.lon[row, column][None], cells.grid.lat[row, column][None])


def _decades(low: float, top: float) -> list[float]:
    step = max(1, int(np.ceil((top - low) / 6)))
    return [float(v) for v in np.arange(np.ceil(low), top + 0.01, step)]


def _power(value: float) -> str:
    return f"10{str(round(value)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _draw_decades(chart: Any, errors: Array, allowed: float) -> None:
    """Plot the number of cells of all times by the decade of their error."""
    finite = errors[np.isfinite(errors)]
    exponent = np.log10(np.maximum(finite, LEAST))
    # A few nearly exact cells must not stretch the axis.
    low = float(np.floor(np.percentile(exponent, 0.5))) if finite.size else -1.0
    low = float(np.floor(min(low, np.log10(allowed) - 1)))
    top = max(float(np.ceil(exponent.max())) if finite.size else 0.0, np.log10(allowed) + 1)
    edges = np.linspace(low, top, int(4 * (top - low)) + 1)
    chart.hist(np.maximum(exponent, low), edges, color=PALETTE[0], edgecolor="white", linewidth=0.5)
    chart.axvline(np.log10(allowed), color="#D55E00", linewidth=1.6)
    largest = f", largest {finite.max():.1e}" if finite.size else ""
    tidy(chart, f"How large ({finite.size:,} cells{largest})", "relative error", "cells")
    chart.set_xlim(low, top)
    chart.set_xticks(_decades(low, top), [_power(value) for value in _decades(low, top)])
    style = {"transform": chart.get_xaxis_transform(), "rotation": 90, "va": "top", "ha": "right", "color": "#A84300"}
    note(chart, np.log10(allowed), 0.98, f"tolerance {allowed:g} ", **style)
