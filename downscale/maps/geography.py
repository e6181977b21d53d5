"""Coastlines, relief and graticule; nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from downscale.io.cf import XarrayObject
from downscale.maps.cells import Array, Cells, read_static
from downscale.maps.view import View, windows
from downscale.maps.words import degrees

SOFT_INK = 0


def draw_coast(panel: Any, view: View, sftlf: XarrayObject | None) -> None:
    path = installed_coast(view.east - view.west) if view.projection is not None else None
    if path is not None:
        import cartopy.crs as ccrs
        from cartopy.io.shapereader import Reader

        shapes = list(Reader(path).geometries())
        panel.add_geometries(shapes, ccrs.PlateCarree(), facecolor="none", edgecolor=INK, linewidth=0.5)
    elif sftlf is not None:
        cells = read_static(sftlf)
        land = Cells(np.nan_to_num(cells.values), cells.y, cells.x)
        half = 50.0 if land.values.max() > 1.5 else 0.5
        draw_contour(panel, view, land, half, colors=INK, linewidths=0.55)


def installed_coast(width: float) -> Path | None:
    """Find a Natural Earth coastline that is on this computer already; cartopy would download a missing one."""
    from cartopy import config
    from cartopy.io import Downloader

    for resolution in ("110m", "50m", "10m") if width > 120 else ("50m", "10m", "110m"):
        what = {"config": config, "category": "physical", "name": "coastline", "resolution": resolution}
        source = Downloader.from_config(("shapefiles", "natural_earth", resolution, "physical", "coastline"))
        for path in (source.pre_downloaded_path(what), source.target_path(what)):
            if path is not None and Path(path).exists():
                return Path(path)
    return None


def draw_contour(panel: Any, view: View, cells: Cells, level: float, **style: Any) -> None:
    from matplotlib.axes import Axes

    y, x = windows(cells, view)
    values = np.pad(cells.at(y, x), 1, mode="edge")
    # Out to the frame: a contour through centres alone would end half a cell before it.
    rows, columns = (np.concatenate([axis.edges[:1], axis.centres, axis.edges[-1:]]) for axis in (y, x))
    if (values > level).any() and (values < level).any():
        Axes.contour(panel, *view.project(*np.meshgrid(columns, rows)), values, [level], **style)


def draw_graticule(panel: Any, view: View, first: bool) -> None:
    if view.projection is None:
        names = ("x", "y") if view.unit == "km" else ("rotated longitude", "rotated latitude")
        style = {"fontsize": 9, "color": SOFT_INK, "labelpad": 2}
        panel.tick_params(labelsize=9, length=3, width=0.5, color=FRAME, labelcolor=SOFT_INK, labelleft=first)
        panel.set_xlabel(f"{names[0]} ({view.unit})", **style)
        panel.set_ylabel(f"{names[1]} ({view.unit})" if first else "", **style)
        return
    line = {"color": "0.25", "linewidth": 0.4, "alpha": 0.35, "scalex": False, "scaley": False}
    along, up = np.linspace(view.west, view.east, 361), np.linspace(view.south, view.north, 181)
    whole_pole, world = view.polar and view.full_circle, type(view.projection).__name__ == "EqualEarth"
    shape = panel.get_position().width * panel.figure.get_figwidth() / 4
    for lat in round_degrees(view.south, view.north, 5):
        x, y = view.project(along, np.full_like(along, lat))
        panel.plot(x, y, **line)
        if first and not whole_pole:
            write_label(panel, degrees(lat, "NS"), x[0], y[0], (-1, 0))
    for lon in round_degrees(view.west, view.east, max(2, 5 * shape)):
        x, y = view.project(np.full_like(up, lon), up)
        panel.plot(x, y, **line)
        x, y = view.project(np.array([lon]), np.array([view.rim]))
        outward = (x[0], y[0]) / np.hypot(x[0], y[0]) if view.polar else (0, -1)
        if not world and outward[1] < 0.6:
            write_label(panel, degrees(lon, "EW"), x[0], y[0], outward)


def write_label(panel: Any, text: str, x: float, y: float, outward: Any) -> None:
    """Write beside a point of the frame, on its outer side."""
    across, up = (int(np.round(v)) for v in outward)
    sides = {"ha": ("right", "center", "left")[across + 1], "va": ("top", "center", "bottom")[up + 1]}
    shift = (4 * outward[0], 4 * outward[1])
    panel.annotate(
        text, (x, y), xytext=shift, textcoords="offset points", fontsize=9, color=SOFT_INK, annotation_clip=False, **sides
    )


def round_degrees(low: float, high: float, number: float) -> Array:
    """Round values strictly inside a range, about ``number`` of them."""
    step = STEPS[np.abs(np.log(STEPS * number / (high - low))).argmin()]
    ticks = step * np.arange(np.ceil(low / step), np.floor(high / step) + 1)
    margin = 0.02 * (high - low)
    return ticks[(ticks > low + margin) & (ticks < high - margin)]
