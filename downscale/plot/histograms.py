"""Rank and PIT histograms of ensembles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from downscale.errors import InputError
from downscale.plot.blank import PALETTE, blank, note, tidy
from downscale.plot.output import check_path, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NORMAL_95 = 1.96


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
    return _draw(counts, path, title, "rank of the truth among the members", False, dpi)


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
    return _draw(counts, path, title, "predicted probability of staying below the truth", True, dpi)


def _draw(counts: Any, path: Any, title: str, words: str, unit: bool, dpi: int) -> Figure:
    target = None if path is None else check_path(Path(path))
    named = counts if isinstance(counts, Mapping) else {"": counts}
    checked = {label: _checked(label, values) for label, values in named.items()}
    figure = blank(1.0 + 4.6 * len(checked), 4.0, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(checked), sharey=True, squeeze=False)[0])
    for i, (panel, (label, values)) in enumerate(zip(panels, checked.items(), strict=True)):
        _bars(panel, values, unit, i)
        heading = f"{title}: {label}" if label and len(checked) == 1 else label or title
        tidy(panel, heading, words, "frequency / flat" if i == 0 else "")
        panel.grid(visible=False, axis="x")
    if len(checked) > 1:
        figure.suptitle(title, fontsize=14, parse_math=False)
    if target is not None:
        write(figure, target, dpi)
    return figure


def _checked(label: str, counts: Any) -> np.ndarray:
    values = np.asarray(counts, np.float64)
    whose = f"{label}: " if label else ""
    if values.ndim != 1 or values.size < 2:
        raise InputError(f"{whose}expected the counts of two or more ranks, received shape {values.shape}")
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise InputError(f"{whose}expected counts of zero or more, some above, received {values.tolist()}")
    return values


def _bars(panel: Any, values: np.ndarray, unit: bool, number: int) -> None:
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
    note(panel, 0.99, 1.01, f"n = {total:,.0f}", transform=panel.transAxes, ha="right", va="bottom")
