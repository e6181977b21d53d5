"""Scores as a Dataset, and as tables in markdown, CSV and NetCDF."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from downscale.evaluation.methods import MASK_SCORES, PREFIX, MethodScores
from downscale.evaluation.schema import COST, LAW, EvaluationRecipe
from downscale.io.leases import temporary_beside
from downscale.io.library import to_file
from downscale.metrics.scores import SCORES
from downscale.version import library_versions

# Errors with a ratio to the reference; smaller is better.
RATIOS = ("rmse", "mae", "crps", "gradient_rmse", "seconds")
# Unit of each score ("field" is that of the variable), and its description.
UNITS = {
    "correlation": "1", "spread_skill": "1", "wet_frequency": "1", "true_wet_frequency": "1", "missing": "1",
    "spectral_distance": "dB", "cell_error": "1", "total_error": "1", "out_of_bounds": "1", "seconds": "s",
    "memory": "MB", "rank_unevenness": "1", "rank_flatness": "1",
    **{PREFIX + name: "1" for name in MASK_SCORES},
}  # fmt: skip
DESCRIPTIONS = {
    "rmse": "root mean square error", "mae": "mean absolute error", "bias": "mean of prediction minus truth",
    "correlation": "correlation with the truth", "crps": "continuous ranked probability score",
    "spread": "root mean variance of members", "spread_skill": "spread over error of the mean",
    "rank_unevenness": "sum of the distances of rank shares from even ones",
    "rank_flatness": "probability of so uneven ranks from a reliable ensemble",
    "extreme": "extreme quantile", "true_extreme": "extreme quantile of the truth",
    "extreme_bias": "extreme quantile minus that of the truth", "wet_frequency": "share of wet cells",
    "true_wet_frequency": "share of wet cells of the truth", "gradient_rmse": "root mean square error of gradients",
    "spectral_distance": "distance of power spectra from those of the truth",
    "missing": "share of the truth without prediction",
    "cell_error": "largest relative error of a coarse cell (cell law)",
    "total_error": "largest relative error of the integral of a map (total law)",
    **{PREFIX + name: words for name, words in MASK_SCORES.items()},
    "out_of_bounds": "values out of bounds", "seconds": "seconds of work", "memory": "peak memory of the work",
}  # fmt: skip
# Name of the fraction of times seen in training, and mark of such rows.
TRAINED, MARK = "seen_in_training", " [seen in training]"
# Dimensions, values, units and description.
Curve = tuple[tuple[str, ...], Any, str, str]


def assemble(recipe: EvaluationRecipe, rows: list[MethodScores]) -> xr.Dataset:
    """Return all scores over ``(source, upscaler)``, ratios to the reference, quantiles and spectra."""
    sources = [source.label for source in recipe.data.sources]
    methods = [method.label for method in recipe.methods]
    variables = [channel.name for channel in recipe.data.outputs]
    entries = {(row.truth.label, row.method): row for row in rows}
    table = [[entries[source, method] for method in methods] for source in sources]
    scores: dict[str, Any] = {}
    for variable in variables:
        units = str(table[0][0].truth.fine[variable].attrs.get("units", "1"))
        # The event is one of the first variable.
        for score in every_score(recipe.event is not None and variable == variables[0]):
            values = np.array([[row.value(variable, score) for row in source_rows] for source_rows in table])
            attrs = {"units": _units(score, units), "long_name": DESCRIPTIONS[score]}
            scores[f"{variable}_{score}"] = (("source", "upscaler"), values, attrs)
            if score in RATIOS:
                reference = methods.index(recipe.reference_label)
                scores[f"{variable}_{score}_ratio"] = _ratio(values, reference, score, recipe)
        curves = [[_curves(row, variable, recipe, units) for row in source_rows] for source_rows in table]
        for name in dict.fromkeys(name for source_rows in curves for row in source_rows for name in row):
            scores[f"{variable}_{name}"] = _stack(name, curves)
    fractions = [[row.trained_times / row.truth.steps for row in source_rows] for source_rows in table]
    attrs = {"units": "1", "long_name": "share of the times that the training of the method saw"}
    scores[TRAINED] = (("source", "upscaler"), np.array(fractions), attrs)
    coords: dict[str, Any] = {"source": sources, "upscaler": methods}
    if recipe.quantiles:
        coords["level"] = recipe.quantiles
    if recipe.thresholds:
        coords |= {"threshold": recipe.thresholds, "scale": recipe.scales}
    if recipe.event is not None:
        attrs = {"units": "1", "long_name": "probability of the event"}
        coords["chance"] = ("chance", table[0][0].counts.reliability()["probability"], attrs)
    return xr.Dataset(scores, coords, _attributes(recipe, rows))


def every_score(event: bool = True) -> list[str]:
    """Return the names of all scores: of fields, of the mask of an event, of conservation, of cost."""
    return [*SCORES, *(PREFIX + name for name in MASK_SCORES if event), *LAW, *COST]


def _units(score: str, units: str) -> str:
    return f"{units} m-1".removeprefix("1 ") if score == "gradient_rmse" else UNITS.get(score, units)


def _ratio(values: Any, reference: int, score: str, recipe: EvaluationRecipe) -> Any:
    denominator = values[:, reference : reference + 1]
    ratio = np.divide(values, denominator, out=np.full(values.shape, np.nan), where=denominator > 0)
    attrs = {"units": "1", "long_name": f"{DESCRIPTIONS[score]} over that of {recipe.reference_label}"}
    return ("source", "upscaler"), ratio, attrs


def _curves(row: MethodScores, variable: str, recipe: EvaluationRecipe, units: str) -> dict[str, Curve]:
    """Return the arrays of one variable of a method on a source."""
    scores = row.scores[variable]
    spectra, curves = scores.spectra, dict[str, Curve]()
    if recipe.quantiles:
        predicted, reference = scores.quantiles(recipe.quantiles)
        curves["quantile"] = ("level",), predicted, units, "quantiles by area"
        curves["true_quantile"] = ("level",), reference, units, "quantiles of the truth"
    if spectra is not None:
        power, true_power = spectra.power
        curves["power"] = ("ring",), power, f"({units})2", "mean power in a ring of wavenumbers"
        curves["true_power"] = ("ring",), true_power, f"({units})2", "mean power of the truth"
        curves["wavenumber"] = ("ring",), spectra.wavenumber, "m-1", "cycles per metre"
    if scores.ranks.shares.size:
        words = "share of cells with so many members below the truth"
        curves["rank_share"] = ("rank",), scores.ranks.shares, "1", words
    if scores.fractions.size:
        words = "fractions skill score by threshold and side of the window in cells"
        curves["fss"] = ("threshold", "scale"), scores.fractions, "1", words
    # The event is one of the first variable.
    if recipe.event is not None and variable == recipe.data.outputs[0].name:
        diagram = row.counts.reliability()
        curves["event_frequency"] = ("chance",), diagram["frequency"], "1", "frequency of the event"
        curves["event_share"] = ("chance",), diagram["share"], "1", "share of the area"
    return curves


def _stack(name: str, curves: list[list[dict[str, Curve]]]) -> tuple[tuple[str, ...], Any, dict[str, str]]:
    """Return an array of all sources and methods; shorter ones end in missing values.

    Curves of the reference depend on the source only: quantiles of the first method, spectra of the last with one.
    """
    entries = {(i, j): row[name] for i, line in enumerate(curves) for j, row in enumerate(line) if name in row}
    dims, _, units, words = next(iter(entries.values()))
    sizes = np.max([values.shape for _, values, *_ in entries.values()], axis=0)
    stacked, attrs = np.full((len(curves), len(curves[0]), *sizes), np.nan), {"units": units, "long_name": words}
    for (i, j), (_, values, *_) in entries.items():
        stacked[i, j][tuple(map(slice, values.shape))] = values
    if not name.startswith(("true_", "wavenumber")):
        return ("source", "upscaler", *dims), stacked, attrs
    last = [max((j for i, j in entries if i == source), default=0) for source in range(len(curves))]
    methods = last if dims == ("ring",) else [0] * len(curves)
    return ("source", *dims), stacked[np.arange(len(curves)), methods], attrs


def _attributes(recipe: EvaluationRecipe, rows: list[MethodScores]) -> dict[str, Any]:
    files = list(dict.fromkeys(file for row in rows for file in row.truth.files))
    return {
        "Conventions": "CF-1.11",
        "title": recipe.title,
        "comment": recipe.description,
        "reference_method": recipe.reference_label,
        "sources": ", ".join(files),
        "recipe": recipe.model_dump_json(),
        "versions": json.dumps(library_versions()),
    }


def to_markdown(ds: xr.Dataset) -> str:
    """Return a table per variable and source, errors with their ratio to the reference in brackets.

    With several sources, the geometric means of the methods' RMSE ratios come last.
    """
    recipe = json.loads(ds.attrs["recipe"])
    lines = [f"# {ds.attrs['title']}", ""]
    lines += [ds.attrs["comment"], ""] if ds.attrs["comment"] else []
    lines += [f"In brackets: over that of {ds.attrs['reference_method']}. Errors are weighted by area.", ""]
    if bool((ds[TRAINED] > 0).any()):
        lines += [f"Rows marked{MARK} hold times that the model learned from: they are no test of it.", ""]
    for variable in (output["name"] for output in recipe["data"]["outputs"]):
        for source in ds.source.values:
            lines += [f"## {variable}, {source}", "", *_section(ds.sel(source=source), variable, recipe["scores"]), ""]
            if f"{variable}_{PREFIX}csi" in ds:
                lines += _event_section(ds.sel(source=source), variable, recipe["event"])
        if ds.sizes["source"] > 1:
            lines += [f"## {variable}, all sources", "", *_summary(ds, variable), ""]
    return "\n".join(lines)


def _section(ds: xr.Dataset, variable: str, scores: list[str], prefix: str = "") -> list[str]:
    names = [name for name in scores if bool(ds[f"{variable}_{name}"].notnull().any())]
    heads = [_column_head(name.removeprefix(prefix), str(ds[f"{variable}_{name}"].attrs["units"])) for name in names]
    methods = {str(method): ds.sel(upscaler=method) for method in ds.upscaler.values}
    rows = [[_mark_name(method, row), *(_format_cell(row, variable, name) for name in names)]
            for method, row in methods.items()]  # fmt: skip
    truth = ["truth", *(_reference_value(ds, variable, name) for name in names)]
    return format_table(["method", *heads], [*rows, truth] if any(truth[1:]) else rows)


def _event_section(ds: xr.Dataset, variable: str, event: dict[str, Any]) -> list[str]:
    side = "above" if event["below"] is None else "below"
    head = f"### {event['name']}: {variable} {side} {event[side]:g} {event['units']}, {ds.source.values}"
    scores = [PREFIX + name for name in MASK_SCORES if name != "base_rate"]
    share = float(ds[f"{variable}_{PREFIX}base_rate"].max())
    grid = _section(ds, variable, scores, PREFIX)
    return [head, "", f"The event is in {share:.2%} of the area.", "", *grid, ""]


def _summary(ds: xr.Dataset, variable: str) -> list[str]:
    ratio = ds[f"{variable}_rmse_ratio"]
    means = np.exp(np.log(ratio.transpose("upscaler", "source").values).mean(axis=1))
    words = ["-" if math.isnan(mean) else f"{mean:.3f}" for mean in means]
    names = [_mark_name(str(method), ds.sel(upscaler=method)) for method in ds.upscaler.values]
    rows = [[name, word] for name, word in zip(names, words, strict=True)]
    return format_table(["method", f"rmse / {ds.attrs['reference_method']}, geometric mean"], rows)


def _mark_name(method: str, ds: xr.Dataset) -> str:
    """Return the name of a method, marked if its training saw any of the times."""
    return method + (MARK if bool((ds[TRAINED] > 0).any()) else "")


def _column_head(name: str, units: str) -> str:
    words = name.replace("_", " ")
    return words if units == "1" else f"{words} ({units})"


def _format_cell(ds: xr.Dataset, variable: str, name: str) -> str:
    value = float(ds[f"{variable}_{name}"])
    ratio = ds.get(f"{variable}_{name}_ratio")
    return format_number(value) + ("" if ratio is None or math.isnan(float(ratio)) else f" ({float(ratio):.3f})")


def _reference_value(ds: xr.Dataset, variable: str, name: str) -> str:
    """Return the reference value of a score that is a property of a field."""
    value = ds.get(f"{variable}_true_{name}")
    return "" if value is None or "upscaler" not in value.dims else format_number(float(value[0]))


def format_number(value: float) -> str:
    """Return a number as text with four significant figures.

    Examples
    --------
    >>> format_number(0.0123456), format_number(1234567.0), format_number(3.2e-9), format_number(float("nan"))
    ('0.01235', '1234567', '3.2e-09', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def format_table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table in Markdown, with columns of equal width."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    widths = [max(len(row[i]) for row in escaped) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
             for row in escaped]  # fmt: skip
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return [lines[0], rule, *lines[1:]]


def to_csv(ds: xr.Dataset) -> str:
    """Return one line per source, variable and method, with every score and ratio in full precision."""
    recipe = json.loads(ds.attrs["recipe"])
    variables = [output["name"] for output in recipe["data"]["outputs"]]
    candidates = [part for name in every_score() for part in (name, f"{name}_ratio")]
    names = [name for name in candidates if f"{variables[0]}_{name}" in ds]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "variable", "units", "method", TRAINED, *names])
    for source in ds.source.values:
        for variable in variables:
            units = ds[f"{variable}_rmse"].attrs["units"]
            for method in ds.upscaler.values:
                row = ds.sel(source=source, upscaler=method)
                numbers = [repr(float(row.get(f"{variable}_{name}", math.nan))) for name in names]
                writer.writerow([source, variable, units, method, repr(float(row[TRAINED])), *numbers])
    return text.getvalue()


def write_table(content: str | xr.Dataset, target: Path) -> None:
    """Write a table, atomically."""
    with temporary_beside(target) as scratch:
        if isinstance(content, str):
            scratch.write_text(content, encoding="utf-8")
        else:
            to_file(content, scratch)
