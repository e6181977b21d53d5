"""Figure of a diagnosis: coverage, response, images, checkerboard, shifts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from downscale.artefacts.diagnosis import Diagnosis
from downscale.plot.style import INK, SOFT_INK, check_path, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, HIGH, DPI = 4.1, 3.5, 140
LOWEST = -80.0
GREYS = ("#c0392b", "0.25", "0.45", "0.6", "0.72")
STYLES = ("-", "-", "--", "-.", ":")


def draw(diagnosis: Diagnosis, path: Path | None = None) -> Figure:
    """Return the figure of a diagnosis, with panels for the available data; ``path`` also writes it."""
    target = check_path(path)
    drawings = [draw_panel for name, draw_panel in PANELS if getattr(diagnosis, name) is not None]
    columns = len(drawings) if len(drawings) < 4 else -(-len(drawings) // 2)
    rows = -(-len(drawings) // columns)
    figure = new_figure(WIDE * columns, HIGH * rows + 0.5, layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for panel, draw_panel in zip(axes, drawings, strict=False):
        draw_panel(panel, diagnosis)
    for panel in axes[len(drawings) :]:
        panel.remove()
    title = f"{diagnosis.kind} {diagnosis.subject}, {' x '.join(map(str, diagnosis.factor))} fine cells in a coarse one"
    figure.suptitle(title, color=INK, fontsize=13, parse_math=False)
    return write_figure(figure, target, DPI)


def _label(panel: Any, title: str, x: str = "", y: str = "") -> None:
    panel.set_title(title, fontsize=10.5, color=INK)
    panel.set_xlabel(x, fontsize=9, color=SOFT_INK)
    panel.set_ylabel(y, fontsize=9, color=SOFT_INK)
    panel.tick_params(labelsize=8)


def _show(panel: Any, values: Any, unit: str = "", **style: Any) -> None:
    """Draw an array of cells with a colour bar."""
    image = panel.imshow(values, interpolation="nearest", **style)
    panel.figure.colorbar(image, ax=panel, shrink=0.8, label=unit).ax.tick_params(labelsize=8)


def _style(number: int) -> dict[str, Any]:
    """Return the style of a line, the subject first."""
    return {"color": GREYS[number % 5], "linestyle": STYLES[number % 5], "linewidth": 1.1 if number else 2.0}


def _coverage(panel: Any, diagnosis: Diagnosis) -> None:
    _show(panel, diagnosis.coverage, cmap="viridis", vmin=0)
    _label(panel, "Coverage: coarse cells that touch a fine one", "fine cell", "fine cell")


def _responses(panel: Any, diagnosis: Diagnosis) -> None:
    curves = diagnosis.responses or {}
    subjects = [label for label in curves if not label.endswith(", images")]
    for i, label in enumerate(subjects):
        x, y = curves[label]
        panel.plot(x, np.maximum(y, LOWEST), label=label, **_style(i))
        if f"{label}, images" in curves:
            x, y = curves[f"{label}, images"]
            image_style = {**_style(i), "linewidth": 1.0, "alpha": 0.55}
            panel.plot(x, np.maximum(y, LOWEST), label=f"{label}: images", **image_style)
    end = max(x[-1] for x, _ in curves.values())
    if end > 0.5:
        # Beyond half a cycle per coarse cell all power is images.
        panel.axvspan(0.5, end, color="0.93", zorder=0)
    panel.set_xlim(0, end)
    panel.set_ylim(LOWEST, 5)
    panel.legend(fontsize=7, frameon=False, loc="lower left")
    _label(panel, "Response", "cycles per coarse cell", "dB")


def _rejection(panel: Any, diagnosis: Diagnosis) -> None:
    table = diagnosis.rejection or {}
    images, count = list(next(iter(table.values()))), len(table)
    for i, (label, values) in enumerate(table.items()):
        x = np.arange(len(images)) + (i - (count - 1) / 2) * 0.8 / count
        panel.bar(x, [values.get(image, np.nan) for image in images], 0.8 / count, label=label, color=GREYS[i % 5])
    panel.set_xticks(range(len(images)), images, rotation=60 if len(images) > 8 else 0)
    panel.axhline(0, color=INK, linewidth=0.6)
    is_field = diagnosis.kind == "field"
    if not is_field:
        panel.legend(fontsize=7, frameon=False, ncols=2)
        panel.set_ylim(0, 1.25 * max(max(values.values()) for values in table.values()))
    title = "Power at images over that around them" if is_field else "Image rejection"
    _label(panel, title, "image (rows, columns)", "dB")


def _piece(panel: Any, diagnosis: Diagnosis) -> None:
    _show(panel, diagnosis.piece, cmap="viridis")
    _label(panel, "Ten coarse cells of the field", "fine cell", "fine cell")


def _power(panel: Any, diagnosis: Diagnosis) -> None:
    board = diagnosis.board
    assert board is not None
    power = 10 * np.log10(np.maximum(np.fft.fftshift(board.power), 1e-30))
    low, high = np.nanquantile(power, [0.05, 0.999])
    rows, columns = board.factor
    extent = (-columns / 2, columns / 2, rows / 2, -rows / 2)
    points = [(n if n <= columns / 2 else n - columns, m if m <= rows / 2 else m - rows) for m, n in board.images]
    _show(panel, power, "dB", cmap="magma", extent=extent, vmin=low, vmax=high, aspect="auto")
    panel.plot(*zip(*points, strict=True), "o", markersize=9, fillstyle="none", color="cyan", markeredgewidth=0.9,
               clip_on=False)  # fmt: skip
    _label(panel, f"Power of the field; images circled: {board.index:+.1f} dB", "cycles per coarse cell")


def _pattern(panel: Any, diagnosis: Diagnosis) -> None:
    board = diagnosis.board
    assert board is not None
    limit = float(np.abs(board.pattern).max()) or 1.0
    tiles = np.tile(board.pattern, (2, 2))
    _show(panel, tiles, cmap="RdBu_r", vmin=-limit, vmax=limit)
    panel.set_xticks(range(0, tiles.shape[1], max(board.factor[1] // 4, 1)))
    panel.set_yticks(range(0, tiles.shape[0], max(board.factor[0] // 4, 1)))
    _label(panel, f"Pattern that repeats (p = {board.p_value:.3f})", "fine cell of two coarse ones")


def _shifts(panel: Any, diagnosis: Diagnosis) -> None:
    for i, (label, (x, y)) in enumerate((diagnosis.shifts or {}).items()):
        panel.plot(x, y, label=label, **_style(i))
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=7, frameon=False)
    _label(panel, "Error of a shifted field", "shift, coarse cells", "error / standard deviation")


# Attribute of a diagnosis that each panel needs, and the function that draws it.
PANELS = (
    ("coverage", _coverage), ("responses", _responses), ("rejection", _rejection), ("piece", _piece),
    ("board", _power), ("board", _pattern), ("shifts", _shifts),
)  # fmt: skip
