"""Cells, coastlines, orography contours, graticules and colour bars of the panels of a map, without downloads."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.horizontal import XarrayObject
from downscale.errors import OptionError
from downscale.grid.sphere import degrees_of, inner_points, unit_vectors
from downscale.plot.cells import Array, Cells, Drawn, Mesh, read_static, window
from downscale.plot.style import FRAME, INK, MINUS, SOFT_INK, TIMES, blank, degrees, name_of, raised
from downscale.plot.view import View, windows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
SLIDE_WIDTH, TALLEST_PANEL, NARROWEST = 40 / 3, 4.9, 2.4  # inches
MAP_MARGINS, PLANE_MARGINS = (0.66, 0.4, 0.34, 1.2), (0.85, 0.25, 0.3, 1.4)  # left, right, between, below
ROUNDING = 1e-6  # of the largest value: smaller detail is rounding and must not fill the colour scale
# Cells that span more degrees of longitude are drawn in parts; parts that still do contain a pole.
WIDE, WIDEST, PARTS = 5.0, 60.0, 8
MOST_POLYGONS = 900  # along one axis: polygons are more expensive than cells of a product grid
STEPS = np.array([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 90])  # degrees between drawn lines
RELIEF = (2000.0, 1000.0, 500.0, 200.0, 100.0)  # m


def layout(view: View, title: str, subtitle: str) -> tuple[Figure, list[Any], list[Any]]:
    """Place three panels with the domain's shape and two colour bars, in inches, without overlaps."""
    outline = view.outline()
    extent = np.ptp(outline, axis=0)
    left, right, gap, bottom = PLANE_MARGINS if view.projection is None else MAP_MARGINS
    width = min((SLIDE_WIDTH - left - right - 2 * gap) / 3, TALLEST_PANEL * extent[0] / extent[1])
    height = width * extent[1] / extent[0]
    spare = max(0.0, NARROWEST - width)  # titles and bars are wider than a narrow panel
    left, right, gap = left + spare / 2, right + spare / 2, gap + spare
    total = left + right + 2 * gap + 3 * width
    lines = textwrap.wrap(title, int(total / 0.135))
    head = 0.16 + 0.28 * len(lines)
    figure_height = bottom + height + head + (0.6 if subtitle else 0.38)
    figure = blank(total, figure_height)
    middle = (left + 1.5 * width + gap) / total
    style: dict[str, Any] = {"ha": "center", "va": "top", "parse_math": False}
    figure.text(middle, 1 - 0.16 / figure_height, "\n".join(lines), fontsize=16, color=INK, **style)
    figure.text(middle, 1 - (head + 0.02) / figure_height, subtitle, fontsize=10.5, color=SOFT_INK, **style)

    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / total, y / figure_height, w / total, h / figure_height

    panels = [add_map(figure, place(left + i * (width + gap), bottom, width, height), view) for i in range(3)]
    wide_bar, narrow_bar = 0.62 * (2 * width + gap), max(0.82 * width, NARROWEST - 0.1)
    centres = left + width + gap / 2, left + 2.5 * width + 2 * gap
    bars = [
        figure.add_axes(place(x - w / 2, 0.68, w, 0.14)) for x, w in zip(centres, (wide_bar, narrow_bar), strict=True)
    ]
    return figure, panels, bars


def add_map(figure: Any, place: tuple[float, float, float, float], view: View) -> Any:
    """Return a new panel at a place of the figure, limited to the domain of the view, with a thin border."""
    from matplotlib.path import Path as Border

    kind: dict[str, Any] = {"aspect": "equal"} if view.projection is None else {"projection": view.projection}
    panel, outline = figure.add_axes(place, **kind), view.outline()
    panel.set_xlim(outline[:, 0].min(), outline[:, 0].max())
    panel.set_ylim(outline[:, 1].min(), outline[:, 1].max())
    if view.projection is not None:
        panel.set_boundary(Border(outline, closed=True))
    for spine in panel.spines.values():
        spine.set(linewidth=0.6, edgecolor=FRAME)
    return panel


