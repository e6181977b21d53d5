"""Layout and colours of the comparison figure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.errors import OptionError
from downscale.plot.blank import blank
from downscale.plot.cells import Array, Cells, Drawn
from downscale.plot.geography import FRAME, INK, SOFT_INK
from downscale.plot.mesh import draw_mesh
from downscale.plot.view import View, windows
from downscale.plot.words import MINUS, TIMES, name_of, raised

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
    tall = bottom + height + head + (0.6 if subtitle else 0.38)
    figure = blank(total, tall)
    middle = (left + 1.5 * width + gap) / total
    put: dict[str, Any] = {"ha": "center", "va": "top", "parse_math": False}
    figure.text(middle, 1 - 0.16 / tall, "\n".join(lines), fontsize=16, color=INK, **put)
    figure.text(middle, 1 - (head + 0.02) / tall, subtitle, fontsize=10.5, color=SOFT_INK, **put)

    def place(x: float, y: float, w: float, h: float, **options: Any) -> Any:
        return figure.add_axes((x / total, y / tall, w / total, h / tall), **options)

    kind: dict[str, Any] = {"aspect": "equal"} if view.projection is None else {"projection": view.projection}
    panels = [place(left + i * (width + gap), bottom, width, height, **kind) for i in range(3)]
    for panel in panels:
        draw_frame(panel, view, outline)
    both, own = 0.62 * (2 * width + gap), max(0.82 * width, NARROWEST - 0.1)
    centres = left + width + gap / 2, left + 2.5 * width + 2 * gap
    bars = [place(x - w / 2, 0.68, w, 0.14) for x, w in zip(centres, (both, own), strict=True)]
    return figure, panels, bars


def draw_frame(panel: Any, view: View, outline: Array) -> None:
    """Limit a panel to its domain and draw a thin border."""
    from matplotlib.path import Path as Border

    panel.set_xlim(outline[:, 0].min(), outline[:, 0].max())
    panel.set_ylim(outline[:, 1].min(), outline[:, 1].max())
    if view.projection is not None:
        panel.set_boundary(Border(outline, closed=True))
    for spine in panel.spines.values():
        spine.set(linewidth=0.6, edgecolor=FRAME)


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
    own, other = colours(fields[1], cmap)
    both = np.concatenate([blocks.values.ravel(), parts.values.ravel()])
    limits = robust_limits(both)
    reach = max(*np.abs(robust_limits(detail.values)), ROUNDING * max(np.abs(limits)))
    meshes = [draw_cells(panels[i], view, cells, own, limits) for i, cells in enumerate(pair)]
    meshes.append(draw_cells(panels[2], view, detail, other, (-reach, reach)))
    sizes = [f"{cells.sizes[0]} {TIMES} {cells.sizes[1]} cells" for cells in pair]
    names = f"Coarse ({sizes[0]})", f"Fine ({sizes[1]})", "Added detail"
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(name, fontsize=12.5, color=INK, pad=7)
    units = str(fields[1].attrs.get("units", fields[0].attrs.get("units", "")))
    draw_bar(bars[0], meshes[1], both, name_of(fields[1], capital=False), units)
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
    known = values[np.isfinite(values)]
    low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0.0, 1.0)
    if known.size and known.min() >= 0 and low < 0.1 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = 1e-3 * abs(low) or 1.0
        low, high = low - half, high + half
    return float(low), float(high)


def colours(field: xr.DataArray, cmap: Any) -> tuple[Any, Any]:
    """Return the colour maps of a field and of its detail.

    Raises
    ------
    OptionError
        If matplotlib has no such colour map.
    """
    import matplotlib

    name = str(field.attrs.get("standard_name", ""))
    usual, other = next((pair for word, pair in COLOURS.items() if word in name), OTHER_COLOURS)
    own: Any = usual if cmap is None else cmap
    if isinstance(own, str):
        if own not in matplotlib.colormaps:
            raise OptionError(f"expected a colour map of matplotlib, received {own!r}; try 'viridis'")
        own = matplotlib.colormaps[own]
    return own.with_extremes(bad=MISSING), matplotlib.colormaps[other].with_extremes(bad=MISSING)


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
