"""Bias adjustment of a daily variable on the cells of a model, with the statistics of xsdba.

An adjustment is trained on observations and a model in a reference period, adjusts any experiment of that model, and is
stored as numbers and JSON. Random numbers of the frequency adaptation have a seed: equal input gives equal results.

References
----------
Cannon, A. J., Sobie, S. R. and Murdock, T. Q. (2015): Bias correction of GCM precipitation by quantile mapping: how
well do methods preserve changes in quantiles and extremes? Journal of Climate 28, 6938-6959,
doi:10.1175/JCLI-D-14-00754.1.

Themessl, M. J., Gobiet, A. and Heinrich, G. (2012): Empirical-statistical downscaling and error correction of regional
climate models and its impact on the climate change signal. Climatic Change 112, 449-468,
doi:10.1007/s10584-011-0224-4.

Lange, S. (2019): Trend-preserving bias adjustment and statistical downscaling with ISIMIP3BASD (v1.0). Geoscientific
Model Development 12, 3055-3070, doi:10.5194/gmd-12-3055-2019.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.quantities import units_of
from downscale.cf.units import convert
from downscale.errors import InputError, pluralise
from downscale.io.leases import disk_errors, temporary_beside
from downscale.io.library import reading, to_file
from downscale.process.computing import compute
from downscale.projections.settings import VariableSettings, threshold_in
from downscale.projections.years import TIME

CELL = "cell"
EXTRA = "pip install 'downscale-climate[project]'"
KINDS = {"additive": "+", "multiplicative": "*"}
GROUPS = {"dayofyear": "time.dayofyear", "month": "time.month", "season": "time.season", "time": "time"}
# The numbers of a trained adjustment that its application needs, by method.
TRAINED = {"qdm": ("af",), "eqm": ("af", "hist_q"), "dqm": ("af", "hist_q", "scaling"), "scaling": ("af",)}
FREQUENCIES = ("P0_ref", "P0_hist", "pth")
# A shorter record does not contain the seasons; cells with fewer observations are not adjusted.
FEWEST_DAYS = 350
# A record longer than this many reference periods is adjusted in windows of that length, moved by STEP_YEARS.
LONGEST, STEP_YEARS = 1.5, 10
# Zeros differ by less than LEAST when they are ranked, and results below NOTHING are zeros again.
LEAST, NOTHING = 1e-30, 1e-20
FORMAT, RECORD = 1, "downscale_adjustment"
# Values of the reference period per part: 129 cells of 36 years. With a window of 31 days, ranks take 0.8 GB for these.
PART_VALUES = 1_700_000
# NumPy's global generator, which xsdba uses, is that of all threads.
_GENERATOR = threading.Lock()


@dataclass
class Counts:
    """Numbers of cells and values that an adjustment treats apart.

    ``unobserved`` and ``dry`` cells are not adjusted; ``clipped`` values were outside the bounds; ``kept`` values have
    no adjustment, as in a season without any rain.
    """

    cells: int = 0
    unobserved: int = 0
    dry: int = 0
    values: int = 0
    clipped: int = 0
    kept: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Return the sums."""
        return Counts(**{key: value + getattr(other, key) for key, value in vars(self).items()})


class Adjusted(NamedTuple):
    """An adjusted variable, and the numbers of values treated apart."""

    field: xr.DataArray
    counts: Counts


