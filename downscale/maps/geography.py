"""Coastlines, relief and graticule of one panel; nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from downscale.io.cf import XarrayObject
from downscale.maps.cells import Array, Cells, read_static
from downscale.maps.view import View, windows
from downscale.maps.words import degrees

INK, SOFT_INK, FRAME = "0.15", "0.42", "0.35"
STEPS = np.array([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 60, 90])  # degrees between drawn lines
RELIEF = (2000.0, 1000.0, 500.0, 200.0, 100.0)  # m


def draw_coast(panels: list[Any], view: View, sftlf: XarrayObject | None) -> None:
    """Draw the coast from an installed file, else from a land fraction, else not at all."""
    path = installed_coast(view.east - view.west) if view.projection is not None else None
    if path is not None:
        import cartopy.crs as ccrs
        from cartopy.io.shapereader import Reader

        shapes = list(Reader(path).geometries())
        for panel in panels:
            panel.add_geometries(shapes, ccrs.PlateCarree(), facecolor="none", edgecolor=INK, linewidth=0.55)
    elif sftlf is not None:
        cells = read_static(sftlf)
        land = Cells(np.nan_to_num(cells.values), cells.y, cells.x)
        half = 50.0 if land.values.max() > 1.5 else 0.5
        for panel in panels:
            draw_contour(panel, view, land, half)


def installed_coast(width: float) -> Path | None:
    """Find a Natural Earth coastline on this computer; cartopy by itself would download a missing one."""
    from cartopy import config
    from cartopy.io import Downloader

    for resolution in ("110m", "50m", "10m") if width > 120 else ("50m", "10m", "110m"):
        what = {"config": config, "category": "physical", "name": "coastline", "resolution": resolution}
        source = Downloader.from_config(("shapefiles", "natural_earth", resolution, "physical", "coastline"))
        for path in (source.pre_downloaded_path(what), source.target_path(what)):
            if path is not None and Path(path).exists():
                return Path(path)
    return None


def relief_level(orog: Cells | None) -> float | None:
    """Return the round altitude that parts high land from low; None for a plain."""
    land = np.array([]) if orog is None else orog.values[np.isfinite(orog.values)]
    return next((level for level in RELIEF if land.size and 2 * level <= np.percentile(land, 99)), None)


def draw_relief(panel: Any, view: View, orog: Cells | None, level: float | None) -> None:
    """Draw one altitude as a dotted contour."""
    if orog is not None and level is not None:
        draw_contour(panel, view, orog, level, linestyles=":")


def draw_contour(panel: Any, view: View, cells: Cells, level: float, linestyles: str = "-") -> None:
    """Draw one contour out to the frame; nothing where the level is not crossed."""
    from matplotlib.axes import Axes

    y, x = windows(cells, view)
    values = np.pad(cells.at(y, x), 1, mode="edge")
    if view.full_circle:
        values[:, [0, -1]] = values[:, [0, -1]].mean(axis=1, keepdims=True)
    rows, columns = (np.concatenate([axis.edges[:1], axis.centres, axis.edges[-1:]]) for axis in (y, x))
    if (values > level).any() and (values < level).any():
        style: dict[str, Any] = {"colors": INK, "linewidths": 0.55, "linestyles": linestyles}
        Axes.contour(panel, *view.project(*np.meshgrid(columns, rows)), values, [level], **style)


def draw_graticules(panels: list[Any], view: View) -> None:
    """Draw meridians and parallels, with degrees on outer edges only; or the axes of a plane."""
    for number, panel in enumerate(panels):
        if view.projection is None:
            _draw_plane_axes(panel, view.unit, number)
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
        # Above a panel stands its title, between panels stand their neighbours.
        if not view.worldwide and not between and outward[1] < 0.6:
            _label(panel, degrees(lon, "EW"), x, y, outward)


def _draw_plane_axes(panel: Any, unit: str, number: int) -> None:
    names = ("x", "y") if unit == "km" else ("rotated longitude", "rotated latitude")
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "labelpad": 2}
    panel.tick_params(
        labelsize=9, length=3, width=0.5, color=FRAME, labelcolor=SOFT_INK, labelleft=number == 0
    )
    panel.set_xlabel(f"{names[0]} ({unit})", **style)
    panel.set_ylabel(f"{names[1]} ({unit})" if number == 0 else "", **style)


def _label(panel: Any, text: str, x: float, y: float, outward: Array) -> None:
    """Write beside a point of the frame, on its outer side."""
    across, up = (int(v) for v in np.round(outward))
    style: dict[str, Any] = {"fontsize": 9, "color": SOFT_INK, "annotation_clip": False}
    style |= {"ha": ("right", "center", "left")[across + 1], "va": ("top", "center", "bottom")[up + 1]}
    panel.annotate(text, (x, y), xytext=tuple(5 * outward), textcoords="offset points", **style)


def round_degrees(low: float, high: float, number: float) -> Array:
    """Return about ``number`` round values inside a range.

    Examples
    --------
    >>> round_degrees(14.5, 60.5, 4)
    array([20., 30., 40., 50.])
    """
    step = STEPS[np.abs(np.log(STEPS * number / (high - low))).argmin()]
    ticks = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    margin = 0.03 * (high - low)
    return ticks[(ticks > low + margin) & (ticks < high - margin)]
