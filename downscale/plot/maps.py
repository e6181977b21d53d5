"""Cells, coastlines, orography contours, graticules and colour bars of the panels of a map, without downloads."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from downscale.cf.horizontal import XarrayObject
from downscale.errors import OptionError
from downscale.grid.curvilinear import CurvilinearGrid
from downscale.grid.sphere import degrees_of, inner_points, unit_vectors
from downscale.plot.cells import Array, Cells, View, crop_axis, find_field, read_cells
from downscale.plot.style import FRAME, INK, MINUS, SOFT_INK, degree_label, format_unit

# Blue to red for temperature and white to blue for rain are conventional; the second map of a pair is for the detail.
# All of them are suitable for colour blindness.
COLOURS = {
    "temperature": ("RdYlBu_r", "RdBu_r"),
    "precipitation": ("Blues", "BrBG"),
    "rainfall": ("Blues", "BrBG"),
    "snowfall": ("Blues", "BrBG"),
}
OTHER_COLOURS = ("viridis", "RdBu_r")
MISSING = "0.86"
LONGEST_STEP = 1.5  # degrees: longer cell edges would visibly cut the corners of a curved map
# Cells that span more degrees of longitude are drawn in parts; parts that still do contain a pole.
WIDE, WIDEST, PARTS = 5.0, 60.0, 8
MOST_POLYGONS = 900  # along one axis: polygons are more expensive than cells of a product grid
STEPS = np.array([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 90])  # degrees between drawn lines
OROGRAPHY_LEVELS = (2000.0, 1000.0, 500.0, 200.0, 100.0)  # m


def add_panel(figure: Any, x: float, y: float, width: float, height: float, view: View | None = None) -> Any:
    """Return a new panel at a place of the figure in inches; with a view, a map limited to its domain."""
    from matplotlib.path import Path as Border

    whole_width, whole_height = figure.get_size_inches()
    options: dict[str, Any] = {} if view is None else {"aspect": "equal"}
    if view is not None and view.projection is not None:
        options = {"projection": view.projection}
    panel = figure.add_axes((x / whole_width, y / whole_height, width / whole_width, height / whole_height), **options)
    if view is None:
        return panel
    panel.set_xlim(view.outline[:, 0].min(), view.outline[:, 0].max())
    panel.set_ylim(view.outline[:, 1].min(), view.outline[:, 1].max())
    if view.projection is not None:
        panel.set_boundary(Border(view.outline, closed=True))
    for spine in panel.spines.values():
        spine.set(linewidth=0.6, edgecolor=FRAME)
    return panel


def draw_cells(panel: Any, view: View, cells: Cells, cmap: Any, limits: tuple[float, float]) -> Any:
    """Draw cells by their corners, without smoothing."""
    from matplotlib.axes import Axes

    if cells.is_mesh:
        return _draw_mesh(panel, view, cells, cmap, limits)
    y, x, values = view.crop(cells, LONGEST_STEP if view.curved else np.inf)
    corners = view.project(*np.meshgrid(x.edges, y.edges))
    low, high = limits
    # The corners are already map coordinates; cartopy's own method would search them for torn cells.
    return Axes.pcolormesh(
        panel, *corners, np.ma.masked_invalid(values), cmap=cmap, vmin=low, vmax=high, rasterized=True
    )


def robust_limits(values: Array) -> tuple[float, float]:
    """Return limits without half a percent at either end; never equal."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    if finite.size and finite.min() >= 0 and low < 0.1 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = 1e-3 * abs(low) or 1.0
        low, high = low - half, high + half
    return float(low), float(high)


def colour_maps(field: xr.DataArray, cmap: Any) -> tuple[Any, Any]:
    """Return the colour maps of a field and of its detail."""
    import matplotlib

    name = str(field.attrs.get("standard_name", ""))
    default, detail_colours = next((pair for word, pair in COLOURS.items() if word in name), OTHER_COLOURS)
    main_colours: Any = default if cmap is None else cmap
    if isinstance(main_colours, str):
        if main_colours not in matplotlib.colormaps:
            raise OptionError(f"expected a colour map of matplotlib, received {main_colours!r}; try 'viridis'")
        main_colours = matplotlib.colormaps[main_colours]
    return main_colours.with_extremes(bad=MISSING), matplotlib.colormaps[detail_colours].with_extremes(bad=MISSING)