@dataclass(frozen=True, eq=False)
class Adjustment:
    """A trained adjustment of one variable.

    Attributes
    ----------
    settings : VariableSettings
        The complete settings.
    table : Dataset
        Numbers of the method, by group of days and adjusted cell.
    adjusted : DataArray
        Whether each cell is adjusted.
    parts : ndarray
        Number of the part that each cell belongs to: the cells of a part are given to xsdba together.
    units : str
        Units of the observations, which are those of the result.
    calendar : str
        Calendar of the model.
    length : int
        Number of days of the reference period.
    counts : Counts
        Numbers of cells by how they are treated.
    notes : tuple of str
        What was done to align observations and model.
    """

    settings: VariableSettings
    table: xr.Dataset
    adjusted: xr.DataArray
    parts: NDArray[np.int64]
    units: str | None
    calendar: str
    length: int
    counts: Counts = field(default_factory=Counts)
    notes: tuple[str, ...] = ()

    def adjust(self, field: xr.DataArray) -> xr.DataArray:
        """Return the adjusted variable, in memory, with the data type of ``field`` and the units of the observations.

        Parameters
        ----------
        field : DataArray
            Daily values of the model on the cells and in the calendar of the training.
        """
        return self.apply(field).field

    def apply(self, field: xr.DataArray) -> Adjusted:
        """Return the adjusted variable, and the numbers of values treated apart."""
        days = require_daily(field, "the model")
        if calendar_of(field) != self.calendar:
            raise InputError(
                f"{field.name}: expected the calendar {self.calendar!r} of the training, received "
                f"{calendar_of(field)!r}; convert it with xarray's convert_calendar"
            )
        raw = in_units(field, self.units).load()
        cells = _as_cells(raw).assign_coords({TIME: days.values})
        use = self.adjusted.values.ravel()
        if cells.sizes[CELL] != use.size:
            raise InputError(f"{field.name}: expected {use.size} cells as trained, received {cells.sizes[CELL]}")
        values = np.array(cells.values)
        counts = replace(self.counts, values=int(np.isfinite(values).sum()))
        for number, columns, table in self._parts():
            values[:, columns], clipped, kept = self._apply_to(cells.isel({CELL: columns}), table, number)
            counts = replace(counts, clipped=counts.clipped + clipped, kept=counts.kept + kept)
        result = _like(values, raw)
        result.attrs["bias_adjustment"] = str(self.settings)
        return Adjusted(result, counts)

    def _parts(self) -> Iterator[tuple[int, NDArray[np.int64], xr.Dataset]]:
        """Yield the number, the adjusted cells and the numbers of the method of each part."""
        numbers = self.parts[self.adjusted.values.ravel()]
        for number, columns in _columns(self.adjusted.values.ravel(), self.parts):
            yield number, columns, self.table.isel({CELL: np.flatnonzero(numbers == number)})

    def _apply_to(
        self, cells: xr.DataArray, table: xr.Dataset, number: int
    ) -> tuple[NDArray[Any], int, int]:  # fmt: skip
        """Return the values of the adjusted cells of a part, and the numbers of clipped and of kept values."""
        settings, plain = self.settings, _plain(cells)
        source = to_odds(plain, settings)
        result = np.full(cells.shape, np.nan, cells.dtype)
        # Other methods do not depend on the distribution of the record, or remove its trend.
        windows = running_windows(cells[TIME], self.length if settings.method == "qdm" else cells.sizes[TIME])
        for i, (window, steps) in enumerate(windows):
            with _statistics(number, 1 + i):
                made = _method(settings, self.units, table, self.calendar).adjust(
                    break_ties(source.isel({TIME: window}), settings), **_adjust_options(settings)
                )
            made = made.transpose(TIME, CELL).assign_coords({TIME: source[TIME][window]})
            part = np.zeros(cells.sizes[TIME], bool)
            part[steps] = True
            result[part] = made.values[part[window]]
        result = from_odds(result, settings)
        result[(cells.values <= 0) & (abs(result) < NOTHING)] = 0
        is_kept = ~np.isfinite(result) & np.isfinite(cells.values)
        result[is_kept] = cells.values[is_kept]
        outside = count_outside(result, settings)
        if outside:
            result = np.clip(result, settings.lower, settings.upper)
        return result, outside, int(is_kept.sum())

    def save(self, path: str | Path) -> None:
        """Write the adjustment to a NetCDF file, which appears complete or not at all."""
        target = Path(path)
        with disk_errors(target), temporary_beside(target) as scratch:
            to_file(self.to_dataset(), scratch, {
                str(name): {"zlib": True, "complevel": 1} for name, table in self.table.items() if table.ndim
            })  # fmt: skip

    def to_dataset(self) -> xr.Dataset:
        """Return the numbers of the adjustment, and all else as JSON in an attribute."""
        record = {
            "format": FORMAT, "settings": self.settings.model_dump(), "units": self.units, "calendar": self.calendar,
            "length": self.length, "counts": vars(self.counts), "notes": self.notes,
        }  # fmt: skip
        adjusted = self.adjusted.astype("i1").reset_coords(drop=True).drop_attrs()
        parts = adjusted.copy(data=self.parts.reshape(adjusted.shape))
        ds = self.table.drop_attrs().assign(adjusted=adjusted, parts=parts)
        return ds.assign_attrs({RECORD: json.dumps(record)})


def load(path: str | Path) -> Adjustment:
    """Return the adjustment of a file that :meth:`Adjustment.save` has written."""
    try:
        with reading(path) as ds:
            return from_dataset(ds.load())
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"expected the file of an adjustment, received {path} ({reason}); train it anew") from error


