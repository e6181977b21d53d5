"""Figures of distributions of values, and of the reliability of ensembles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.plot.blank import blank
from downscale.plot.geography import INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, HIGH = 4.6, 3.3  # inches of a panel
STYLES = ("-", "--", ":", "-.")
Panel = Callable[[Any, xr.Dataset, str], None]


def summary(scores: xr.Dataset, variable: str) -> Figure | None:
    """Return a figure with one row of panels per available score, one column per source.

    The rows are quantiles against those of the reference, relative power in decibels, wet area, and fractions skill
    score by scale. Ensembles add rank histograms, spread beside error, and the CRPS. The last row is the cell
    conservation of every method.

    Returns
    -------
    Figure or None
        None if there is nothing to draw.
    """
    rows = [draw for needed, draw in PANELS if f"{variable}_{needed}" in scores and _some(scores, variable, needed)]
    if not rows:
        return None
    count = scores.sizes["source"]
    figure = blank(WIDE * count + 0.4, HIGH * len(rows) + 0.5, layout="constrained")
    grid = np.asarray(figure.subplots(len(rows), count, squeeze=False))
    for column in range(count):
        here = scores.isel(source=column)
        for panel, draw in zip(grid[:, column], rows, strict=True):
            draw(panel, here, variable)
            panel.tick_params(labelsize=8)
        grid[0, column].set_title(str(here.source.values), fontsize=11, color=INK, parse_math=False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), fontsize=9, frameon=False)
    return figure


def _some(scores: xr.Dataset, variable: str, needed: str) -> bool:
    return bool(np.isfinite(scores[f"{variable}_{needed}"]).any())


def _methods(ds: xr.Dataset) -> list[tuple[int, str, str]]:
    """Return number, label and colour of each method."""
    return [(i, str(label), f"C{i % 10}") for i, label in enumerate(ds.upscaler.values)]


def _quantiles(panel: Any, ds: xr.Dataset, variable: str) -> None:
    true, units = ds[f"{variable}_true_quantile"].values, str(ds[f"{variable}_true_quantile"].attrs["units"])
    panel.plot(true, true, color=INK, linewidth=0.8, label="truth")
    for i, label, colour in _methods(ds):
        panel.plot(true, ds[f"{variable}_quantile"].values[i], marker="o", markersize=4, linewidth=1, color=colour,
                   label=label)  # fmt: skip
    panel.set_xlabel(f"quantile of the truth ({units})", fontsize=9, parse_math=False)
    panel.set_ylabel(f"quantile ({units})", fontsize=9, parse_math=False)


def _decibels(panel: Any, ds: xr.Dataset, variable: str) -> None:
    waves, true = 1e-3 / ds[f"{variable}_wavenumber"].values, ds[f"{variable}_true_power"].values
    panel.axhline(0, color=INK, linewidth=0.8)
    for i, label, colour in _methods(ds):
        made = ds[f"{variable}_power"].values[i]
        some = (made > 0) & (true > 0) & np.isfinite(waves)
        panel.plot(waves[some], 10 * np.log10(made[some] / true[some]), color=colour, linewidth=1.2, label=label)
    panel.set_xscale("log")
    panel.invert_xaxis()
    panel.set_ylim(-20, 20)
    panel.set_xlabel("wavelength (km)", fontsize=9)
    panel.set_ylabel("power over truth (dB)", fontsize=9)


def _bars(score: str, words: str, line: float | str | None = None) -> Panel:
    """Return a function that draws one score of each method."""

    def draw(panel: Any, ds: xr.Dataset, variable: str) -> None:
        given = ds[f"{variable}_{score}"]
        for i, label, colour in _methods(ds):
            panel.barh(i, float(given.values[i]), color=colour, label=label)
        panel.set_yticks([])
        panel.invert_yaxis()
        at = float(ds[f"{variable}_{line}"].values[0]) if isinstance(line, str) else line
        if at is not None:
            panel.axvline(at, color=INK, linewidth=1.2)
        units = str(given.attrs["units"])
        panel.set_xlabel(words if units == "1" else f"{words} ({units})", fontsize=9, parse_math=False)

    return draw


def _law(panel: Any, ds: xr.Dataset, variable: str) -> None:
    _bars("cell_error", "largest relative error of a coarse cell, all members", 1e-6)(panel, ds, variable)
    panel.set_xscale("log")
    panel.set_xlim(1e-17, None)


def _ranks(panel: Any, ds: xr.Dataset, variable: str) -> None:
    shares = ds[f"{variable}_rank_share"].values
    for i, label, colour in _methods(ds):
        known = shares[i][np.isfinite(shares[i])]
        if known.size:
            flat = float(ds[f"{variable}_rank_flatness"].values[i])
            words = label if np.isnan(flat) else f"{label}, p {flat:.2g}"
            edges = np.linspace(0, 1, known.size + 1)
            panel.stairs(known * known.size, edges, color=colour, linewidth=1.4, label=words)
    panel.axhline(1, color=INK, linewidth=0.8)
    panel.set_ylim(0, None)
    panel.legend(fontsize=7, frameon=False)
    panel.set_xlabel("rank of the truth among members", fontsize=9)
    panel.set_ylabel("frequency relative to uniform", fontsize=9)


def _fractions(panel: Any, ds: xr.Dataset, variable: str) -> None:
    scores = ds[f"{variable}_fss"]
    for i, label, colour in _methods(ds):
        for j in range(ds.sizes["threshold"]):
            panel.plot(ds.scale.values, scores.values[i, j], STYLES[j % 4], color=colour, marker=".", label=label)
    panel.set_xscale("log")
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("side of the window (cells)", fontsize=9)
    levels = ", ".join(f"{style} {t:g}" for t, style in zip(ds.threshold.values, STYLES, strict=False))
    panel.set_ylabel(f"fractions skill score ({levels})", fontsize=9, parse_math=False)


def _found(panel: Any, ds: xr.Dataset, variable: str) -> None:
    """Draw recall against precision, with lines of one critical success index."""
    both = np.linspace(0.01, 1, 100)
    for level in (0.2, 0.4, 0.6, 0.8):
        recall = 1 / np.maximum(1 / level + 1 - 1 / both, 1e-9)
        some = (recall <= 1) & (recall > 0) & (1 / level + 1 - 1 / both >= 1)
        panel.plot(both[some], recall[some], color=INK, linewidth=0.5, linestyle=":")
        panel.annotate(f"{level:g}", (both[some][-1], recall[some][-1]), fontsize=7, color=INK, ha="right")
    for i, label, colour in _methods(ds):
        at = float(ds[f"{variable}_event_precision"].values[i]), float(ds[f"{variable}_event_recall"].values[i])
        panel.plot(*at, marker="o", linestyle="", color=colour, label=label)
    panel.set_xlim(0, 1.02)
    panel.set_ylim(0, 1.02)
    panel.set_xlabel("precision of the mask (dotted: critical success index)", fontsize=9)
    panel.set_ylabel("recall", fontsize=9)


def _reliable(panel: Any, ds: xr.Dataset, variable: str) -> None:
    chance = ds.chance.values
    panel.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    for i, label, colour in _methods(ds):
        frequency = ds[f"{variable}_event_frequency"].values[i]
        some = np.isfinite(frequency)
        # A binary mask has no probabilities between 0 and 1.
        if some[1:-1].any():
            panel.plot(chance[some], frequency[some], color=colour, marker=".", linewidth=1.2, label=label)
    panel.set_xlabel("probability of the event", fontsize=9)
    panel.set_ylabel("observed frequency", fontsize=9)


# Score that each row needs, and function that draws it.
PANELS: tuple[tuple[str, Panel], ...] = (
    ("quantile", _quantiles),
    ("power", _decibels),
    ("wet_frequency", _bars("wet_frequency", "share of wet cells", "true_wet_frequency")),
    ("fss", _fractions),
    ("crps", _bars("crps", "continuous ranked probability score")),
    ("spread_skill", _bars("spread_skill", "spread over error of the mean", 1.0)),
    ("rank_share", _ranks),
    ("event_csi", _found),
    ("event_frequency", _reliable),
    ("cell_error", _law),
)
