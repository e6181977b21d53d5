"""Empty figures, the style of charts, texts on figures, and atomic writing of pictures."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.errors import OutputError, listing
from downscale.io.leases import temporary_beside
from downscale.io.paths import check_target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from downscale.plot.cells import Cells

INK, SOFT_INK, FRAME = "0.15", "0.42", "0.35"
# Okabe and Ito's colours, which are distinguishable with colour blindness, strongest first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MINUS, TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
CELSIUS = ("degc", "deg_c", "degree_c", "degrees_c", "celsius", "degree_celsius", "degrees_celsius")


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return an empty white figure of this size in inches, not registered with pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def style_chart(panel: Any, title: str, x: str, y: str) -> None:
    """Label a chart and its axes, and draw only informative lines."""
    panel.set_title(title, fontsize=12.5, color=INK, loc="left", pad=8, parse_math=False)
    panel.set_xlabel(x, fontsize=11, color=INK, parse_math=False)
    panel.set_ylabel(y, fontsize=11, color=INK, parse_math=False)
    panel.tick_params(labelsize=10, color=FRAME, labelcolor=INK, width=0.5)
    panel.grid(which="major", linewidth=0.4, color="0.85")
    panel.set_axisbelow(True)
    for side, spine in panel.spines.items():
        spine.set(linewidth=0.6, edgecolor=FRAME, visible=side in ("left", "bottom"))


def write_note(panel: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Write a small note at a position in data units."""
    panel.text(x, y, text, **{"fontsize": 9.5, "color": SOFT_INK, "parse_math": False, **style})


def format_unit(unit: str) -> str:
    """Return a unit with exponents as superscripts and non-breaking spaces."""
    if unit.strip().lower() in CELSIUS:
        return "°C"
    digits = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    exponent = r"(?<=[A-Za-z])(?:\^|\*\*)?(-?\d+)|(?<=^10)(-?\d+)"
    return re.sub(exponent, lambda m: (m[1] or m[2]).translate(digits), unit).replace(" ", "\u00a0")


def field_name(field: xr.DataArray, capital: bool) -> str:
    """Return the long name of a field, or the best substitute."""
    attrs = field.attrs
    standard = str(attrs.get("standard_name", "")).replace("_", " ")
    name = str(attrs.get("long_name") or standard or field.name or "field")
    return name[:1].upper() + name[1:] if capital else name


def describe_maps(maps: Iterable[Cells], select: Mapping[str, int], level: float | None) -> str:
    """Return the time, member, ... shown of the whole fields, and the altitude of the dotted contour."""
    words: dict[str, list[str]] = {}
    for cells in maps:
        for name in [*(str(dim) for dim in cells.source.dims if dim not in cells.field.dims), "time"]:
            text = _position_words(cells, name)
            if text is None and cells.source.sizes.get(name, 1) > 1:
                text = f"{name} {select.get(name, 0)}"
            if text is not None and text not in words.setdefault(name, []):
                words[name].append(text)
    contour_text = [] if level is None else [f"dotted: {level:g} m above sea level"]
    # Properties in which the two fields differ are given for both, coarse first.
    texts = [text[0] if len(text) == 1 else f"coarse {text[0]}, fine {text[1]}" for text in words.values()]
    return " · ".join([*texts, *contour_text])


def _position_words(cells: Cells, name: str) -> str | None:
    """Return the position of a map along a dimension: a date if a coordinate has one, else the coordinate's value."""
    coords = {key: v.values[()] for key, v in cells.field.coords.items() if v.ndim == 0}
    if name not in coords:
        return None
    coordinate_names = [key for key, v in cells.source.coords.items() if v.dims == (name,)]
    dates = [key for key in (name, *coordinate_names) if key in coords and is_date(coords[key])]
    return value_words(name, coords[dates[0] if dates else name])


def is_date(value: Any) -> bool:
    """Return whether a value is a date of any calendar."""
    return isinstance(value, np.datetime64) or hasattr(value, "year")


def value_words(name: str, value: Any) -> str:
    """Return a coordinate value as text; dates of any calendar, without a time of day at midnight."""
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[m]")).replace("T", " ").removesuffix(" 00:00")
    if not hasattr(value, "year"):
        return f"{name} {value:g}" if isinstance(value, (float, np.floating)) else f"{name} {value}"
    date = value.isoformat(" ", "minutes").removesuffix(" 00:00")
    calendar = getattr(value, "calendar", "standard")
    is_usual = calendar in ("standard", "gregorian", "proleptic_gregorian")
    return date if is_usual else f"{date} ({calendar} calendar)"


def degree_label(value: float, letters: str) -> str:
    """Return a latitude (letters "NS") or longitude ("EW") as text."""
    value = (value + 180) % 360 - 180 if letters == "EW" else value
    letter = "" if value == 0 or abs(value) == 180 else letters[int(value < 0)]
    return f"{abs(value):g}°{letter}"


def check_path(path: str | Path | None, inputs: Iterable[Any] = ()) -> Path | None:
    """Return a path that can be written, checked before any work is done; an existing picture is replaced."""
    from matplotlib.backend_bases import FigureCanvasBase

    if path is None:
        return None
    path = Path(path)
    if not path.parent.is_dir():
        raise OutputError(f"expected an existing folder for the map, received '{path.parent}'; create it")
    if path.is_dir():
        raise OutputError(f"expected a file name for the map, received the folder '{path}'; add map.png")
    target = check_target(path, True, inputs)
    kinds = FigureCanvasBase.get_supported_filetypes()
    if _kind(path) not in kinds:
        raise OutputError(f"expected a map file of type {listing(kinds)}, received '{path.name}'; use .png")
    return target


def _kind(path: Path) -> str:
    return path.suffix[1:].lower() or "png"


def write_figure(figure: Figure, path: Path | None, dpi: int) -> Figure:
    """Write a figure, if there is a path, under a temporary name that is then renamed, and return it."""
    if path is None:
        return figure
    try:
        with temporary_beside(path) as scratch, scratch.open("wb") as stream, warnings.catch_warnings():
            # A title with characters that the font lacks is drawn as boxes; the figure is still useful.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(stream, format=_kind(path), dpi=dpi, facecolor="white")
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"expected to write the map '{path}', received: {reason}; choose another place") from error
    return figure