def from_dataset(ds: xr.Dataset) -> Adjustment:
    """Return the adjustment of the result of :meth:`Adjustment.to_dataset`."""
    record = json.loads(ds.attrs[RECORD])
    if record["format"] != FORMAT:
        raise ValueError(f"format {record['format']}")
    adjusted = ds["adjusted"].astype(bool).drop_attrs()
    table = ds.drop_vars(["adjusted", "parts", *adjusted.coords]).drop_attrs()
    return Adjustment(
        VariableSettings(**record["settings"]), table, adjusted, ds["parts"].values.ravel(), record["units"],
        record["calendar"], record["length"], Counts(**record["counts"]), tuple(record["notes"]),
    )  # fmt: skip


def train(
    observed: xr.DataArray, model: xr.DataArray, settings: VariableSettings, *, parts: NDArray[Any] | None = None
) -> Adjustment:
    """Return the adjustment of a model to observations in the days that both contain.

    Parameters
    ----------
    observed, model : DataArray
        Daily values of a variable on the same cells, already cut to the reference period.
    settings : VariableSettings
        Complete settings, as :func:`~downscale.projections.settings.settings_for` returns them.
    parts : ndarray of int, optional
        Number of the part that each cell belongs to, by default that of :func:`parts_of`. It is the seed of the part.

    Notes
    -----
    Observations take the calendar and the days of the model; days that one of both lacks are missing. Cells with fewer
    than 350 days of observations, and cells without a positive value in a multiplicative adjustment, are not adjusted.
    """
    reference, historical, notes = align(observed, model)
    units = units_of(observed)
    historical = in_units(historical, units)
    ref, hist = _as_cells(reference.load()), _as_cells(historical.load())
    if ref.sizes[CELL] != hist.sizes[CELL]:
        raise InputError(
            f"{model.name}: expected observations on the {hist.sizes[CELL]} cells of the model, received "
            f"{ref.sizes[CELL]}; coarsen them to the grid of the model"
        )
    is_valid = np.isfinite(ref.values) & np.isfinite(hist.values)
    is_observed = is_valid.sum(axis=0) >= FEWEST_DAYS
    is_dry = np.zeros_like(is_observed)
    if settings.kind == "multiplicative":
        positive = [(np.where(is_valid, values.values, 0) > 0).any(axis=0) for values in (ref, hist)]
        is_dry = is_observed & ~(positive[0] & positive[1])
    use = is_observed & ~is_dry
    if settings.method == "none":
        use = np.zeros_like(use)
    spatial = [dim for dim in model.dims if dim != TIME]
    adjusted = xr.DataArray(
        use.reshape([model.sizes[dim] for dim in spatial]), dims=spatial,
        coords={dim: model[dim] for dim in spatial if dim in model.coords},
    )  # fmt: skip
    counts = Counts(cells=use.size, unobserved=int((~is_observed).sum()), dry=int(is_dry.sum()))
    notes += _bound_notes(ref, settings)
    length = hist.sizes[TIME]
    numbers = (parts_of(adjusted.shape, length) if parts is None else np.asarray(parts)).ravel()
    tables = [_train_part(ref.isel({CELL: columns}), hist.isel({CELL: columns}), settings, units, number)
              for number, columns in _columns(use, numbers)]  # fmt: skip
    table = xr.Dataset()
    if tables:
        # In the order of the cells, which parts of several rows divide.
        order = np.argsort(np.concatenate([columns for _, columns in _columns(use, numbers)]))
        table = xr.concat(tables, CELL, data_vars="all", join="exact").isel({CELL: order})
    return Adjustment(settings, table, adjusted, numbers, units, calendar_of(model), length, counts, tuple(notes))


def _train_part(
    ref: xr.DataArray, hist: xr.DataArray, settings: VariableSettings, units: str | None, number: int
) -> xr.Dataset:
    """Return the numbers of the method for the cells of a part."""
    pair = [to_odds(_plain(cells), settings) for cells in (ref, hist)]
    with _statistics(number, 0):
        trained = _class_of(settings).train(*pair, **_train_options(settings, units))
    names = TRAINED[str(settings.method)] + (FREQUENCIES if settings.wet_threshold is not None else ())
    table = trained.ds[list(names)].drop_attrs().drop_vars(CELL, errors="ignore").transpose(..., CELL)
    return table.assign({name: table[name].astype(np.float32) for name in TRAINED[str(settings.method)]})


