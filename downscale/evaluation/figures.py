"""Figures of an evaluation: maps of reference, methods and errors, power spectra, distributions and reliability."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from downscale.cf.coordinates import select
from downscale.cf.horizontal import horizontal
from downscale.errors import OptionError, listing
from downscale.evaluation.methods import ReadyMethod, event_probability, is_mask, mark_event, slug
from downscale.evaluation.schema import EvaluationRecipe, Figures
from downscale.evaluation.truth import Truth
from downscale.plot.cells import Cells, View, choose_view, read_cells
from downscale.plot.charts import LINES, draw_spectrum, label_wavelengths, square_unit
from downscale.plot.maps import add_panel, colour_maps, draw_bar, draw_cells, draw_coast, robust_limits
from downscale.plot.style import (
    INK,
    MINUS,
    SOFT_INK,
    check_path,
    field_name,
    is_date,
    new_figure,
    value_words,
    write_figure,
)
from downscale.training.schema import EventRule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_METHODS = 4
PANEL, GAP, LEFT, HEAD, FOOT = 2.9, 0.14, 0.35, 0.85, 0.25  # inches
NARROWEST, TALLEST = 0.45, 1.6  # height of a panel over its width
WIDE, HIGH = 4.6, 3.3  # inches of a panel
STYLES = ("-", "--", ":", "-.")
Panel = Callable[[Any, xr.Dataset, str], None]


def draw(
    recipe: EvaluationRecipe, truths: list[Truth], methods: list[ReadyMethod], scores: xr.Dataset, folder: Path
) -> list[Path]:
    """Draw maps of each source and variable, and the spectra of each variable; return the files."""
    settings, paths = recipe.output.figures, list[Path]()
    if settings is None:
        return paths
    for path, figure in _figures(recipe, settings, truths, methods, scores, folder):
        check_path(path)
        write_figure(figure, path, settings.dpi)
        paths.append(path)
    return paths


def _figures(
    recipe: EvaluationRecipe, settings: Figures, truths: list[Truth], methods: list[ReadyMethod], scores: xr.Dataset,
    folder: Path,
) -> Iterator[tuple[Path, Figure]]:  # fmt: skip
    selection = [m for m in methods if m.label in settings.methods] if settings.methods else methods[:MOST_METHODS]
    for truth in truths:
        for name, figure in _draw_truth_maps(truth, selection, settings, recipe.event).items():
            yield _picture_path(recipe, folder, name, truth.label, "maps"), figure
    for name in (channel.name for channel in recipe.data.outputs):
        if f"{name}_power" in scores:
            yield _picture_path(recipe, folder, name, "spectra"), draw_spectra(scores, name)
        if (panels := draw_summary(scores, name)) is not None:
            yield _picture_path(recipe, folder, name, "skill"), panels


def picture_paths(recipe: EvaluationRecipe, folder: Path) -> list[Path]:
    """Return the files that :func:`draw` may write."""
    if recipe.output.figures is None:
        return []
    names, labels = [output.name for output in recipe.data.outputs], [source.label for source in recipe.data.sources]
    masks = [] if recipe.event is None else [recipe.event.name]
    map_paths = [_picture_path(recipe, folder, name, label, "maps") for name in (*names, *masks) for label in labels]
    score_paths = [_picture_path(recipe, folder, name, kind) for name in names for kind in ("spectra", "skill")]
    return [*map_paths, *score_paths]


def require_maps(recipe: EvaluationRecipe, truths: list[Truth]) -> None:
    """Raise an OptionError for a map that a source does not have."""
    figures = recipe.output.figures
    for truth in truths:
        if figures is not None and figures.map >= truth.steps:
            raise OptionError(f"{truth.label}: expected figures.map below {truth.steps}, received {figures.map}")


def _picture_path(recipe: EvaluationRecipe, folder: Path, *words: str) -> Path:
    return folder / f"{'_'.join([recipe.output.name, *map(slug, words)])}.png"


def _draw_truth_maps(
    truth: Truth, methods: list[ReadyMethod], settings: Figures, event: EventRule | None
) -> dict[str, Figure]:
    """Return figures of one time, from another run of the methods, by variable; then the mask of the event, if any."""
    block = truth.block(settings.map, settings.map + 1)
    outputs = {method.label: method.run(block, truth) for method in methods}
    fields = {"Truth": block.fine, "Coarse": block.coarse, **outputs}
    regions = {label: _region(ds, settings, truth) for label, ds in fields.items()}
    figures = {}
    for name in truth.names:
        panels = {label: select(ds, name) for label, ds in regions.items() if not is_mask(ds, name)}
        if len(panels) > 2:
            figures[name] = draw_maps(panels, truth.label)
    if event is not None:
        masks = {label: _mask_dataset(ds, truth.names[0], event) for label, ds in regions.items()}
        figures[event.name] = draw_maps(masks, truth.label, (0.0, 1.0))
    return figures


def _mask_dataset(ds: xr.Dataset, name: str, event: EventRule) -> xr.Dataset:
    """Return the probability of the event alone, on the cells of ``ds``; a field gives 0 or 1."""
    if is_mask(ds, name):
        probability = event_probability(ds)[0]
    else:
        probability = ds[name].copy(data=mark_event(np.asarray(ds[name].values, dtype=np.float64), event))
    probability.attrs = {"long_name": f"probability of {event.name}", "units": "1"}
    return select(ds.assign({event.name: probability}), event.name)


def _region(ds: xr.Dataset, settings: Figures, truth: Truth) -> xr.Dataset:
    for name, (low, high) in settings.select.items():
        if name not in truth.dims or name not in ds.indexes:
            raise OptionError(f"expected figures.select of {listing(truth.dims)}, received {name!r}")
        values = np.asarray(ds.indexes[name])
        cells = np.flatnonzero((values >= low) & (values <= high))
        if cells.size < 2:
            raise OptionError(f"{truth.label}: expected cells of {name!r} from {low} to {high}, received none")
        ds = ds.isel({name: slice(int(cells[0]), int(cells[-1]) + 1)})
    return ds


def draw_maps(fields: dict[str, xr.Dataset], title: str, limits: tuple[float, float] | None = None) -> Figure:
    """Return a figure of one variable: reference, coarse maps and methods, with the error below each method."""
    cells = {
        label: read_cells(next(iter(ds.data_vars.values())), horizontal(ds, guess=True)) for label, ds in fields.items()
    }
    reference = cells["Truth"]
    view = choose_view(cells["Coarse"], reference)
    labels = [label for label in cells if label not in ("Truth", "Coarse")]
    errors = {label: replace(reference, values=cells[label].values - reference.values) for label in labels}
    figure, top, bottom, bars = _place_panels(view, len(cells))
    _draw_panels(top, bottom, bars, view, cells, errors, limits)
    draw_coast([*top, *bottom], view, None)
    words = f"{field_name(reference.field, capital=True)}, {title}"
    dates = [value_words(str(name), value.values[()]) for name, value in reference.field.coords.items()
             if value.ndim == 0 and is_date(value.values[()])]  # fmt: skip
    figure.text(0.5, 0.985, ", ".join([words, *dates[:1]]), ha="center", va="top", fontsize=13, color=INK,
                parse_math=False)  # fmt: skip
    return figure


def _place_panels(view: View, count: int) -> tuple[Figure, list[Any], list[Any], list[Any]]:
    """Return axes in two rows, errors below the methods, and two colour bars in the remaining corner."""
    extent = np.ptp(view.outline, axis=0)
    panel_height = PANEL * float(np.clip(extent[1] / extent[0], NARROWEST, TALLEST))
    width, total_height = 2 * LEFT + count * PANEL + (count - 1) * GAP, HEAD + FOOT + 2 * panel_height + 0.35
    figure = new_figure(width, total_height)

    def panel(column: int, row: int) -> Any:
        x, y = LEFT + column * (PANEL + GAP), FOOT + (1 - row) * (panel_height + 0.35)
        axes = add_panel(figure, x, y, PANEL, panel_height, view)
        axes.set(xticks=[], yticks=[])
        return axes

    top, bottom = [panel(i, 0) for i in range(count)], [panel(i, 1) for i in range(2, count)]
    middle = FOOT + panel_height / 2
    bars = [add_panel(figure, 1.2 * LEFT, middle + y, 2 * PANEL - 1.2 * LEFT, 0.13) for y in (0.45, -0.45)]
    return figure, top, bottom, bars


def _draw_panels(
    top: list[Any],
    bottom: list[Any],
    bars: list[Any],
    view: View,
    cells_by_label: dict[str, Cells],
    errors: dict[str, Cells],
    limits: tuple[float, float] | None,
) -> None:
    """Draw all fields on one scale, all errors on another."""
    field = cells_by_label["Truth"].field
    field_colours, error_colours = colour_maps(field, None)
    values = np.concatenate([cells.values.ravel() for cells in cells_by_label.values()])
    field_limits, meshes = limits or robust_limits(cells_by_label["Truth"].values), []
    for panel, (label, cells) in zip(top, cells_by_label.items(), strict=True):
        meshes.append(draw_cells(panel, view, cells, field_colours, field_limits))
        panel.set_title(label, fontsize=11, color=INK, pad=5)
    units = str(field.attrs.get("units", ""))
    draw_bar(bars[0], meshes[0], values[np.isfinite(values)], field_name(field, capital=False), units)
    if not errors:
        bars[1].remove()
        return
    error_values = np.concatenate([cells.values.ravel() for cells in errors.values()])
    # Errors are masked where both fields are dry, so that dry cells do not dominate the colours.
    largest = float(np.abs(limits or robust_limits(error_values[error_values != 0])).max())
    for panel, (label, cells) in zip(bottom, errors.items(), strict=True):
        mesh = draw_cells(panel, view, cells, error_colours, (-largest, largest))
        panel.set_title(f"{label} {MINUS} truth", fontsize=10, color=SOFT_INK, pad=4)
    draw_bar(bars[1], mesh, error_values[np.isfinite(error_values)], f"method {MINUS} truth", units)


def draw_spectra(scores: xr.Dataset, variable: str) -> Figure:
    """Return a figure of the mean power of reference and methods by wavelength, one panel per source."""
    count = scores.sizes["source"]
    figure = new_figure(0.6 + 5.2 * count, 4.4, layout="constrained")
    for i, panel in enumerate(np.atleast_1d(figure.subplots(1, count)).ravel()):
        ds = scores.isel(source=i)
        wavenumber = ds[f"{variable}_wavenumber"].values
        draw_spectrum(panel, wavenumber, ds[f"{variable}_true_power"].values, label="truth", color=INK, linewidth=2.2)
        for j, label in enumerate(map(str, scores.upscaler.values)):
            style = {"label": label, "color": f"C{j % 10}", "linestyle": LINES[(j // 10) % 4], "linewidth": 1.2}
            draw_spectrum(panel, wavenumber, ds[f"{variable}_power"].values[j], **style)
        panel.set(xlabel="wavelength (km)")
        label_wavelengths(panel)
        panel.set_title(str(ds.source.values), fontsize=11, color=INK, parse_math=False)
        units = str(scores[f"{variable}_rmse"].attrs["units"])
        panel.set_ylabel(f"power of {variable} ({square_unit(units)})", parse_math=False)
        panel.grid(which="both", linewidth=0.3, alpha=0.5)
    panel.legend(fontsize=8, frameon=False)
    return figure


def draw_summary(scores: xr.Dataset, variable: str) -> Figure | None:
    """Return a figure with one row of panels per available score, one column per source.

    The rows are quantiles against those of the reference, relative power in decibels, wet area, and fractions skill
    score by scale. Ensembles add rank histograms, spread beside error, and the CRPS. The last row is the cell
    conservation of every method.
    """
    rows = [draw for score, draw in PANELS if f"{variable}_{score}" in scores and _has_values(scores, variable, score)]
    if not rows:
        return None
    count = scores.sizes["source"]
    figure = new_figure(WIDE * count + 0.4, HIGH * len(rows) + 0.5, layout="constrained")
    grid = np.asarray(figure.subplots(len(rows), count, squeeze=False))
    for column in range(count):
        ds = scores.isel(source=column)
        for panel, draw in zip(grid[:, column], rows, strict=True):
            draw(panel, ds, variable)
            panel.tick_params(labelsize=8)
            for axis in (panel.xaxis, panel.yaxis):
                axis.label.set(fontsize=9, parse_math=False)
        grid[0, column].set_title(str(ds.source.values), fontsize=11, color=INK, parse_math=False)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    columns = min(len(labels), 3 * grid.shape[1])
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    return figure


def _has_values(scores: xr.Dataset, variable: str, score: str) -> bool:
    return bool(np.isfinite(scores[f"{variable}_{score}"]).any())


def _methods(ds: xr.Dataset) -> list[tuple[int, str, str]]:
    """Return number, label and colour of each method."""
    return [(i, str(label), f"C{i % 10}") for i, label in enumerate(ds.upscaler.values)]


def _draw_quantiles(panel: Any, ds: xr.Dataset, variable: str) -> None:
    reference, units = ds[f"{variable}_true_quantile"].values, str(ds[f"{variable}_true_quantile"].attrs["units"])
    panel.plot(reference, reference, color=INK, linewidth=0.8, label="truth")
    for i, label, colour in _methods(ds):
        panel.plot(reference, ds[f"{variable}_quantile"].values[i], marker="o", markersize=4, linewidth=1, color=colour,
                   label=label)  # fmt: skip
    panel.set(xlabel=f"quantile of the truth ({units})", ylabel=f"quantile ({units})")


def _draw_decibels(panel: Any, ds: xr.Dataset, variable: str) -> None:
    waves, reference = 1e-3 / ds[f"{variable}_wavenumber"].values, ds[f"{variable}_true_power"].values
    panel.axhline(0, color=INK, linewidth=0.8)
    for i, label, colour in _methods(ds):
        power = ds[f"{variable}_power"].values[i]
        valid = (power > 0) & (reference > 0) & np.isfinite(waves)
        ratio = 10 * np.log10(power[valid] / reference[valid])
        panel.plot(waves[valid], ratio, color=colour, linewidth=1.2, label=label)
    panel.set(xscale="log", ylim=(-20, 20), xlabel="wavelength (km)", ylabel="power over truth (dB)")
    label_wavelengths(panel)


def _bar_drawer(score: str, words: str, line: float | str | None = None) -> Panel:
    """Return a function that draws one score of each method."""

    def draw(panel: Any, ds: xr.Dataset, variable: str) -> None:
        scores = ds[f"{variable}_{score}"]
        for i, label, colour in _methods(ds):
            panel.barh(i, float(scores.values[i]), color=colour, label=label)
        panel.set_yticks([])
        panel.invert_yaxis()
        position = float(ds[f"{variable}_{line}"].values[0]) if isinstance(line, str) else line
        if position is not None:
            panel.axvline(position, color=INK, linewidth=1.2)
        units = str(scores.attrs["units"])
        panel.set(xlabel=words if units == "1" else f"{words} ({units})")

    return draw


def _draw_conservation(panel: Any, ds: xr.Dataset, variable: str) -> None:
    _bar_drawer("cell_error", "largest relative error of a coarse cell, all members", 1e-6)(panel, ds, variable)
    panel.set(xscale="log", xlim=(1e-17, None))


def _draw_ranks(panel: Any, ds: xr.Dataset, variable: str) -> None:
    for i, label, colour in _methods(ds):
        fractions = ds[f"{variable}_rank_share"].values[i]
        valid = fractions[np.isfinite(fractions)]
        if valid.size:
            p_value = float(ds[f"{variable}_rank_flatness"].values[i])
            method_label = label if np.isnan(p_value) else f"{label}, p {p_value:.2g}"
            edges = np.linspace(0, 1, valid.size + 1)
            panel.stairs(valid * valid.size, edges, color=colour, linewidth=1.4, label=method_label)
    panel.axhline(1, color=INK, linewidth=0.8)
    panel.set(ylim=(0, None), xlabel="rank of the truth among members", ylabel="frequency relative to uniform")
    panel.legend(fontsize=7, frameon=False)


def _draw_fractions(panel: Any, ds: xr.Dataset, variable: str) -> None:
    for i, label, colour in _methods(ds):
        for scores, style in zip(ds[f"{variable}_fss"].values[i], cycle(STYLES), strict=False):
            panel.plot(ds.scale.values, scores, style, color=colour, marker=".", label=label)
    levels = ", ".join(f"{style} {t:g}" for t, style in zip(ds.threshold.values, STYLES, strict=False))
    panel.set(xscale="log", ylim=(0, 1.02), xlabel="side of the window (cells)")
    panel.set_ylabel(f"fractions skill score ({levels})")


def _draw_performance(panel: Any, ds: xr.Dataset, variable: str) -> None:
    """Draw recall against precision, with lines of one critical success index."""
    precision = np.linspace(0.01, 1, 100)
    for level in (0.2, 0.4, 0.6, 0.8):
        recall = 1 / np.maximum(1 / level + 1 - 1 / precision, 1e-9)
        valid = (recall <= 1) & (recall > 0) & (1 / level + 1 - 1 / precision >= 1)
        panel.plot(precision[valid], recall[valid], color=INK, linewidth=0.5, linestyle=":")
        panel.annotate(f"{level:g}", (precision[valid][-1], recall[valid][-1]), fontsize=7, color=INK, ha="right")
    for i, label, colour in _methods(ds):
        point = (float(ds[f"{variable}_event_{name}"].values[i]) for name in ("precision", "recall"))
        panel.plot(*point, marker="o", linestyle="", color=colour, label=label)
    panel.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="recall")
    panel.set_xlabel("precision of the mask (dotted: critical success index)")


def _draw_reliability(panel: Any, ds: xr.Dataset, variable: str) -> None:
    panel.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
    for i, label, colour in _methods(ds):
        frequency = ds[f"{variable}_event_frequency"].values[i]
        valid = np.isfinite(frequency)
        # A binary mask has no probabilities between 0 and 1.
        if valid[1:-1].any():
            panel.plot(ds.chance.values[valid], frequency[valid], color=colour, marker=".", linewidth=1.2, label=label)
    panel.set(xlabel="probability of the event", ylabel="observed frequency")


# Score that each row needs, and function that draws it.
PANELS: tuple[tuple[str, Panel], ...] = (
    ("quantile", _draw_quantiles),
    ("power", _draw_decibels),
    ("wet_frequency", _bar_drawer("wet_frequency", "share of wet cells", "true_wet_frequency")),
    ("fss", _draw_fractions),
    ("crps", _bar_drawer("crps", "continuous ranked probability score")),
    ("spread_skill", _bar_drawer("spread_skill", "spread over error of the mean", 1.0)),
    ("rank_share", _draw_ranks),
    ("event_csi", _draw_performance),
    ("event_frequency", _draw_reliability),
    ("cell_error", _draw_conservation),
)