def draw_fields(
    panels: list[Any],
    bars: list[Any],
    view: View,
    pair: tuple[Drawn, Drawn],
    fields: tuple[xr.DataArray, xr.DataArray],
    cmap: Any,
) -> None:
    """Draw the panels: one colour scale for both fields, one symmetric about zero for the detail."""
    blocks, parts = pair
    detail = parts.holding(parts.values - blocks.under(parts))  # type: ignore
    main_colours, detail_colours = colours(fields[1], cmap)
    values = np.concatenate([blocks.values.ravel(), parts.values.ravel()])
    limits = robust_limits(values)
    reach = max(*np.abs(robust_limits(detail.values)), ROUNDING * max(np.abs(limits)))
    meshes = [draw_cells(panels[i], view, cells, main_colours, limits) for i, cells in enumerate(pair)]
    meshes.append(draw_cells(panels[2], view, detail, detail_colours, (-reach, reach)))
    sizes = [f"{cells.sizes[0]} {TIMES} {cells.sizes[1]} cells" for cells in pair]
    names = f"Coarse ({sizes[0]})", f"Fine ({sizes[1]})", "Added detail"
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(name, fontsize=12.5, color=INK, pad=7)
    units = str(fields[1].attrs.get("units", fields[0].attrs.get("units", "")))
    draw_bar(bars[0], meshes[1], values, name_of(fields[1], capital=False), units)
    draw_bar(bars[1], meshes[2], detail.values, f"fine {MINUS} its coarse cell", units)


def draw_cells(panel: Any, view: View, cells: Drawn, cmap: Any, limits: tuple[float, float]) -> Any:
    """Draw cells by their corners, without smoothing."""
    from matplotlib.axes import Axes

    if not isinstance(cells, Cells):
        return draw_mesh(panel, view, cells, cmap, limits, MISSING)
    y, x = windows(cells, view, LONGEST_STEP if view.curved else np.inf)
    corners, values = view.project(*np.meshgrid(x.edges, y.edges)), np.ma.masked_invalid(cells.at(y, x))
    low, high = limits
    # The corners are already map coordinates; cartopy's own method would search them for torn cells.
    return Axes.pcolormesh(panel, *corners, values, cmap=cmap, vmin=low, vmax=high, rasterized=True)


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


def colours(field: xr.DataArray, cmap: Any) -> tuple[Any, Any]:
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
    label = f"{name} ({raised(unit)})" if unit else name
    label = textwrap.fill(label, int(inches / 0.071), max_lines=2, placeholder=" ...")
    axes.set_xlabel(label.replace("\u00a0", " "), fontsize=10.5, color=INK, labelpad=4, parse_math=False)


def draw_mesh(panel: Any, view: View, mesh: Mesh, cmap: Any, limits: tuple[float, float], missing: Any) -> Any:
    """Draw the cells with values as polygons on the colour for missing values."""
    from matplotlib.collections import PolyCollection

    lon, lat, values = _polygons(mesh)
    if view.full_circle and not view.polar:
        lon, lat, values = _cut(*_divided(lon, lat, values), view.west, view.east)
    corners = np.stack(view.project(lon, lat), axis=-1)
    panel.set_facecolor(missing)
    # Without anti-aliasing there are no light seams between neighbours.
    style: dict[str, Any] = {"edgecolors": "none", "antialiaseds": False, "rasterized": True}
    cells: Any = PolyCollection(corners, array=values, cmap=cmap, **style)  # type: ignore[arg-type]
    cells.set_clim(*limits)
    panel.add_collection(cells, autolim=False)
    return cells


