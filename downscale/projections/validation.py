"""Validation of fine projections: statistics, maps, indices and change signals of candidates beside observations."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.quantities import automatic_form, rain_reason
from downscale.errors import InputError, OptionError
from downscale.evaluation.table import format_number, format_table, write_table
from downscale.metrics.distribution import Distribution
from downscale.projections.cells import (
    CoarseCells,
    bands,
    blocks,
    field_of,
    fields_in,
    grid_variables,
    period_words,
    read,
    select_period,
)
from downscale.projections.indices import INDICES, annual_indices, available_indices, wet_day_percentile
from downscale.projections.scores import (
    MAP_SCORES,
    OWN_UNITS,
    RAIN_STATISTICS,
    RAIN_UNITS,
    STATISTICS,
    Days,
    Layout,
    add_sums,
    anomalies_of,
    cell_statistics,
    map_scores,
    map_sums,
    sort_days,
    square_sums,
    wasserstein_distance,
)
from downscale.projections.signal import WET_DAY, change_signal
from downscale.projections.years import TIME, Years
from downscale.version import library_versions

__all__ = ["change_signal", "to_csv", "to_markdown", "validate", "write_tables"]

Floats = NDArray[np.float64]
OBSERVED = "observations"
LEVELS = (0.001, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
# Units of the scores of maps; those of others are the units of the field.
UNITS = {**dict.fromkeys(MAP_SCORES, "1"), "ralsd": "dB"}
# Rows of tables.
LABELS = {
    "mean": "mean", "standard_deviation": "standard deviation", "p02": "2nd percentile", "p98": "98th percentile",
    "p999": "99.9th percentile", "lag1_corr": "lag-1 correlation", "interannual_sd": "standard deviation of years",
    "wet_frequency": "fraction of wet days", "dry_spell": "mean dry spell", "wet_spell": "mean wet spell",
    "annual_cycle_rmse": "RMSE of monthly means", "wasserstein_distance": "Wasserstein distance",
    "spatial_correlation": "spatial correlation", "spatial_correlation_error": "error of spatial correlation",
    "variogram_error": "error of the variogram", "ralsd": "RALSD", "block_edge_index": "block edge index",
    "block_edge_ratio": "block edge index / observed", "rmse": "RMSE of daily fields",
}  # fmt: skip
SUFFIXES = {"bias": "minus observations", "error": "mean absolute difference of cells", "percent": "relative bias"}


@dataclass
class Results:
    """Statistics of one variable: per candidate and cell, and per candidate.

    ``maps`` has arrays of shape (n_candidates, n_y, n_x) by statistic, ``cycle`` has months before rows.
    """

    maps: dict[str, Floats] = field(default_factory=dict)
    cycle: Floats = field(default_factory=lambda: np.empty(0))
    distance: Floats = field(default_factory=lambda: np.empty(0))
    distributions: list[Distribution] = field(default_factory=list)


def validate(
    observed: xr.Dataset,
    candidates: Mapping[str, xr.Dataset],
    *,
    coarse: xr.Dataset,
    variables: Any = None,
    period: Years | None = None,
    paired: bool = False,
    wet_day: float = WET_DAY,
    indices: bool = True,
) -> xr.Dataset:
    """Return scores of daily fine fields of candidates against observations of the same years.

    Parameters
    ----------
    observed : Dataset
        Daily fine observations along (time, y, x) of any calendar; lazy fields are read in parts.
    candidates : mapping of label to Dataset
        Daily fields on the same grid, in any order of rows.
    coarse : Dataset
        Fields on the grid of the model, for the edges of its cells.
    variables : str or list of str, optional
        By default all that the Datasets have in common.
    period : (int, int), optional
        First and last year of the validation; by default all days.
    paired : bool
        Whether days of candidates correspond to those of the observations, as in a pseudo-model: adds the RMSE.
    wet_day : float
        Least rain of a wet day in mm per day.
    indices : bool
        Whether to add the indices of extremes (needs xclim).

    Returns
    -------
    Dataset
        Over ``candidate``, with the observations first. For each variable and statistic: ``NAME_STATISTIC``, the area
        mean; ``_bias``, its difference from the observations; ``_error``, the area mean of the absolute differences of
        cells; ``_percent``, the bias relative to the observed mean, for quantities that vary in proportion; and
        ``_map``, the statistic of each cell. Also scores of maps, quantiles of the values of all cells, the annual
        cycle, mean power spectra (``psd``), and area means of annual indices.

    Raises
    ------
    DownscaleError
        If grids, variables, units or periods do not match.

    Notes
    -----
    Scores that CORDEX ML-Bench defines have its names: ``lag1_corr``, ``psd``, ``ralsd``, ``wasserstein_distance``,
    ``SDII``, ``CDD``, ``CWD``. Autocorrelation and correlation in space are those of anomalies from the annual cycle of
    each candidate. The block edge index is 1 if gradients across edges of coarse cells are those inside.

    References
    ----------
    Maraun, D. et al. (2015), VALUE: A framework to validate downscaling approaches for climate change studies, Earth's
    Future 3, 1-14.
    """
    if OBSERVED in candidates:
        raise OptionError(f"expected another label than {OBSERVED!r} for a candidate; rename it")
    everything = {OBSERVED: observed, **candidates}
    datasets = {label: select_period(ds, period, label) for label, ds in everything.items()}
    names = fields_in(datasets, variables)
    cells = CoarseCells.between(coarse, observed)
    datasets = {label: cells.order(ds, label) for label, ds in datasets.items()}
    layout = Layout.of(cells.axes, cells.rows, cells.columns)
    days = {label: Days.of(ds[TIME]) for label, ds in datasets.items()}
    if paired and len({ds.sizes[TIME] for ds in datasets.values()}) > 1:
        raise InputError("paired: expected as many days of each candidate as of the observations; select common days")
    scores: dict[str, Any] = {}
    for name in names:
        source = datasets[OBSERVED][name]
        wet = wet_day if rain_reason(source) is not None else None
        units = RAIN_UNITS if wet is not None else str(source.attrs.get("units", "1"))
        fields = {label: field_of(ds, name, cells.axes, label, units) for label, ds in datasets.items()}
        results = _cell_results(fields, days, layout, cells.axes.y, wet)
        sums = _all_sums(fields, days, layout, results, paired)
        ratio = automatic_form(source)[0] == "ratio"
        scores |= _statistic_arrays(name, results, layout, cells.axes.dims, units, ratio)
        scores |= _map_arrays(name, sums, layout, units)
    if indices:
        scores |= _index_arrays(datasets, cells, layout)
    coords: dict[str, Any] = {"candidate": list(datasets), "level": list(LEVELS), "month": np.arange(1, 13)}
    if layout.table is not None:
        attrs = {"units": "m-1", "long_name": "cycles per metre"}
        coords["wavenumber"] = ("ring", layout.table.wavenumber, attrs)
    grid = grid_variables(datasets[OBSERVED], cells.axes)
    attributes = {
        "Conventions": "CF-1.11", "title": "Validation of fine projections", "variables": names,
        "period": period_words(datasets[OBSERVED], period), "wet_day": f"{wet_day:g} mm per day",
        "days_correspond": str(paired), "versions": json.dumps(library_versions()),
    }  # fmt: skip
    return xr.Dataset(scores, coords, attributes).assign_coords(grid.variables)


def _cell_results(
    fields: Mapping[str, xr.DataArray], days: Mapping[str, Days], layout: Layout, y: str, wet: float | None
) -> Results:
    """Return the statistics of all cells, band by band."""
    shape, labels = layout.area.shape, list(fields)
    results = Results(
        cycle=np.full((len(labels), 12, *shape), np.nan), distance=np.full((len(labels), *shape), np.nan),
        distributions=[Distribution() for _ in labels],
    )  # fmt: skip
    longest = (max(one.sizes[TIME] for one in fields.values()), *shape)
    for part in bands(longest, 2):
        observed: tuple[Floats, NDArray[np.int64]] | None = None
        for i, label in enumerate(labels):
            values = read(fields[label], **{y: part})
            ordered = sort_days(values)
            observed = ordered if observed is None else observed
            statistics, results.cycle[i, :, part] = cell_statistics(values, days[label], *ordered, wet)
            for key, one in statistics.items():
                results.maps.setdefault(key, np.full((len(labels), *shape), np.nan))[i, part] = one
            results.distance[i, part] = wasserstein_distance(*ordered, *observed)
            pooled = Distribution.of(values, np.broadcast_to(layout.area[part], values.shape))
            results.distributions[i] = results.distributions[i].merge(pooled)
    return results


def _all_sums(
    fields: Mapping[str, xr.DataArray], days: Mapping[str, Days], layout: Layout, results: Results, paired: bool
) -> list[dict[str, Floats]]:
    """Return the sums over maps of each candidate, block by block."""
    sums, observed = [], fields[OBSERVED]
    for i, (label, one) in enumerate(fields.items()):
        total: dict[str, Floats] = {}
        for part in blocks(one.shape):
            values = read(one, **{TIME: part})
            anomalies = anomalies_of(values, results.cycle[i], days[label].slice(part.start, part.stop))
            total = add_sums(total, map_sums(values, anomalies, layout))
            if paired:
                total = add_sums(total, square_sums(values, read(observed, **{TIME: part}), layout))
        sums.append(total)
    return sums


def area_mean(values: Floats, area: Floats) -> Floats:
    """Return means over the cells with values, (..., n_y, n_x) -> (...); NaN without any."""
    weight = np.where(np.isfinite(values), area, 0.0)
    total = weight.sum(axis=(-2, -1))
    sums = np.where(weight > 0, weight * np.where(weight > 0, values, 0.0), 0.0).sum(axis=(-2, -1))
    return np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)


def _compare(key: str, maps: Floats, area: Floats, units: str, words: str, ratio: bool) -> dict[str, Any]:
    """Return the area means of statistics of cells, with biases and errors; the observations are the first."""
    maps = np.where(np.isfinite(maps[0]) & np.isfinite(maps), maps, np.nan)
    means, difference = area_mean(maps, area), maps - maps[:1]
    observed = area_mean(np.where(np.isfinite(maps), maps[:1], np.nan), area)
    arrays = {
        key: (means, units, words),
        f"{key}_bias": (area_mean(difference, area), units, f"{words}, {SUFFIXES['bias']}"),
        f"{key}_error": (area_mean(np.abs(difference), area), units, f"{words}, {SUFFIXES['error']}"),
    }
    if ratio:
        percent = 100 * np.divide(means - observed, observed, out=np.full(means.shape, np.nan), where=observed > 0)
        arrays[f"{key}_percent"] = (percent, "%", f"{words}, {SUFFIXES['percent']}")
    return {name: (("candidate",), values, {"units": unit, "long_name": text})
            for name, (values, unit, text) in arrays.items()}  # fmt: skip


def _statistic_arrays(
    name: str, results: Results, layout: Layout, dims: tuple[str, str], units: str, ratio: bool
) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    words = {**STATISTICS, **RAIN_STATISTICS}
    for key, maps in results.maps.items():
        own = OWN_UNITS.get(key, units)
        relative = key in RAIN_STATISTICS or (ratio and key != "lag1_corr")
        arrays |= _compare(f"{name}_{key}", maps, layout.area, own, words[key], relative)
        attrs = {"units": own, "long_name": words[key]}
        arrays[f"{name}_{key}_map"] = (("candidate", *dims), maps, attrs)
    cycle_error = ((results.cycle - results.cycle[:1]) ** 2).mean(axis=1)
    levels = np.array([[one.quantile(level) for level in LEVELS] for one in results.distributions])
    curves = {
        "annual_cycle_rmse": (("candidate",), area_mean(cycle_error, layout.area) ** 0.5,
                              "root mean square error of monthly means"),
        "wasserstein_distance": (("candidate",), area_mean(results.distance, layout.area),
                                 "mean Wasserstein distance of the daily values of a cell"),
        "annual_cycle": (("candidate", "month"), area_mean(results.cycle, layout.area), "monthly means"),
        "quantile": (("candidate", "level"), levels, "quantiles of the daily values of all cells"),
    }  # fmt: skip
    return arrays | {
        f"{name}_{key}": (along, values, {"units": units, "long_name": text})
        for key, (along, values, text) in curves.items()
    }


def _map_arrays(name: str, sums: list[dict[str, Floats]], layout: Layout, units: str) -> dict[str, Any]:
    rows = [map_scores(one, sums[0], layout) for one in sums]
    arrays: dict[str, Any] = {}
    for key, words in MAP_SCORES.items():
        values = np.array([row[key] for row in rows])
        if np.isfinite(values).any():
            attrs = {"units": UNITS[key] if key != "rmse" else units, "long_name": words}
            arrays[f"{name}_{key}"] = (("candidate",), values, attrs)
    if layout.table is not None:
        power = np.array([one["power"] / one["power_weight"] for one in sums])
        arrays[f"{name}_psd"] = (("candidate", "ring"), power, {
            "units": f"({units})2", "long_name": "mean power in a ring of wavenumbers"})  # fmt: skip
    return arrays


def _index_arrays(datasets: Mapping[str, xr.Dataset], cells: CoarseCells, layout: Layout) -> dict[str, Any]:
    """Return means of annual indices over years, band by band, and their standard deviations about a trend."""
    common = [name for name in ("tasmin", "tasmax", "pr") if all(name in ds for ds in datasets.values())]
    chosen = available_indices(common)
    if not chosen:
        return {}
    shape = (len(datasets), *layout.area.shape)
    means = {key: np.full(shape, np.nan) for key in chosen}
    spreads = {key: np.full(shape, np.nan) for key in chosen}
    longest = (max(ds.sizes[TIME] for ds in datasets.values()), *layout.area.shape)
    for part in bands(longest, 3 * len(common)):
        percentile = None
        for i, (label, ds) in enumerate(datasets.items()):
            fields = {name: field_of(ds, name, cells.axes, label).isel({cells.axes.y: part}).load() for name in common}
            fields = {name: one.drop_vars([key for key in one.coords if key != TIME]) for name, one in fields.items()}
            if percentile is None and "pr" in fields:
                percentile = wet_day_percentile(fields["pr"])
            for key, values in annual_indices(fields, percentile).items():
                annual = np.asarray(values.values, np.float64)
                means[key][i, part] = _finite_mean(annual)
                spreads[key][i, part] = _finite_mean(without_trend(annual) ** 2) ** 0.5
    arrays: dict[str, Any] = {}
    for key, index in chosen.items():
        arrays |= _compare(key, means[key], layout.area, index.units, index.words, index.variables == ("pr",))
        words = f"standard deviation of annual values about their trend: {index.words}"
        attrs = {"units": index.units, "long_name": words}
        arrays[f"{key}_interannual_sd"] = (("candidate",), area_mean(spreads[key], layout.area), attrs)
    return arrays


def _finite_mean(annual: Floats) -> Floats:
    count = np.isfinite(annual).sum(axis=0)
    return np.divide(np.nansum(annual, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)


def without_trend(annual: Floats) -> Floats:
    """Return annual values (n_years, ...) minus their linear trend, over finite values."""
    finite = np.isfinite(annual)
    years = np.where(finite, np.arange(len(annual)).reshape(-1, *(1,) * (annual.ndim - 1)), np.nan)
    x, y = years - _finite_mean(years), annual - _finite_mean(annual)
    variance = np.nansum(x**2, axis=0)
    slope = np.divide(np.nansum(x * y, axis=0), variance, out=np.zeros(variance.shape), where=variance > 0)
    return np.asarray(y - slope * x)


# Tables.


def _rows(ds: xr.Dataset, prefix: str) -> list[tuple[str, str]]:
    """Return the label and name of each row of the table of a variable that the scores have."""
    entries = []
    for key, words in LABELS.items():
        kinds = (f"{prefix}_{key}_percent", f"{prefix}_{key}_bias", f"{prefix}_{key}")
        entries += [(words, name) for name in kinds if name in ds][:1]
    return entries


@dataclass(frozen=True)
class Table:
    """A table of texts: title, heads of columns, and rows that begin with their label."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def lines(self) -> list[str]:
        """Return the lines of the table in Markdown."""
        return [f"### {self.title}", "", *format_table(self.head, self.rows), ""]


