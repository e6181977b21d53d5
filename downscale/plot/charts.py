"""Power spectra of fields on grids of any resolution, and rank and PIT histograms of ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from downscale.cf.horizontal import Horizontal, XarrayObject
from downscale.errors import InputError, OptionError
from downscale.fields.gradient import Spacing
from downscale.fields.spectrum import mean_steps, radial_power, rings, taper
from downscale.plot.cells import Array, find_field
from downscale.plot.style import (
    MINUS,
    PALETTE,
    check_path,
    field_name,
    format_unit,
    new_figure,
    style_chart,
    write_figure,
    write_note,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", "-.", ":")
MOST_MAPS = 24
NORMAL_95 = 1.96


def power_spectrum(field: XarrayObject) -> tuple[Array, Array]:
    """Return wavenumbers (cycles per metre) and the mean spectral density, units of the field squared times m2.

    The density is the power of a map times the area of its cells, averaged over rings of equal wavenumber and over all
    maps (an even sample if there are many). Grids of different resolution are therefore on one scale. Edges are tapered
    by Hann's window; gaps count as zero.

    Raises
    ------
    ShapeError
        If a map has fewer than 4 x 4 cells, or is so much longer than wide that no ring is resolved.

    Examples
    --------
    >>> import downscale
    >>> wave, power = power_spectrum(downscale.sample.open("north_america"))
    >>> wave.shape == power.shape
    True
    """
    return _density(*find_field(field))


def _density(field: xr.DataArray, axes: Horizontal) -> tuple[Array, Array]:
    spacing = Spacing.of(axes.grid)
    step = mean_steps(spacing)
    fields = field.transpose(..., *axes.dims).data
    shape = (fields.shape[-2], fields.shape[-1])
    fields = fields.reshape((-1, *shape))
    table, window = rings(shape, step), taper(shape, spacing.periodic)
    total, count = np.zeros(table.wavenumber.size), 0
    for index in np.unique(np.linspace(0, len(fields) - 1, min(len(fields), MOST_MAPS)).round().astype(int)):
        values = np.asarray(fields[index], np.float64)
        valid = np.isfinite(values)
        if valid.any():
            total, count = total + radial_power(values, valid, window, table), count + 1
    return table.wavenumber, total / max(count, 1) * step[0] * step[1]


def spectrum(
    fields: Mapping[str, XarrayObject],
    *,
    path: str | Path | None = None,
    title: str | None = None,
    slope: float | None = None,
    dpi: int = 150,
) -> Figure:
    """Plot the power spectra of several fields against wavelength.

    Parameters
    ----------
    fields : mapping of label to DataArray or Dataset of one field
        In the same unit, on grids of any resolution; the shortest resolved wave of the first one is marked.
    path : path, optional
        Output file; it appears when complete.
    title : str, optional
        By default the ``long_name`` of the first field.
    slope : float, optional
        Exponent of a reference line through the first spectrum. The Sobolev kernel of order m assumes fields with
        exponent -(2 m + 1), that is -3.5.
    dpi : int
        Resolution of the file in dots per inch.

    Returns
    -------
    matplotlib.figure.Figure
        One panel; it is not registered with pyplot.

    Raises
    ------
    InputError, OptionError, OutputError
        If units differ, a field is constant, there is no field, or the path is not usable.
    """
    target = check_path(path)
    if not fields:
        raise OptionError("expected fields by label, received none; give {'coarse': ..., 'fine': ...}")
    fields_by_label = {label: find_field(field) for label, field in fields.items()}
    units = {str(field.attrs["units"]) for field, _ in fields_by_label.values() if "units" in field.attrs}
    if len(units) > 1:
        raise InputError(f"expected fields in one unit, received {' and '.join(sorted(units))}; convert one")
    densities = {label: _density(*pair) for label, pair in fields_by_label.items()}
    reference = next((density for density in densities.values() if (density[1] > 0).any()), None)
    if reference is None:
        raise InputError(
            f"expected fields that vary, received constant ones ({', '.join(fields_by_label)}); choose others"
        )
    figure = new_figure(7.6, 5.0, layout="constrained")
    panel = figure.add_subplot()
    first = next(iter(fields_by_label.values()))
    for i, (label, (wave, power)) in enumerate(densities.items()):
        style = {"linestyle": LINES[i % len(LINES)], "color": PALETTE[i % len(PALETTE)], "linewidth": 2.0}
        draw_spectrum(panel, wave, 1e-6 * power, label=label, **style)
    if slope is not None:
        _draw_slope(panel, *reference, slope)
    _mark_shortest(panel, first[1], next(iter(fields_by_label)))
    label_wavelengths(panel)
    squared = square_unit(next(iter(units), ""))
    style_chart(
        panel, title or field_name(first[0], capital=True), "wavelength (km)", f"spectral density ({squared} km²)"
    )
    panel.legend(frameon=False, fontsize=10.5, loc="lower left")
    return write_figure(figure, target, dpi)


def draw_spectrum(panel: Any, wavenumber: Array, power: Array, **style: Any) -> None:
    """Draw positive power against wavelength in kilometres, on logarithmic axes."""
    valid = (wavenumber > 0) & (power > 0)
    panel.loglog(1e-3 / wavenumber[valid], power[valid], **style)


def label_wavelengths(panel: Any) -> None:
    """Let wavelengths fall from left to right, with plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    panel.invert_xaxis()
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())


def square_unit(units: str) -> str:
    """Return the square of units as text of a figure, such as K² or (m s⁻¹)²."""
    unit = format_unit(units)
    return f"({unit})²" if len(unit.split()) > 1 else f"{unit}²"


