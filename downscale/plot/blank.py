"""Empty figures, and the common style of charts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from downscale.plot.geography import FRAME, INK, SOFT_INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which are distinguishable with colour blindness, strongest first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def blank(width: float, height: float, **options: Any) -> Figure:
    """Return an empty white figure of this size in inches, not registered with pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor="white", **options)
    FigureCanvasAgg(figure)
    return figure


def tidy(panel: Any, title: str, x: str, y: str) -> None:
    """Label a chart and its axes, and draw only informative lines."""
    panel.set_title(title, fontsize=12.5, color=INK, loc="left", pad=8, parse_math=False)
    panel.set_xlabel(x, fontsize=11, color=INK, parse_math=False)
    panel.set_ylabel(y, fontsize=11, color=INK, parse_math=False)
    panel.tick_params(labelsize=10, color=FRAME, labelcolor=INK, width=0.5)
    panel.grid(which="major", linewidth=0.4, color="0.85")
    panel.set_axisbelow(True)
    for side, spine in panel.spines.items():
        spine.set(linewidth=0.6, edgecolor=FRAME, visible=side in ("left", "bottom"))


def note(panel: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Write a small note at a position in data units."""
    panel.text(x, y, text, **{"fontsize": 9.5, "color": SOFT_INK, "parse_math": False, **style})