def tables_of(ds: xr.Dataset) -> list[Table]:
    """Return the tables of a validation or a change signal.

    Columns are candidates. Rows of statistics are biases, in percent for quantities that vary in proportion; the
    observed value is in the second column. Change signals are means over coarse cells, with the largest magnitude.
    """
    if "reference_period" in ds.attrs:
        return [_signal_table(ds, str(name)) for name in np.atleast_1d(ds.attrs["variables"])]
    tables = [_score_table(ds, str(name), _rows(ds, str(name))) for name in np.atleast_1d(ds.attrs["variables"])]
    rows = [(f"{key}: {index.words}", f"{key}_percent" if f"{key}_percent" in ds else f"{key}_bias")
            for key, index in INDICES.items() if key in ds]  # fmt: skip
    return [*tables, *([_score_table(ds, "Indices of extremes", rows)] if rows else [])]


def heading_of(ds: xr.Dataset) -> str:
    """Return a sentence that describes the tables of a validation or a change signal."""
    if "reference_period" in ds.attrs:
        return (f"Change from {ds.attrs['reference_period']} to {ds.attrs['future_period']}, mean over coarse cells; "
                "the largest magnitude of a cell in brackets.")  # fmt: skip
    return f"Validation on {ds.attrs['period']}; biases are candidate minus observations, area means."