def _polygons(mesh: Mesh) -> tuple[Array, Array, Array]:
    """Return corners, shapes (n, 4), on one branch per cell, and values of the cells with values, shape (n,).

    If there are more cells than are visible, one value represents several cells.
    """
    rows, columns = (1 + (size - 1) // MOST_POLYGONS for size in mesh.sizes)
    corners = mesh.grid.all_corners()
    arrays = [v[: v.shape[0] // rows * rows, : v.shape[1] // columns * columns] for v in (corners, mesh.values)]
    first, last = slice(None, None, rows), slice(rows - 1, None, rows)
    left, right = slice(None, None, columns), slice(columns - 1, None, columns)
    corner_slices = (first, left, 0), (first, right, 1), (last, right, 2), (last, left, 3)
    rings = np.stack([arrays[0][corner] for corner in corner_slices], axis=-2)
    values = arrays[1][rows // 2 :: rows, columns // 2 :: columns]
    is_known = np.isfinite(values)
    lon, lat = degrees_of(rings[is_known], degrees_of(rings[is_known].sum(axis=-2))[0][:, None])
    return lon, lat, values[is_known]


def _divided(lon: Array, lat: Array, values: Array) -> tuple[Array, Array, Array]:
    """Cut cells that span many degrees, as around a pole, into parts that follow the curves of the map."""
    is_wide = np.ptp(lon, axis=-1) > WIDE
    points = inner_points(unit_vectors(lon[is_wide], lat[is_wide]), *2 * [np.linspace(0, 1, PARTS + 1)])
    rings = np.stack([points[:, :-1, :-1], points[:, :-1, 1:], points[:, 1:, 1:], points[:, 1:, :-1]], axis=-2)
    rings = rings.reshape(-1, 4, 3)
    east, north = degrees_of(rings, degrees_of(rings.sum(axis=-2))[0][:, None])
    # The part that contains the pole itself is smaller than a pixel.
    is_narrow = np.ptp(east, axis=-1) < WIDEST
    east, north = east[is_narrow], north[is_narrow]
    part_values = np.repeat(values[is_wide], PARTS**2)[is_narrow]
    is_kept = ~is_wide
    return (
        np.concatenate([lon[is_kept], east]),
        np.concatenate([lat[is_kept], north]),
        np.concatenate([values[is_kept], part_values]),
    )


def _cut(lon: Array, lat: Array, values: Array, west: float, east: float) -> tuple[Array, Array, Array]:
    """Cut cells that cross the seam of a map into one part on either side."""
    lon = lon - 360.0 * np.floor((lon.mean(axis=-1, keepdims=True) - west) / 360.0)
    is_beyond_east, is_beyond_west = lon.max(axis=-1) > east, lon.min(axis=-1) < west
    copies = np.concatenate([lon[is_beyond_east] - 360.0, lon[is_beyond_west] + 360.0])
    lon = np.clip(np.concatenate([lon, copies]), west, east)
    arrays = [np.concatenate([v, v[is_beyond_east], v[is_beyond_west]]) for v in (lat, values)]
    return lon, arrays[0], arrays[1]


def draw_coast(panels: list[Any], view: View, sftlf: XarrayObject | None) -> None:
    """Draw the coast from an installed file, else from a land fraction, else nothing."""
    path = installed_coast(view.box[1] - view.box[0]) if view.projection is not None else None
    if path is not None:
        import cartopy.crs as ccrs
        from cartopy.io.shapereader import Reader

        shapes = list(Reader(path).geometries())
        for panel in panels:
            panel.add_geometries(shapes, ccrs.PlateCarree(), facecolor="none", edgecolor=INK, linewidth=0.55)
    elif sftlf is not None:
        cells = read_static(sftlf)
        land = cells.holding(np.nan_to_num(cells.values))
        half = 50.0 if land.values.max() > 1.5 else 0.5
        for panel in panels:
            draw_contour(panel, view, land, half)


def installed_coast(width: float) -> Path | None:
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


def relief_level(orog: Drawn | None) -> float | None:
    """Return the round altitude that separates high land from low; None for a plain."""
    land = np.array([]) if orog is None else orog.values[np.isfinite(orog.values)]
    return next((level for level in RELIEF if land.size and 2 * level <= np.percentile(land, 99)), None)


def draw_contour(panel: Any, view: View, cells: Drawn, level: float, linestyles: str = "-") -> None:
    """Draw one contour up to the frame, if the field crosses the level."""
    from matplotlib.axes import Axes

    if not isinstance(cells, Cells) or cells.mapped != view.native:
        x, y, values = _elsewhere(view, cells)
    else:
        x, y, values = _framed(view, cells)
    if (values > level).any() and (values < level).any():
        style: dict[str, Any] = {"colors": INK, "linewidths": 0.55, "linestyles": linestyles}
        Axes.contour(panel, x, y, values, [level], **style)


def _framed(view: View, cells: Cells) -> tuple[Array, Array, Array]:
    """Return map coordinates and values on the axes of the view, extended to its frame."""
    y, x = windows(cells, view)
    values = np.pad(cells.at(y, x), 1, mode="edge")
    if view.full_circle:
        values[:, [0, -1]] = values[:, [0, -1]].mean(axis=1, keepdims=True)
    rows, columns = (np.concatenate([axis.edges[:1], axis.centres, axis.edges[-1:]]) for axis in (y, x))
    return *view.project(*np.meshgrid(columns, rows)), values


def _elsewhere(view: View, cells: Drawn) -> tuple[Array, Array, Any]:
    """Return map coordinates and values of cells on other axes than those of the view; masked outside."""
    west, east, south, north = view.box
    if isinstance(cells, Cells):
        reach = min(0.1 * (east - west) + 1, 180 - 0.5 * (east - west))
        columns = window(cells.x, west - reach, east + reach, np.inf)
        rows = window(cells.y, max(south - 1, -90.0), min(north + 1, 90.0), np.inf)
        values, (lon, lat) = cells.at(rows, columns), np.meshgrid(columns.centres, rows.centres)
    else:
        values, lon, lat = cells.values, cells.grid.lon, cells.grid.lat
        lon = lon - 360.0 * np.round((lon - 0.5 * (west + east)) / 360.0)
    x, y = view.place(lon, lat)
    ring = view.outline()
    (left, low), (right, high) = ring.min(axis=0), ring.max(axis=0)
    slack = 0.05 * (right - left)
    is_finite = np.isfinite(x) & np.isfinite(y)
    is_inside = is_finite & (x > left - slack) & (x < right + slack) & (y > low - slack) & (y < high + slack)
    # Neighbours half the map apart are on either side of the seam.
    is_seam = np.abs(np.diff(np.where(is_finite, x, left), axis=1)) > 0.5 * (right - left)
    is_inside[:, 1:] &= ~is_seam
    return (
        np.where(is_finite, x, left),
        np.where(is_finite, y, low),
        np.ma.masked_array(values, ~is_inside | ~np.isfinite(values)),
    )


def draw_graticules(panels: list[Any], view: View) -> None:
    """Draw meridians and parallels, labelled on outer edges only; or the axes of a plane."""
    for number, panel in enumerate(panels):
        if view.projection is None:
            _draw_plane_axes(panel, view.unit, number)
        elif view.native:
            _draw_native_graticule(panel, view, number)
        else:
            _draw_graticule(panel, view, number)


def _draw_graticule(panel: Any, view: View, number: int) -> None:
    line = {"color": "0.25", "linewidth": 0.4, "alpha": 0.35, "scalex": False, "scaley": False}
    longitudes, latitudes = np.linspace(view.west, view.east, 361), np.linspace(view.south, view.north, 181)
    place, (figure_width, figure_height) = panel.get_position(), panel.figure.get_size_inches()
    for lat in round_degrees(view.south, view.north, min(5, max(2.5, 2.4 * place.height * figure_height))):
        x, y = view.project(longitudes, np.full_like(longitudes, lat))
        panel.plot(x, y, **line)
        if number == 0 and not (view.polar and view.full_circle):
            _label(panel, degrees(lat, "NS"), x[0], y[0], np.array([-1.0, 0.0]))
    for lon in round_degrees(view.west, view.east, max(1.5, place.width * figure_width)):
        panel.plot(*view.project(np.full_like(latitudes, lon), latitudes), **line)
        (x,), (y,) = view.project(np.array([lon]), np.array([view.rim]))
        outward = np.array([x, y]) / np.hypot(x, y) if view.polar else np.array([0.0, -1.0])
        is_between = (outward[0] < -0.6 and number > 0) or (outward[0] > 0.6 and number < 2)
        # A title is above each panel, and other panels are beside it.
        if not view.worldwide and not is_between and outward[1] < 0.6:
            _label(panel, degrees(lon, "EW"), x, y, outward)


def _draw_native_graticule(panel: Any, view: View, number: int) -> None:
    """Draw meridians and parallels on straight axes, labelled at the left and the lower edge."""
    line = {"color": "0.25", "linewidth": 0.4, "alpha": 0.35, "scalex": False, "scaley": False}
    west, east, south, north = view.box
    ring, place = view.outline(), panel.get_position()
    (left, low), (right, high) = ring.min(axis=0), ring.max(axis=0)
    figure_width, figure_height = panel.figure.get_size_inches()
    longitudes, latitudes = (
        np.linspace(west - 5, east + 5, 361),
        np.linspace(max(south - 5, -90), min(north + 5, 90), 181),
    )
    parallels = round_degrees(south, north, min(6, max(2.5, 1.6 * place.height * figure_height)))
    meridians = round_degrees(west, east, min(8, max(2.0, 1.8 * place.width * figure_width)))
    curves = [(longitudes, np.full_like(longitudes, lat)) for lat in parallels] + [
        (np.full_like(latitudes, lon), latitudes) for lon in meridians
    ]
    for lon, lat in curves:
        x, y = view.place(lon, lat)
        # A line that leaves on one side and re-enters on the other is two lines.
        is_seam = np.abs(np.diff(x, append=x[-1:])) > 0.5 * (right - left)
        panel.plot(np.where(is_seam, np.nan, x), y, **line)
    edge = np.linspace(low, high, 400)
    lat = view.locate(np.full_like(edge, left), edge)[1]
    for value in parallels if number == 0 else []:
        for position in _crossings(lat - value, edge)[:1]:
            _label(panel, degrees(value, "NS"), left, position, np.array([-1.0, 0.0]))
    edge = np.linspace(left, right, 400)
    lon = view.locate(edge, np.full_like(edge, low))[0]
    for value in meridians:
        for position in _crossings(np.mod(lon - value + 180, 360) - 180, edge)[:1]:
            _label(panel, degrees(value, "EW"), position, low, np.array([0.0, -1.0]))


def _crossings(values: Array, at: Array) -> list[float]:
    """Return the zero crossings of values; a jump over half a circle does not count."""
    step = np.diff(values)
    cross = (values[:-1] * values[1:] <= 0) & (np.abs(step) < 90) & (step != 0)
    return [float(at[i] - values[i] * (at[i + 1] - at[i]) / step[i]) for i in np.flatnonzero(cross)]


def _draw_plane_axes(panel: Any, unit: str, number: int) -> None:
    names = ("x", "y") if unit == "km" else ("rotated longitude", "rotated latitude")
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "labelpad": 2}
    panel.tick_params(labelsize=9, length=3, width=0.5, color=FRAME, labelcolor=SOFT_INK, labelleft=number == 0)
    panel.set_xlabel(f"{names[0]} ({unit})", **style)
    panel.set_ylabel(f"{names[1]} ({unit})" if number == 0 else "", **style)


def _label(panel: Any, text: str, x: float, y: float, outward: Array) -> None:
    """Write next to a point of the frame, on its outer side."""
    across, up = (int(v) for v in np.round(outward))
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "annotation_clip": False}
    style |= {"ha": ("right", "center", "left")[across + 1], "va": ("top", "center", "bottom")[up + 1]}
    panel.annotate(text, (x, y), xytext=tuple(5 * outward), textcoords="offset points", **style)


def round_degrees(low: float, high: float, number: float) -> Array:
    """Return about ``number`` round values within a range."""
    step = STEPS[np.abs(np.log(STEPS * number / (high - low))).argmin()]
    ticks = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    margin = 0.03 * (high - low)
    return ticks[(ticks > low + margin) & (ticks < high - margin)]