def draw_bar(axes: Any, mesh: Any, values: Array, name: str, units: str) -> None:
    """Draw a horizontal colour bar with quantity and unit; very large and small numbers share a power of ten."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = mesh.get_clim()
    extend = ("neither", "min", "max", "both")[int((values < low).any()) + 2 * int((values > high).any())]
    largest, inches = max(abs(low), abs(high)), axes.get_position().width * axes.figure.get_figwidth()
    power = 0 if 1e-2 <= largest < 1e5 else 3 * int(np.floor(np.log10(largest) / 3))
    numbers = FuncFormatter(lambda value, _: f"{value / 10.0**power:g}".replace("-", MINUS))
    ticks = MaxNLocator(min(7, max(3, int(inches / 0.5))), symmetric=low == -high)
    bar = axes.figure.colorbar(
        mesh, cax=axes, orientation="horizontal", extend=extend, ticks=ticks, format=numbers, extendfrac=0.03
    )
    bar.outline.set(linewidth=0.5, edgecolor=FRAME)
    axes.tick_params(labelsize=10, length=3, width=0.5, color=FRAME, labelcolor=INK)
    unit = " ".join(([f"10{power}"] if power else []) + ([units] if units not in ("", "1") else []))
    label = f"{name} ({format_unit(unit)})" if unit else name
    label = textwrap.fill(label, int(inches / 0.071), max_lines=2, placeholder=" ...")
    axes.set_xlabel(label.replace("\u00a0", " "), fontsize=10.5, color=INK, labelpad=4, parse_math=False)


def _draw_mesh(panel: Any, view: View, mesh: Cells, cmap: Any, limits: tuple[float, float]) -> Any:
    """Draw the cells with values as polygons on the colour for missing values."""
    from matplotlib.collections import PolyCollection

    lon, lat, values = _polygons(mesh)
    if view.full_circle and not view.polar:
        lon, lat, values = _cut_at_seam(*_divide_wide_cells(lon, lat, values), view.west, view.east)
    corners = np.stack(view.project(lon, lat), axis=-1)
    panel.set_facecolor(MISSING)
    # Without anti-aliasing there are no light seams between neighbours.
    style: dict[str, Any] = {"edgecolors": "none", "antialiaseds": False, "rasterized": True}
    polygons: Any = PolyCollection(corners, array=values, cmap=cmap, **style)  # type: ignore[arg-type]
    polygons.set_clim(*limits)
    panel.add_collection(polygons, autolim=False)
    return polygons


def _polygons(mesh: Cells) -> tuple[Array, Array, Array]:
    """Return corners, shapes (n, 4), on one branch per cell, and values of the cells with values, shape (n,).

    If there are more cells than are visible, one value represents several cells.
    """
    assert isinstance(mesh.grid, CurvilinearGrid)
    rows, columns = (1 + (size - 1) // MOST_POLYGONS for size in mesh.values.shape)
    corners = mesh.grid.all_corners()
    arrays = [v[: v.shape[0] // rows * rows, : v.shape[1] // columns * columns] for v in (corners, mesh.values)]
    first, last = slice(None, None, rows), slice(rows - 1, None, rows)
    left, right = slice(None, None, columns), slice(columns - 1, None, columns)
    corner_slices = (first, left, 0), (first, right, 1), (last, right, 2), (last, left, 3)
    rings = np.stack([arrays[0][corner] for corner in corner_slices], axis=-2)
    values = arrays[1][rows // 2 :: rows, columns // 2 :: columns]
    has_value = np.isfinite(values)
    return *_on_one_branch(rings[has_value]), values[has_value]


def _on_one_branch(rings: Array) -> tuple[Array, Array]:
    """Return longitudes and latitudes of corners (..., 4, 3), longitudes near that of the middle of each cell."""
    return degrees_of(rings, degrees_of(rings.sum(axis=-2))[0][:, None])


def _divide_wide_cells(lon: Array, lat: Array, values: Array) -> tuple[Array, Array, Array]:
    """Cut cells that span many degrees, as around a pole, into parts that follow the curves of the map."""
    is_wide = np.ptp(lon, axis=-1) > WIDE
    points = inner_points(unit_vectors(lon[is_wide], lat[is_wide]), *2 * [np.linspace(0, 1, PARTS + 1)])
    rings = np.stack([points[:, :-1, :-1], points[:, :-1, 1:], points[:, 1:, 1:], points[:, 1:, :-1]], axis=-2)
    parts = *_on_one_branch(rings.reshape(-1, 4, 3)), np.repeat(values[is_wide], PARTS**2)
    # The part that contains the pole itself is smaller than a pixel.
    is_narrow = np.ptp(parts[0], axis=-1) < WIDEST
    pairs = zip((lon, lat, values), parts, strict=True)
    lon, lat, values = (np.concatenate([cells[~is_wide], part[is_narrow]]) for cells, part in pairs)
    return lon, lat, values


def _cut_at_seam(lon: Array, lat: Array, values: Array, west: float, east: float) -> tuple[Array, Array, Array]:
    """Cut cells that cross the seam of a map into one part on either side."""
    lon = lon - 360.0 * np.floor((lon.mean(axis=-1, keepdims=True) - west) / 360.0)
    is_beyond_east, is_beyond_west = lon.max(axis=-1) > east, lon.min(axis=-1) < west
    copies = np.concatenate([lon[is_beyond_east] - 360.0, lon[is_beyond_west] + 360.0])
    lon = np.clip(np.concatenate([lon, copies]), west, east)
    lat, values = (np.concatenate([v, v[is_beyond_east], v[is_beyond_west]]) for v in (lat, values))
    return lon, lat, values


def draw_coast(panels: list[Any], view: View, sftlf: XarrayObject | None) -> None:
    """Draw the coast from an installed file, else from a land fraction, else nothing."""
    path = find_coast(view.box[1] - view.box[0]) if view.projection is not None else None
    if path is not None:
        import cartopy.crs as ccrs
        from cartopy.io.shapereader import Reader

        shapes = list(Reader(path).geometries())
        for panel in panels:
            panel.add_geometries(shapes, ccrs.PlateCarree(), facecolor="none", edgecolor=INK, linewidth=0.55)
    elif sftlf is not None:
        cells = read_cells(*find_field(sftlf))
        land = replace(cells, values=np.nan_to_num(cells.values))
        for panel in panels:
            draw_contour(panel, view, land, 50.0 if land.values.max() > 1.5 else 0.5)


def find_coast(width: float) -> Path | None:
    """Return the path of an installed Natural Earth coastline; cartopy itself would download a missing one."""
    from cartopy import config
    from cartopy.io import Downloader

    for resolution in ("110m", "50m", "10m") if width > 120 else ("50m", "10m", "110m"):
        keys = {"config": config, "category": "physical", "name": "coastline", "resolution": resolution}
        source = Downloader.from_config(("shapefiles", "natural_earth", resolution, "physical", "coastline"))
        for path in (source.pre_downloaded_path(keys), source.target_path(keys)):
            if path is not None and Path(path).exists():
                return Path(path)
    return None


def orography_level(orog: Cells | None) -> float | None:
    """Return the round altitude that separates high land from low; None for a plain."""
    land = np.array([]) if orog is None else orog.values[np.isfinite(orog.values)]
    return next((level for level in OROGRAPHY_LEVELS if land.size and 2 * level <= np.percentile(land, 99)), None)


def draw_contour(panel: Any, view: View, cells: Cells, level: float, linestyles: str = "-") -> None:
    """Draw one contour up to the frame, if the field crosses the level."""
    from matplotlib.axes import Axes

    has_view_axes = not cells.is_mesh and (cells.axes.mapping is not None) == view.native
    x, y, values = _extend_to_frame(view, cells) if has_view_axes else _transform_cells(view, cells)
    if (values > level).any() and (values < level).any():
        style: dict[str, Any] = {"colors": INK, "linewidths": 0.55, "linestyles": linestyles}
        Axes.contour(panel, x, y, values, [level], **style)


def _extend_to_frame(view: View, cells: Cells) -> tuple[Array, Array, Array]:
    """Return map coordinates and values on the axes of the view, extended to its frame."""
    y, x, values = view.crop(cells)
    values = np.pad(values, 1, mode="edge")
    if view.full_circle:
        values[:, [0, -1]] = values[:, [0, -1]].mean(axis=1, keepdims=True)
    rows, columns = (np.concatenate([axis.edges[:1], axis.centres, axis.edges[-1:]]) for axis in (y, x))
    return *view.project(*np.meshgrid(columns, rows)), values


def _transform_cells(view: View, cells: Cells) -> tuple[Array, Array, Any]:
    """Return map coordinates and values of cells on other axes than those of the view; masked outside."""
    west, east, south, north = view.box
    if isinstance(cells.grid, CurvilinearGrid):
        values, lon, lat = cells.values, cells.grid.lon, cells.grid.lat
        lon = lon - 360.0 * np.round((lon - 0.5 * (west + east)) / 360.0)
    else:
        reach = min(0.1 * (east - west) + 1, 180 - 0.5 * (east - west))
        columns = crop_axis(cells.grid.x, west - reach, east + reach)
        rows = crop_axis(cells.grid.y, max(south - 1, -90.0), min(north + 1, 90.0))
        values, (lon, lat) = cells.values_at(rows, columns), np.meshgrid(columns.centres, rows.centres)
    x, y = view.place(lon, lat)
    (left, low), (right, high) = view.outline.min(axis=0), view.outline.max(axis=0)
    slack = 0.05 * (right - left)
    is_finite = np.isfinite(x) & np.isfinite(y)
    is_inside = is_finite & (x > left - slack) & (x < right + slack) & (y > low - slack) & (y < high + slack)
    # Neighbours half the map apart are on either side of the seam.
    is_inside[:, 1:] &= np.abs(np.diff(np.where(is_finite, x, left), axis=1)) <= 0.5 * (right - left)
    values = np.ma.masked_array(values, ~is_inside | ~np.isfinite(values))
    return np.where(is_finite, x, left), np.where(is_finite, y, low), values


def draw_graticules(panels: list[Any], view: View) -> None:
    """Draw meridians and parallels, labelled on outer edges only; or the axes of a plane."""
    for number, panel in enumerate(panels):
        if view.projection is None:
            _draw_plane_axes(panel, view.unit, number)
        else:
            _draw_graticule(panel, view, number)


def _draw_graticule(panel: Any, view: View, number: int) -> None:
    place, (figure_width, figure_height) = panel.get_position(), panel.figure.get_size_inches()
    west, east, south, north = view.box
    parallels = round_degrees(south, north, min(5, max(2.5, 2.4 * place.height * figure_height)))
    meridians = round_degrees(west, east, max(1.5, (1.8 if view.native else 1.0) * place.width * figure_width))
    # The box contains a native domain, whose corners may be outside.
    slack = 5 if view.native else 0
    longitudes = np.linspace(west - slack, east + slack, 361)
    latitudes = np.linspace(max(south - slack, -90), min(north + slack, 90), 181)
    curves = [(longitudes, np.full_like(longitudes, lat)) for lat in parallels]
    curves += [(np.full_like(latitudes, lon), latitudes) for lon in meridians]
    for lon, lat in curves:
        x, y = view.place(lon, lat)
        # A line that leaves on one side and re-enters on the other is two lines.
        x[:-1][np.abs(np.diff(x)) > 0.5 * np.ptp(view.outline[:, 0])] = np.nan
        panel.plot(x, y, color="0.25", linewidth=0.4, alpha=0.35, scalex=False, scaley=False)
    x, y = np.linspace(view.west, view.east, 400), np.linspace(view.south, view.north, 400)
    edges = []
    if number == 0 and not (view.polar and view.full_circle):
        edges.append(("NS", parallels, (np.full_like(y, view.west), y)))
    if not view.worldwide:
        edges.append(("EW", meridians, (x, np.full_like(x, view.rim))))
    for letters, values, edge in edges:
        x, y = view.project(*edge)
        along = view.locate(*edge)[letters == "NS"]
        for value in values:
            crossings = _crossings(np.mod(along - value + 180, 360) - 180)
            if crossings.size:
                point = np.array([np.interp(crossings[0], np.arange(400), v) for v in (x, y)])
                _write_label(panel, degree_label(value, letters), point, letters, view.polar, number)


def _crossings(values: Array) -> Array:
    """Return where values cross zero, as numbers between indices; a jump over half a circle does not count."""
    step = np.diff(values)
    before = np.flatnonzero((values[:-1] * values[1:] <= 0) & (np.abs(step) < 90) & (step != 0))
    return before - values[before] / step[before]


def _write_label(panel: Any, text: str, point: Array, letters: str, polar: bool, number: int) -> None:
    """Write next to a point of the frame, on its outer side, unless a title or another panel is there."""
    outward = np.array([-1.0, 0.0] if letters == "NS" else [0.0, -1.0])
    if polar and letters == "EW":
        outward = point / np.hypot(*point)
    if outward[1] >= 0.6 or (outward[0] < -0.6 and number > 0) or (outward[0] > 0.6 and number < 2):
        return
    across, up = (int(v) for v in np.round(outward))
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "annotation_clip": False}
    style |= {"ha": ("right", "center", "left")[across + 1], "va": ("top", "center", "bottom")[up + 1]}
    panel.annotate(text, tuple(point), xytext=tuple(5 * outward), textcoords="offset points", **style)


def _draw_plane_axes(panel: Any, unit: str, number: int) -> None:
    names = ("x", "y") if unit == "km" else ("rotated longitude", "rotated latitude")
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "labelpad": 2}
    panel.tick_params(labelsize=9, length=3, width=0.5, color=FRAME, labelcolor=SOFT_INK, labelleft=number == 0)
    panel.set_xlabel(f"{names[0]} ({unit})", **style)
    panel.set_ylabel(f"{names[1]} ({unit})" if number == 0 else "", **style)


def round_degrees(low: float, high: float, number: float) -> Array:
    """Return about ``number`` round values within a range."""
    step = STEPS[np.abs(np.log(STEPS * number / (high - low))).argmin()]
    ticks = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    margin = 0.03 * (high - low)
    return ticks[(ticks > low + margin) & (ticks < high - margin)]