def to_markdown(ds: xr.Dataset) -> str:
    """Return the tables of :func:`validate` or :func:`change_signal` in Markdown."""
    return "\n".join([heading_of(ds), "", *(line for table in tables_of(ds) for line in table.lines())])


def _score_table(ds: xr.Dataset, title: str, rows: list[tuple[str, str]]) -> Table:
    cells = []
    for words, name in rows:
        base = name.removesuffix("_bias").removesuffix("_percent")
        kind = {"_bias": ", bias", "_percent": ", bias"}.get(name[len(base) :], "")
        units = str(ds[name].attrs["units"])
        head = f"{words}{kind}" + ("" if units == "1" else f" ({units})")
        value = format_number(float(ds[base][0]))
        own = str(ds[base].attrs["units"])
        observed = value if own in ("1", units) else f"{value} {own}"
        cells.append([head, observed, *(format_number(float(one)) for one in ds[name].values[1:])])
    return Table(title, ["score", OBSERVED, *map(str, ds.candidate.values[1:])], cells)


def _signal_table(signal: xr.Dataset, name: str) -> Table:
    labels, rows = [str(label) for label in signal.candidate.values], []
    for key in ("mean", "p98", "p98_within", "wet_frequency", "wet_frequency_within"):
        for part in ("change", "percent"):
            array = signal.get(f"{name}_{key}_{part}")
            if array is not None:
                values = array.values.reshape(len(labels), -1)
                units = str(array.attrs["units"])
                head = str(array.attrs["long_name"]) + ("" if units == "1" else f" ({units})")
                rows.append([head, *(_mean_and_largest(one) for one in values)])
    return Table(f"{name}, change", ["change signal", *labels], rows)


def _mean_and_largest(values: Floats) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return format_number(math.nan)
    return f"{format_number(float(finite.mean()))} ({format_number(float(np.abs(finite).max()))})"


def to_csv(ds: xr.Dataset) -> str:
    """Return one line per score and candidate, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["score", "units", "description", *map(str, ds.candidate.values)])
    for name, array in ds.data_vars.items():
        if array.dims == ("candidate",):
            numbers = [repr(float(value)) for value in array.values]
            writer.writerow([name, array.attrs["units"], array.attrs["long_name"], *numbers])
    return text.getvalue()


def write_tables(ds: xr.Dataset, folder: Path, name: str = "validation") -> list[Path]:
    """Write scores as ``NAME.md``, ``.nc`` and, for a validation, ``.csv``; return their paths."""
    contents: dict[str, str | xr.Dataset] = {".nc": ds, ".md": to_markdown(ds)}
    if "reference_period" not in ds.attrs:
        contents[".csv"] = to_csv(ds)
    for kind, content in contents.items():
        write_table(content, folder / f"{name}{kind}")
    return [folder / f"{name}{kind}" for kind in contents]