def _draw_slope(panel: Any, wave: Array, power: Array, slope: float) -> None:
    """Draw a straight line above the middle of a spectrum."""
    middle = int(np.flatnonzero(power > 0)[np.count_nonzero(power > 0) // 3])
    ends = np.array([wave[0], 4 * wave[-1]])
    line = 4e-6 * power[middle] * (ends / wave[middle]) ** slope
    panel.plot(1e-3 / ends, line, color="0.55", linewidth=1.0, linestyle=(0, (6, 3)), zorder=1)
    text = f"wavenumber to the power {slope:g}".replace("-", MINUS)
    write_note(panel, 1e-3 / ends[0], 1.2 * line[0], text, va="bottom", ha="left")


def _mark_shortest(panel: Any, axes: Horizontal, label: str) -> None:
    """Mark the shortest resolved wave of a grid."""
    shortest = 2e-3 * max(mean_steps(Spacing.of(axes.grid)))
    panel.axvline(shortest, color="0.55", linewidth=0.8)
    transform = panel.get_xaxis_transform()
    write_note(panel, shortest, 0.98, f" shortest wave of {label}", transform=transform, va="top", ha="left")


def rank_histogram(
    counts: ArrayLike | Mapping[str, ArrayLike], *, path: str | Path | None = None, title: str = "Rank of the truth",
    dpi: int = 150,
) -> Figure:  # fmt: skip
    """Plot how often the truth had each rank among the members: a reliable ensemble has a flat histogram.

    A U shape means too little spread, a dome too much, a slope a bias.

    Parameters
    ----------
    counts : array, shape (n_members + 1,), or mapping of label to such arrays
        Occurrences of each rank (or their weights), from below all members to above all; one panel per label.
    path, title, dpi
        Output file, if any; heading; dots per inch.

    Returns
    -------
    matplotlib.figure.Figure
        Frequencies relative to a flat histogram. The dashed lines enclose 95 % of the bars of a reliable ensemble if
        occurrences are independent (neighbouring cells are not: then the band is too narrow).

    Raises
    ------
    InputError
        If there are fewer than two ranks, a negative or missing count, or none at all.

    References
    ----------
    Hamill, T. M. (2001), Interpretation of rank histograms for verifying ensemble forecasts, Monthly Weather Review
    129, 550-560.
    """
    return _draw_histograms(counts, path, title, "rank of the truth among the members", False, dpi)


def pit_histogram(
    counts: ArrayLike | Mapping[str, ArrayLike], *, path: str | Path | None = None,
    title: str = "Probability integral transform", dpi: int = 150,
) -> Figure:  # fmt: skip
    """Plot how often the predicted probability of staying below the truth is in each of equal classes from 0 to 1.

    Parameters and interpretation are those of :func:`rank_histogram`.

    Raises
    ------
    InputError
        As for :func:`rank_histogram`.

    References
    ----------
    Gneiting, T., Balabdaoui, F. and Raftery, A. E. (2007), Probabilistic forecasts, calibration and sharpness, Journal
    of the Royal Statistical Society B 69, 243-268.
    """
    return _draw_histograms(counts, path, title, "predicted probability of staying below the truth", True, dpi)


def _draw_histograms(counts: Any, path: Any, title: str, words: str, unit: bool, dpi: int) -> Figure:
    target = check_path(path)
    counts_by_label = counts if isinstance(counts, Mapping) else {"": counts}
    values_by_label = {label: _check_counts(label, values) for label, values in counts_by_label.items()}
    figure = new_figure(1.0 + 4.6 * len(values_by_label), 4.0, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(values_by_label), sharey=True, squeeze=False)[0])
    for i, (panel, (label, values)) in enumerate(zip(panels, values_by_label.items(), strict=True)):
        _draw_bars(panel, values, unit, i)
        heading = f"{title}: {label}" if label and len(values_by_label) == 1 else label or title
        style_chart(panel, heading, words, "frequency / flat" if i == 0 else "")
        panel.grid(visible=False, axis="x")
    if len(values_by_label) > 1:
        figure.suptitle(title, fontsize=14, parse_math=False)
    return write_figure(figure, target, dpi)


def _check_counts(label: str, counts: Any) -> np.ndarray:
    values = np.asarray(counts, np.float64)
    prefix = f"{label}: " if label else ""
    if values.ndim != 1 or values.size < 2:
        raise InputError(f"{prefix}expected the counts of two or more ranks, received shape {values.shape}")
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise InputError(f"{prefix}expected counts of zero or more, some above, received {values.tolist()}")
    return values


def _draw_bars(panel: Any, values: np.ndarray, unit: bool, number: int) -> None:
    count, total = values.size, values.sum()
    edges = np.linspace(0, 1, count + 1) if unit else np.arange(count + 1) - 0.5
    relative = values / total * count
    band = NORMAL_95 * np.sqrt((count - 1) / total)
    panel.bar(edges[:-1], relative, np.diff(edges), align="edge", color=PALETTE[number % len(PALETTE)],
              edgecolor="white", linewidth=0.6)  # fmt: skip
    panel.axhline(1.0, color="0.15", linewidth=1.2)
    for edge in (max(1 - band, 0), 1 + band):
        panel.axhline(edge, color="0.15", linewidth=0.9, linestyle=(0, (4, 3)))
    panel.set_xlim(edges[0], edges[-1])
    if not unit:
        panel.locator_params(axis="x", integer=True)
    panel.set_ylim(0, max(1.45, 1.12 * relative.max(), 1.1 * (1 + band)))
    write_note(panel, 0.99, 1.01, f"n = {total:,.0f}", transform=panel.transAxes, ha="right", va="bottom")