def parts_of(shape: tuple[int, ...], length: int) -> NDArray[np.int64]:
    """Return the number of the part of each cell of a grid, for a reference period of some days.

    A part is a piece of a row or several rows. Its cells are given to xsdba together: the more, the smaller the fixed
    cost per cell; the fewer, the less memory. Parts do not depend on how a grid is divided into bands, and so neither
    do random numbers.

    Examples
    --------
    >>> parts_of((3, 4), PART_VALUES // 8).tolist()
    [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    >>> parts_of((2, 4), PART_VALUES // 2).tolist()
    [[0, 0, 1, 1], [2, 2, 3, 3]]
    """
    width = shape[-1] if shape else 1
    height = int(np.prod(shape[:-1], dtype=int))
    most = max(1, PART_VALUES // max(length, 1))
    rows, pieces = max(1, most // width), -(-width // most)
    number = (np.arange(height) // rows)[:, None] * pieces + np.arange(width) * pieces // width
    return number.reshape(shape).astype(np.int64)


def _columns(use: NDArray[np.bool_], numbers: NDArray[Any]) -> list[tuple[int, NDArray[np.int64]]]:
    """Return the number and the adjusted cells of each part with any."""
    found = ((int(number), np.flatnonzero(use & (numbers == number))) for number in np.unique(numbers))
    return [(number, columns) for number, columns in found if columns.size]


def _bound_notes(ref: xr.DataArray, settings: VariableSettings) -> list[str]:
    """Return a note if observations themselves are outside the bounds."""
    outside = count_outside(ref.values, settings)
    if not outside:
        return []
    return [f"{ref.name}: {pluralise(outside, 'observed value')} outside the bounds; set lower and upper"]


def count_outside(values: NDArray[Any], settings: VariableSettings) -> int:
    """Return the number of values outside the bounds."""
    below = 0 if settings.lower is None else np.count_nonzero(values < settings.lower)
    return int(below + (0 if settings.upper is None else np.count_nonzero(values > settings.upper)))


# Time: days, calendars and windows.


def calendar_of(field: xr.DataArray) -> str:
    """Return the calendar of a variable."""
    return str(field[TIME].dt.calendar)


def require_daily(field: xr.DataArray, label: str) -> xr.DataArray:
    """Return the day of each step, or raise an InputError unless there is one step per day, in order."""
    if TIME not in field.dims or TIME not in field.coords or field[TIME].dtype.kind not in "MO":
        raise InputError(f"{field.name}: expected dates along 'time' in {label}, received none; see ncdump -h")
    size = field.sizes[TIME]
    if size < FEWEST_DAYS:
        raise InputError(f"{field.name}: expected at least a year of days in {label}, received {size} steps")
    starts = field[TIME].dt.floor("D")
    days = starts.to_index()
    if not days.is_unique or not days.is_monotonic_increasing:
        raise InputError(f"{field.name}: expected days in order, each once, in {label}; sort and average them by day")
    if (days[-1] - days[0]).days > 4 * size:
        raise InputError(f"{field.name}: expected daily values in {label}, received longer steps; use a daily record")
    return starts


def align(observed: xr.DataArray, model: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray, list[str]]:
    """Return observations and model on the same days in the calendar of the model, and notes.

    Observations are converted to the calendar of the model: February 29 is left out for a calendar without it; for 360
    days, five or six days of the year are left out, spread over it. Days of the model without observations are missing
    in these; other days of the observations are left out.
    """
    notes = []
    labels = {"the observations": observed, "the model": model}
    observed, model = (part.assign_coords({TIME: require_daily(part, label)}) for label, part in labels.items())
    own, wanted = calendar_of(observed), calendar_of(model)
    if own != wanted:
        # Days of the year keep their season in a calendar of another length.
        way = "year" if "360_day" in (own, wanted) else "date"
        observed = observed.convert_calendar(wanted, dim=TIME, align_on=way, use_cftime=model[TIME].dtype.kind == "O")
        notes.append(f"{observed.name}: observations converted from calendar {own} to {wanted} by {_WAYS[way]}")
    elif model[TIME].dtype.kind != observed[TIME].dtype.kind:
        observed = observed.convert_calendar(wanted, dim=TIME, use_cftime=model[TIME].dtype.kind == "O")
    first = max(observed[TIME].values[0], model[TIME].values[0])
    last = min(observed[TIME].values[-1], model[TIME].values[-1])
    common = model.sel({TIME: slice(first, last)}) if first <= last else model.isel({TIME: slice(0)})
    if common.sizes[TIME] < FEWEST_DAYS:
        raise InputError(
            f"{model.name}: expected observations and model with at least a common year, received "
            f"{_span(observed)} and {_span(model)}; choose other periods"
        )
    index = observed.get_index(TIME)
    missing = ~common.get_index(TIME).isin(index)
    if missing.any():
        notes.append(f"{model.name}: {pluralise(int(missing.sum()), 'day')} of the model without observations")
    reference = observed.reindex({TIME: common[TIME]})
    return reference, common, notes


_WAYS = {"date": "date", "year": "relative position in the year"}


def _span(field: xr.DataArray) -> str:
    first, last = (str(field[TIME].dt.strftime("%Y-%m-%d").values[i]) for i in (0, -1))
    return f"{first} to {last}"


def running_windows(times: xr.DataArray, length: int) -> list[tuple[slice, slice]]:
    """Return windows of a record, and the steps that each of them adjusts, as slices.

    A record of up to 1.5 times ``length`` days is one window. A longer one has windows of ``length`` days around parts
    of ten years (fewer for a shorter ``length``), moved into the record at its ends.

    Examples
    --------
    >>> times = xr.DataArray(np.arange("2000-01-01", "2060-01-01", dtype="M8[D]").astype("M8[ns]"), dims="time")
    >>> [(w.start, w.stop, s.start, s.stop) for w, s in running_windows(times, 7305)]  # doctest: +ELLIPSIS
    [(0, 7305, 0, 3653), (1826, 9131, 3653, 7305), (5479, 12784, 7305, 10958), ...]
    """
    size = times.size
    if size <= LONGEST * length:
        return [(slice(0, size), slice(0, size))]
    years = times.dt.year.values
    parts = (years - years[0]) // min(STEP_YEARS, max(1, length // 366))
    found: list[tuple[slice, slice]] = []
    for part in np.unique(parts):
        steps = np.flatnonzero(parts == part)
        start = int(np.clip((steps[0] + steps[-1] + 1 - length) // 2, 0, size - length))
        window, own = slice(start, start + length), slice(int(steps[0]), int(steps[-1]) + 1)
        if found and found[-1][0] == window:
            own = slice(found.pop()[1].start, own.stop)
        found.append((window, own))
    return found


# Values.


def in_units(field: xr.DataArray, units: str | None) -> xr.DataArray:
    """Return a variable in other units, with its data type."""
    own = units_of(field)
    if own == units or own is None or units is None:
        return field
    zero, one = convert(0.0, own, units), convert(1.0, own, units)
    if zero is None or one is None:
        raise InputError(f"{field.name}: expected units that convert to {units!r}, received {own!r}; convert them")
    if (zero, one) == (0.0, 1.0):
        return field.assign_attrs(units=units)
    converted = (field.astype(np.float64) * (one - zero) + zero).astype(field.dtype)
    return converted.assign_attrs({**field.attrs, "units": units})


def _as_cells(field: xr.DataArray) -> xr.DataArray:
    """Return a variable with its dimensions in space as one, named ``cell``, without their coordinates."""
    (values,) = compute(field.transpose(TIME, ...).data)
    flat = np.asarray(values).reshape(field.sizes[TIME], -1)
    return xr.DataArray(flat, dims=(TIME, CELL), coords={TIME: field[TIME].values}, name=field.name)


def _like(values: NDArray[Any], field: xr.DataArray) -> xr.DataArray:
    """Return values of all cells as a variable like another."""
    moved = field.transpose(TIME, ...)
    return moved.copy(data=values.reshape(moved.shape).astype(field.dtype, copy=False)).transpose(*field.dims)


def _plain(cells: xr.DataArray) -> xr.DataArray:
    """Return values as xsdba takes them: units are converted here, and its own are dimensionless."""
    if cells[TIME].dtype.kind == "O" and calendar_of(cells) in ("standard", "gregorian"):
        # The calendars differ before 1582 only, and xsdba warns of one of them.
        cells = cells.convert_calendar("proleptic_gregorian", dim=TIME, use_cftime=False)
    return xr.DataArray(
        cells.values, dims=(TIME, CELL), coords={TIME: cells[TIME].values, CELL: np.arange(cells.sizes[CELL])},
        attrs={"units": "1"}, name=cells.name,
    )  # fmt: skip


def to_odds(cells: xr.DataArray, settings: VariableSettings) -> xr.DataArray:
    """Return the logarithm of the odds of values between two bounds if the settings say so, else the values."""
    if settings.transform is None:
        return cells
    from xsdba.processing import to_additive_space

    made = to_additive_space(
        cells, str(settings.lower), str(settings.upper), trans="logit", clip_next_to_bounds="permissive"
    )
    return cells.copy(data=made.values)


def break_ties(cells: xr.DataArray, settings: VariableSettings) -> xr.DataArray:
    """Return values in which zeros differ, for quantile delta mapping by ratios.

    xsdba ranks ties by their mean and scales ranks to start at zero: with many dry days, those of wet days would be too
    low. Cannon et al. (2015) replace zeros by small random numbers as well.
    """
    if settings.method != "qdm" or settings.kind != "multiplicative":
        return cells
    from xsdba.processing import jitter_under_thresh

    return cells.copy(data=jitter_under_thresh(cells, repr(LEAST)).values)


def from_odds(values: NDArray[Any], settings: VariableSettings) -> NDArray[Any]:
    """Return the values of logarithms of odds."""
    if settings.transform is None:
        return values
    from xsdba.processing import from_additive_space

    wrapped = xr.DataArray(values, dims=(TIME, CELL), attrs={"units": "1"})
    made = from_additive_space(
        wrapped, lower_bound=str(settings.lower), upper_bound=str(settings.upper), trans="logit", units="1"
    )
    return np.asarray(made.values, values.dtype)


# The statistics of xsdba.


def require_xsdba() -> Any:
    """Return the package xsdba, or raise an InputError with the way to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import xsdba
    except ImportError as error:
        raise InputError(f"downscale project needs xsdba: {EXTRA}") from error
    return xsdba


@contextmanager
def _statistics(*seed: int) -> Iterator[None]:
    """Give xsdba its random numbers, quietly: it uses NumPy's global generator, whose state is restored."""
    require_xsdba()
    with _GENERATOR, warnings.catch_warnings():
        # Values without a distribution are counted here.
        warnings.filterwarnings("ignore", message="All-nan slice encountered", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="(invalid value|divide by zero|overflow)", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="Using DQM with a grouping other than", category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="xsdba")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="xsdba")
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _class_of(settings: VariableSettings) -> Any:
    xsdba = require_xsdba()
    return {
        "qdm": xsdba.QuantileDeltaMapping, "dqm": xsdba.DetrendedQuantileMapping, "eqm": xsdba.EmpiricalQuantileMapping,
        "scaling": xsdba.Scaling,
    }[str(settings.method)]  # fmt: skip


def _grouper(settings: VariableSettings) -> Any:
    return require_xsdba().Grouper(GROUPS[str(settings.group)], settings.window or 1)


def _threshold(settings: VariableSettings, units: str | None) -> str | None:
    return None if settings.wet_threshold is None else repr(threshold_in(settings.wet_threshold, units))


def _train_options(settings: VariableSettings, units: str | None) -> dict[str, Any]:
    """Return the arguments of the training by xsdba."""
    options: dict[str, Any] = {"group": _grouper(settings), "kind": KINDS[str(settings.kind)]}
    if settings.method == "scaling":
        return options
    threshold = _threshold(settings, units)
    # Noise below the threshold, in the distribution of the model only, avoids ratios to values near zero.
    return options | {
        "nquantiles": settings.quantiles,
        "adapt_freq_thresh": threshold,
        "jitter_under_thresh_value": threshold,
    }


def _adjust_options(settings: VariableSettings) -> dict[str, Any]:
    """Return the arguments of the adjustment by xsdba."""
    options: dict[str, Any] = {"interp": settings.interp}
    if settings.method == "qdm":
        options["rank_window"] = settings.window is not None
    if settings.method == "dqm":
        options["detrend"] = settings.detrend
    return options


def _method(settings: VariableSettings, units: str | None, table: xr.Dataset, calendar: str) -> Any:
    """Return a trained method of xsdba from its numbers; its own files are objects of Python, which are not read."""
    parameters: Mapping[str, Any] = {"group": _grouper(settings), "kind": KINDS[str(settings.kind)]}
    if settings.method != "scaling":
        parameters = {**parameters, "adapt_freq_thresh": _threshold(settings, units), "max_tail_factor": None}
    method = _class_of(settings)(_trained=True, hist_calendar=calendar, train_units="1", **parameters)
    method.ds = table.assign_coords({CELL: np.arange(table.sizes[CELL])})
    return method
