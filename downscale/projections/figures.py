"""Figures of a validation: maps of biases and of the change signal, annual cycles, quantiles and spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.horizontal import horizontal
from downscale.plot.cells import Cells, choose_view, read_cells
from downscale.plot.charts import LINES, draw_spectrum, label_wavelengths, square_unit
from downscale.plot.maps import add_panel, colour_maps, draw_bar, draw_cells, draw_coast, robust_limits
from downscale.plot.style import INK, MINUS, PALETTE, format_unit, new_figure, style_chart
from downscale.report.page import Picture, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL, GAP, LEFT, HEAD, BAR = 2.6, 0.14, 0.3, 0.75, 0.75  # inches
FLATTEST, TALLEST = 0.45, 1.5  # height of a panel over its width
MONTHS = "JFMAMJJASOND"


def draw_bias_maps(scores: xr.Dataset, name: str, key: str = "mean") -> Figure:
    """Return maps of a statistic of the observations, and of the bias of each candidate.

    Parameters
    ----------
    scores : Dataset
        Result of :func:`~downscale.projections.validation.validate`.
    name, key : str
        A variable and a statistic, such as "mean" or "p98".
    """
    array = scores[f"{name}_{key}_map"]
    labels = [str(label) for label in scores.candidate.values]
    observed, *others = (_map(scores, array.isel(candidate=i)) for i in range(len(labels)))
    biases = [replace(one, values=one.values - observed.values) for one in others]
    title = f"{name}: {array.attrs['long_name']}"
    return _draw_row([observed, *biases], [labels[0], *(f"{label} {MINUS} observations" for label in labels[1:])],
                     title, str(array.attrs["units"]), first_apart=True)  # fmt: skip


def draw_signal_maps(signal: xr.Dataset, name: str, key: str = "mean") -> Figure:
    """Return maps of the change of a statistic of each candidate on the coarse grid, on one scale.

    Parameters
    ----------
    signal : Dataset
        Result of :func:`~downscale.projections.signal.change_signal`.
    name, key : str
        A variable and a statistic; the change is in percent for quantities that vary in proportion.
    """
    percent = f"{name}_{key}_percent"
    array = signal[percent if percent in signal else f"{name}_{key}_change"]
    labels = [str(label) for label in signal.candidate.values]
    maps = [_map(signal, array.isel(candidate=i)) for i in range(len(labels))]
    return _draw_row(maps, labels, f"{name}: {array.attrs['long_name']}", str(array.attrs["units"]), first_apart=False)


def _map(ds: xr.Dataset, array: xr.DataArray) -> Cells:
    field = array.drop_vars("candidate")
    dims = set(field.dims)
    kept = ds.coords.to_dataset()
    kept = kept.drop_vars([name for name in kept.variables if kept[name].dims and not set(kept[name].dims) & dims])
    return read_cells(field, horizontal(kept.assign({str(array.name): field}), guess=True))


def _draw_row(maps: Sequence[Cells], labels: Sequence[str], title: str, units: str, first_apart: bool) -> Figure:
    """Draw maps side by side, with one colour bar, or with one more for the first."""
    view = choose_view(maps[0], maps[0])
    extent = np.ptp(view.outline, axis=0)
    height = PANEL * float(np.clip(extent[1] / extent[0], FLATTEST, TALLEST))
    figure = new_figure(2 * LEFT + len(maps) * PANEL + (len(maps) - 1) * GAP, HEAD + height + BAR)
    panels = []
    for i, label in enumerate(labels):
        panel = add_panel(figure, LEFT + i * (PANEL + GAP), BAR, PANEL, height, view)
        panel.set(xticks=[], yticks=[])
        panel.set_title(label, fontsize=10, color=INK, pad=5, parse_math=False)
        panels.append(panel)
    field_colours, change_colours = colour_maps(maps[0].field, None)
    rest = slice(1, None) if first_apart else slice(None)
    if first_apart:
        limits = robust_limits(maps[0].values)
        mesh = draw_cells(panels[0], view, maps[0], field_colours, limits)
        _bar(figure, mesh, maps[:1], 0, 1, "observations", units)
    if maps[rest]:
        values = np.concatenate([one.values.ravel() for one in maps[rest]])
        largest = float(np.abs(robust_limits(values)).max())
        for panel, one in zip(panels[rest], maps[rest], strict=True):
            mesh = draw_cells(panel, view, one, change_colours, (-largest, largest))
        words = f"candidate {MINUS} observations" if first_apart else "change"
        _bar(figure, mesh, maps[rest], int(first_apart), len(maps), words, units)
    draw_coast(panels, view, None)
    figure.text(LEFT / figure.get_figwidth(), 0.985, title, ha="left", va="top", fontsize=12, color=INK,
                parse_math=False)  # fmt: skip
    return figure


def _bar(figure: Figure, mesh: Any, maps: Sequence[Cells], first: int, last: int, words: str, units: str) -> None:
    count = min(last - first, 2)
    x, width = LEFT + first * (PANEL + GAP), count * PANEL + (count - 1) * GAP
    values = np.concatenate([one.values[np.isfinite(one.values)] for one in maps])
    draw_bar(add_panel(figure, x, BAR - 0.2, width, 0.12), mesh, values, words, units)


def draw_curves(scores: xr.Dataset, name: str) -> Figure:
    """Return a figure of the annual cycle, of errors of quantiles by quantile, and of mean spectra."""
    # A single ring is no line.
    has_spectra = f"{name}_psd" in scores and scores.sizes["ring"] > 1
    figure = new_figure(4.6 * (2 + has_spectra), 3.9, layout="constrained")
    cycle, quantiles, *more = figure.subplots(1, 2 + has_spectra)
    units = format_unit(str(scores[f"{name}_annual_cycle"].attrs["units"]))
    true_quantiles = scores[f"{name}_quantile"].values[0]
    quantiles.axhline(0, color="0.6", linewidth=0.8)
    for i, label in enumerate(map(str, scores.candidate.values)):
        style = _style(i)
        cycle.plot(np.arange(12), scores[f"{name}_annual_cycle"].values[i], label=label, **style)
        if i:
            difference = scores[f"{name}_quantile"].values[i] - true_quantiles
            quantiles.plot(true_quantiles, difference, marker=".", **style)
        for panel in more:
            draw_spectrum(panel, scores["wavenumber"].values, scores[f"{name}_psd"].values[i], **style)
    style_chart(cycle, "Annual cycle", "month", f"{name} ({units})")
    cycle.set_xticks(np.arange(12), MONTHS)
    style_chart(
        quantiles, "Quantiles of daily values", f"observations ({units})", f"candidate {MINUS} observations ({units})"
    )
    for panel in more:
        label_wavelengths(panel)
        power = f"power ({square_unit(str(scores[f'{name}_annual_cycle'].attrs['units']))})"
        style_chart(panel, "Mean power spectrum", "wavelength (km)", power)
    figure.legend(*cycle.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


def _style(number: int) -> dict[str, Any]:
    """Return the line of a candidate; the observations are the first."""
    if number == 0:
        return {"color": INK, "linewidth": 2.4}
    colour = PALETTE[(number - 1) % (len(PALETTE) - 1)]
    return {"color": colour, "linestyle": LINES[(number - 1) % len(LINES)], "linewidth": 1.4}


def draw_pictures(scores: xr.Dataset | None, signal: xr.Dataset | None) -> list[Picture]:
    """Return the pictures of a report: maps and curves of each variable of a validation, and of a change signal."""
    pictures = []
    for name in _names(scores):
        assert scores is not None
        for key, words in (("mean", "the mean"), ("p98", "the 98th percentile")):
            alt = f"Maps of {words} of {name} of the observations, and of the bias of each candidate"
            caption = "Statistics over all days of the validation. Biases have one colour scale."
            pictures.append(Picture(f"{name}: bias of {words}", alt, caption, png(draw_bias_maps(scores, name, key))))
        alt = f"Charts of the annual cycle, the quantiles and the power spectra of {name} by candidate"
        caption = "Area means of monthly means; quantiles of the daily values of all cells; power by wavelength."
        title = f"{name}: annual cycle, quantiles, spectra"
        pictures.append(Picture(title, alt, caption, png(draw_curves(scores, name))))
    for name in _names(signal):
        assert signal is not None
        for key, words in (("mean", "the mean"), ("p98", "the 98th percentile")):
            alt = f"Maps of the change of {words} of {name} in each coarse cell, by candidate"
            caption = "Fine fields are averaged over coarse cells."
            title = f"{name}: change signal of {words}"
            pictures.append(Picture(title, alt, caption, png(draw_signal_maps(signal, name, key))))
    return pictures


def _names(ds: xr.Dataset | None) -> list[str]:
    return [] if ds is None else [str(name) for name in np.atleast_1d(ds.attrs["variables"])]
