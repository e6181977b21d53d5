"""Coastlines, orography contours and graticules of a panel, without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from downscale.cf.horizontal import XarrayObject
from downscale.plot.cells import Array, Cells, Drawn, read_static, window
from downscale.plot.view import View, windows
from downscale.plot.words import degrees

INK, SOFT_INK, FRAME = "0.15", "0.42", "0.35"
STEPS = np.array([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 90])  # degrees between drawn lines
RELIEF = (2000.0, 1000.0, 500.0, 200.0, 100.0)  # m


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
        what = {"config": config, "category": "physical", "name": "coastline", "resolution": resolution}
        source = Downloader.from_config(("shapefiles", "natural_earth", resolution, "physical", "coastline"))
        for path in (source.pre_downloaded_path(what), source.target_path(what)):
            if path is not None and Path(path).exists():
                return Path(path)
    return None


def relief_level(orog: Drawn | None) -> float | None:
    """Return the round altitude that separates high land from low; None for a plain."""
    land = np.array([]) if orog is None else orog.values[np.isfinite(orog.values)]
    return next((level for level in RELIEF if land.size and 2 * level <= np.percentile(land, 99)), None)


def draw_relief(panel: Any, view: View, orog: Drawn | None, level: float | None) -> None:
    """Draw one altitude as a dotted contour."""
    if orog is not None and level is not None:
        draw_contour(panel, view, orog, level, linestyles=":")


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
    known = np.isfinite(x) & np.isfinite(y)
    inside = known & (x > left - slack) & (x < right + slack) & (y > low - slack) & (y < high + slack)
    # Neighbours half the map apart are on either side of the seam.
    jump = np.abs(np.diff(np.where(known, x, left), axis=1)) > 0.5 * (right - left)
    inside[:, 1:] &= ~jump
    return np.where(known, x, left), np.where(known, y, low), np.ma.masked_array(values, ~inside | ~np.isfinite(values))


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
    along, up = np.linspace(view.west, view.east, 361), np.linspace(view.south, view.north, 181)
    place, (wide, tall) = panel.get_position(), panel.figure.get_size_inches()
    for lat in round_degrees(view.south, view.north, min(5, max(2.5, 2.4 * place.height * tall))):
        x, y = view.project(along, np.full_like(along, lat))
        panel.plot(x, y, **line)
        if number == 0 and not (view.polar and view.full_circle):
            _label(panel, degrees(lat, "NS"), x[0], y[0], np.array([-1.0, 0.0]))
    for lon in round_degrees(view.west, view.east, max(1.5, place.width * wide)):
        panel.plot(*view.project(np.full_like(up, lon), up), **line)
        (x,), (y,) = view.project(np.array([lon]), np.array([view.rim]))
        outward = np.array([x, y]) / np.hypot(x, y) if view.polar else np.array([0.0, -1.0])
        between = (outward[0] < -0.6 and number > 0) or (outward[0] > 0.6 and number < 2)
        # A title is above each panel, and other panels are beside it.
        if not view.worldwide and not between and outward[1] < 0.6:
            _label(panel, degrees(lon, "EW"), x, y, outward)


def _draw_native_graticule(panel: Any, view: View, number: int) -> None:
    """Draw meridians and parallels on straight axes, labelled at the left and the lower edge."""
    line = {"color": "0.25", "linewidth": 0.4, "alpha": 0.35, "scalex": False, "scaley": False}
    west, east, south, north = view.box
    ring, place = view.outline(), panel.get_position()
    (left, low), (right, high) = ring.min(axis=0), ring.max(axis=0)
    wide, tall = panel.figure.get_size_inches()
    along, up = np.linspace(west - 5, east + 5, 361), np.linspace(max(south - 5, -90), min(north + 5, 90), 181)
    parallels = round_degrees(south, north, min(6, max(2.5, 1.6 * place.height * tall)))
    meridians = round_degrees(west, east, min(8, max(2.0, 1.8 * place.width * wide)))
    ways = [(along, np.full_like(along, lat)) for lat in parallels] + [(np.full_like(up, lon), up) for lon in meridians]
    for lon, lat in ways:
        x, y = view.place(lon, lat)
        # A line that leaves on one side and re-enters on the other is two lines.
        torn = np.abs(np.diff(x, append=x[-1:])) > 0.5 * (right - left)
        panel.plot(np.where(torn, np.nan, x), y, **line)
    edge = np.linspace(low, high, 400)
    lat = view.locate(np.full_like(edge, left), edge)[1]
    for value in parallels if number == 0 else []:
        for at in _crossings(lat - value, edge)[:1]:
            _label(panel, degrees(value, "NS"), left, at, np.array([-1.0, 0.0]))
    edge = np.linspace(left, right, 400)
    lon = view.locate(edge, np.full_like(edge, low))[0]
    for value in meridians:
        for at in _crossings(np.mod(lon - value + 180, 360) - 180, edge)[:1]:
            _label(panel, degrees(value, "EW"), at, low, np.array([0.0, -1.0]))


def _crossings(values: Array, at: Array) -> list[float]:
    """Return the zero crossings of values; a jump over half a circle does not count."""
    step = np.diff(values)
    cross = (values[:-1] * values[1:] <= 0) & (np.abs(step) < 90) & (step != 0)
    return [float(at[i] - values[i] * (at[i + 1] - at[i]) / step[i]) for i in np.flatnonzero(cross)]


def _draw_plane_axes(panel: Any, unit: str, number: int) -> None:
    names = ("x", "y") if unit == "km" else ("rotated longitude", "rotated latitude")
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "labelpad": 2}
    panel.tick_params(
        labelsize=9, length=3, width=0.5, color=FRAME, labelcolor=SOFT_INK, labelleft=number == 0
    )
    panel.set_xlabel(f"{names[0]} ({unit})", **style)
    panel.set_ylabel(f"{names[1]} ({unit})" if number == 0 else "", **style)


def _label(panel: Any, text: str, x: float, y: float, outward: Array) -> None:
    """Write next to a point of the frame, on its outer side."""
    across, up = (int(v) for v in np.round(outward))
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "annotation_clip": False}
    style |= {"ha": ("right", "center", "left")[across + 1], "va": ("top", "center", "bottom")[up + 1]}
    panel.annotate(text, (x, y), xytext=tuple(5 * outward), textcoords="offset points", **style)


def round_degrees(low: float, high: float, number: float) -> Array:
    """Return about ``number`` round values within a range.

    Examples
    --------
    >>> round_degrees(14.5, 60.5, 4)
    array([20., 30., 40., 50.])
    """
    step = STEPS[np.abs(np.log(STEPS * number / (high - low))).argmin()]
    ticks = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    margin = 0.03 * (high - low)
    return ticks[(ticks > low + margin) & (ticks < high - margin)]
