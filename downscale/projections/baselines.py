"""Baselines of a projection from the same inputs: interpolation, BCSD, and quantile mapping on the fine grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.api import downscale
from downscale.cf.horizontal import horizontal
from downscale.cf.quantities import automatic_form
from downscale.check.conservation import convert_units
from downscale.projections.adjustment import train
from downscale.projections.cells import CoarseCells, bands, blocks, fields_in, grid_variables, read, select_period
from downscale.projections.families import from_adjustable, to_adjustable
from downscale.projections.scores import Days, cycle_weights, group_means
from downscale.projections.settings import settings_for
from downscale.projections.years import TIME

Floats = NDArray[np.float64]
RAW, BCSD, MAPPING = "raw + bilinear", "BCSD", "quantile mapping"
BASELINES = (RAW, BCSD, MAPPING)
# Least smoothed mean of a day relative to the least monthly mean, and least coarse mean relative to the annual mean.
LEAST, DRIEST = 0.1, 1e-3
# Values of a variable per band of the quantile mapping; windows of days need about forty times their memory.
MOST_MAPPED = 2_000_000


def baselines(
    observed: xr.Dataset,
    historical: xr.Dataset,
    experiments: Mapping[str, xr.Dataset],
    adjusted: Mapping[str, xr.Dataset],
    *,
    reference_period: tuple[int, int],
    variables: Any = None,
    settings: Mapping[str, Any] | None = None,
    labels: tuple[str, ...] = BASELINES,
) -> dict[str, dict[str, xr.Dataset]]:
    """Return fine fields of the baselines: label, then experiment.

    Parameters
    ----------
    observed : Dataset
        Daily fine observations.
    historical : Dataset
        The raw model in the reference period, on its own grid.
    experiments, adjusted : mapping of name to Dataset
        Raw and adjusted fields of the same model, by experiment.
    reference_period : (int, int)
        First and last year of the training.
    variables : str or list of str, optional
        By default all that the inputs have in common.
    settings : mapping of name to settings, optional
        Settings of the adjustment of each variable, which the quantile mapping uses too.
    labels : tuple of str
        Baselines to compute, among ``BASELINES``.
    """
    names = fields_in({"observations": observed, "historical": historical, **experiments, **adjusted}, variables)
    results: dict[str, dict[str, xr.Dataset]] = {}
    if RAW in labels:
        results[RAW] = {key: interpolate(ds[names], observed) for key, ds in experiments.items()}
    if BCSD in labels:
        results[BCSD] = {
            key: bcsd(ds, observed, reference_period=reference_period, variables=names) for key, ds in adjusted.items()
        }
    if MAPPING in labels:
        results[MAPPING] = map_quantiles(
            observed, historical, experiments, reference_period=reference_period, variables=names, settings=settings
        )
    return results


def interpolate(coarse: xr.Dataset, observed: xr.Dataset) -> xr.Dataset:
    """Return coarse fields on the fine grid of the observations by bilinear interpolation, without conservation."""
    target = grid_variables(observed, horizontal(observed, guess=True))
    fine = downscale(coarse, target_grid=target, method="bilinear", conserve=None, bounds=None)
    assert isinstance(fine, xr.Dataset)
    return fine


def bcsd(
    adjusted: xr.Dataset,
    observed: xr.Dataset,
    *,
    reference_period: tuple[int, int],
    variables: Any = None,
) -> xr.Dataset:
    """Return adjusted coarse fields downscaled by bilinear interpolation of anomalies from the observed climatology.

    Parameters
    ----------
    adjusted : Dataset
        Daily bias-adjusted fields on the grid of the model.
    observed : Dataset
        Daily fine observations.
    reference_period : (int, int)
        First and last year of the climatology.
    variables : str or list of str, optional
        By default all that both have in common.

    Notes
    -----
    Anomalies are differences, or ratios for quantities that vary in proportion such as rain. The climatology has the
    monthly means of the observations in three harmonics, averaged over coarse cells for the coarse one. Coarse means of
    the result are not those of the adjusted fields.

    References
    ----------
    Wood, A. W., Leung, L. R., Sridhar, V. and Lettenmaier, D. P. (2004), Hydrologic implications of dynamical and
    statistical approaches to downscaling climate model outputs, Climatic Change 62, 189-216.
    Thrasher, B., Maurer, E. P., McKellar, C. and Duffy, P. B. (2012), Technical note: Bias correcting climate model
    simulated daily temperature extremes with quantile mapping, Hydrology and Earth System Sciences 16, 3309-3314.
    """
    names = fields_in({"observations": observed, "adjusted": adjusted}, variables)
    cells = CoarseCells.between(adjusted, observed)
    record = cells.order(select_period(observed, reference_period, "observations"), "observations")
    coarse = {}
    climatologies: dict[str, tuple[Floats, bool]] = {}
    days = Days.of(adjusted[TIME])
    weights = cycle_weights(days)
    for name in names:
        field, units = adjusted[name].transpose(TIME, *cells.coarse_axes.dims), str(adjusted[name].attrs["units"])
        fine = convert_units(record[name].transpose(TIME, *cells.axes.dims), str(record[name].attrs["units"]), units)
        ratio = automatic_form(record[name])[0] == "ratio"
        monthly = monthly_means(fine, cells.axes.y)
        mean = _daily(cells.mean(monthly), weights, ratio)
        values = read(field)
        if ratio:
            least = DRIEST * np.nanmean(mean, axis=0)
            anomaly = values / np.maximum(mean, np.where(least > 0, least, 1.0))
        else:
            anomaly = values - mean
        coarse[name] = field.copy(data=anomaly.astype(np.float32)).drop_attrs().assign_attrs(units="1")
        climatologies[name] = monthly, ratio
    anomalies = adjusted.drop_vars([str(name) for name in adjusted.data_vars if name not in names
                                    and TIME in adjusted[name].dims]).assign(coarse)  # fmt: skip
    step = next(iter(blocks((anomalies.sizes[TIME], *cells.axes.grid.shape))))
    fine_anomalies = cells.order(interpolate(anomalies[names].chunk({TIME: step.stop}), observed), BCSD)
    results = {}
    for name, (monthly, ratio) in climatologies.items():
        field = fine_anomalies[name].transpose(TIME, *cells.axes.dims)
        results[name] = field.copy(data=_restore(field.data, monthly, weights, ratio)).assign_attrs(
            adjusted[name].attrs
        )
    return fine_anomalies.assign(results)


def _restore(anomalies: Any, monthly: Floats, weights: Floats, ratio: bool) -> Any:
    """Return anomalies, a Dask array of whole maps, with the climatology of each day."""
    import dask.array as da

    def combine(block: Any, part: Any) -> Any:
        mean = _daily(monthly, part, ratio)
        return (block * mean if ratio else block + mean).astype(block.dtype)

    maps = anomalies.rechunk({1: -1, 2: -1})
    parts = da.from_array(weights, chunks=(maps.chunks[0], -1))
    return da.blockwise(combine, "tyx", maps, "tyx", parts, "tm", concatenate=True, dtype=maps.dtype)


def _daily(monthly: Floats, weights: Floats, ratio: bool) -> Floats:
    """Return the climatology of each day from monthly means (12, n_y, n_x)."""
    mean = np.tensordot(weights, monthly, 1)
    if not ratio:
        return np.asarray(mean)
    return np.asarray(np.maximum(mean, LEAST * np.min(monthly, axis=0)))


def monthly_means(field: xr.DataArray, y: str) -> Floats:
    """Return the mean of each month of the year of a field (time, y, x), shape (12, n_y, n_x)."""
    month = Days.of(field[TIME]).month
    parts = [group_means(read(field, **{y: part}), month, 12) for part in bands(field.shape)]
    return np.concatenate(parts, axis=1)


def map_quantiles(
    observed: xr.Dataset,
    historical: xr.Dataset,
    experiments: Mapping[str, xr.Dataset],
    *,
    reference_period: tuple[int, int],
    variables: Any = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, xr.Dataset]:
    """Return the model interpolated to the fine grid and adjusted there cell by cell, in memory, by experiment.

    The method and its settings are those of the adjustment on the coarse grid; orders of temperatures are kept by way
    of the range and the skewness.
    """
    names = fields_in({"observations": observed, "historical": historical, **experiments}, variables)
    cells = CoarseCells.between(historical, observed)
    record = to_adjustable(
        cells.order(select_period(observed, reference_period, "observations"), "observations")[names]
    )
    model = select_period(historical, reference_period, "historical")

    def fine(ds: xr.Dataset) -> xr.Dataset:
        return cells.order(to_adjustable(interpolate(ds[names], observed)), MAPPING)

    trained, inputs = fine(model), {key: fine(ds) for key, ds in experiments.items()}
    axes, longest = cells.axes, max(ds.sizes[TIME] for ds in (trained, *inputs.values()))
    rows = max(int(MOST_MAPPED // (longest * axes.grid.shape[1])), 1)
    results: dict[str, dict[str, list[xr.DataArray]]] = {key: {} for key in experiments}
    for name in fields_in({"observations": record, "historical": trained}):
        own = settings_for(name, record[name], (settings or {}).get(name))
        for first in range(0, axes.grid.shape[0], rows):
            part = {axes.y: slice(first, first + rows)}
            adjustment = train(record[name].isel(part).load(), trained[name].isel(part).load(), own)
            for key, ds in inputs.items():
                results[key].setdefault(name, []).append(adjustment.adjust(ds[name].isel(part).load()))
    return {
        key: from_adjustable(inputs[key].assign({name: xr.concat(one, axes.y) for name, one in fields.items()}))
        for key, fields in results.items()
    }
