"""Adjustment of records in bands of cells that fit into memory; it can be stopped at any time and resumed.

A band of a variable is read with all of its days, trained once, and adjusted for each experiment. Its files have
checksums. When all bands are there, they are joined to one file per experiment, and the trained adjustments are kept
for further experiments.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.coordinates import select
from downscale.errors import InputError, OptionError, listing, pluralise
from downscale.io.leases import disk_errors, lock_output, temporary_beside
from downscale.io.library import open_file, to_file
from downscale.io.paths import OVERWRITE, check_netcdf, sources_of
from downscale.io.write import Storage, write_checked
from downscale.options import get_options, set_options
from downscale.process.computing import progress_bar
from downscale.process.interrupts import raise_if_signalled
from downscale.projections.adjustment import (
    Adjustment,
    Counts,
    load,
    parts_of,
    require_daily,
    require_xsdba,
    running_windows,
    train,
)
from downscale.projections.families import (
    HIGHEST,
    LOWEST,
    RANGE,
    RATIO,
    SKEWNESS,
    SNOW,
    family_names,
    from_adjustable,
    to_adjustable,
)
from downscale.projections.plan import Band, grid_of, plan_record
from downscale.projections.settings import VariableSettings, settings_for
from downscale.projections.years import TIME, Years, in_years, words_of
from downscale.runs.block_run import retry, show_progress, use_worker_threads
from downscale.runs.clusters import client_of, compute_on_cluster, profile_of
from downscale.runs.manifest import (
    clear,
    input_identities,
    is_own,
    read_manifest,
    remove_manifest,
    sweep,
    write_manifest,
)
from downscale.runs.recipe import Dask
from downscale.steps.history import add_history, result_encoding
from downscale.version import __version__

TRAINED = "adjustment"
HISTORICAL = "historical"
# Bytes of one block in time of the joined file.
BLOCK_BYTES = 32_000_000
Override = VariableSettings | Mapping[str, Any] | str | None
# Members of families, which replace others in the adjustment.
REPLACED = {LOWEST: (RANGE, SKEWNESS), HIGHEST: (RANGE, SKEWNESS), SNOW: (RATIO,)}


@dataclass
class AdjustedRecords:
    """The files of adjusted records.

    Attributes
    ----------
    files : dict
        The file of each experiment.
    settings : dict
        The complete settings of each adjusted variable.
    counts : dict
        By experiment and variable, the numbers of cells and values that were treated apart.
    notes : list of str
        What was done, and where cells were not adjusted.
    trained : list of path
        Files of the trained adjustments.
    tasks, kept : int
        Number of bands of all variables, and of those that an earlier run had finished.
    """

    files: dict[str, Path] = field(default_factory=dict)
    settings: dict[str, VariableSettings] = field(default_factory=dict)
    counts: dict[str, dict[str, Counts]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    trained: list[Path] = field(default_factory=list)
    tasks: int = 0
    kept: int = 0


@dataclass(frozen=True, eq=False)
class BandTask:
    """One band of one variable, for the process that computes it; records are lazy.

    ``targets`` are the files of the band by experiment, with their fingerprints; ``trained`` is that of its training.
    """

    name: str
    band: Band
    observed: xr.DataArray
    historical: xr.DataArray
    experiments: Mapping[str, xr.DataArray]
    settings: VariableSettings
    parts: Any
    trained: tuple[str, str]
    targets: Mapping[str, tuple[str, str]]
    resume: bool
    options: Mapping[str, Any]


def adjust_records(
    observed: xr.Dataset, historical: xr.Dataset, experiments: Mapping[str, xr.Dataset],
    settings: Mapping[str, Override] | None, folder: str | Path, *, reference: tuple[int, int], model: str = "model",
    resume: bool = False, overwrite: bool = False, cluster: str | None = None, workers: int | None = None,
    dask: Dask | None = None, inputs: Sequence[str] = (), complevel: int = 1,
) -> AdjustedRecords:  # fmt: skip
    """Adjust all variables of a model to observations on its own cells, and write one file per experiment.

    Parameters
    ----------
    observed, historical : Dataset
        Daily observations on the cells of the model, and the model in the same years; lazy, with the same variables.
    experiments : mapping of name to Dataset
        What to adjust, by experiment; may contain ``historical``.
    settings : mapping of name to settings, optional
        Settings by variable, or a method. Daily extremes are adjusted by way of ``tasrange`` and ``tasskew``, and
        snowfall by way of ``prsnratio``.
    folder : str or path
        Folder of the files ``MODEL_EXPERIMENT.nc``, which is created; trained adjustments are in ``adjustment``.
    reference : tuple of int
        First and last year of the training.
    model : str
        Name of the model, for file names.
    resume, overwrite : bool
        Keep what an earlier run has finished and still verifies, or replace all.
    cluster, workers, dask : optional
        As in :func:`downscale.run`.
    inputs : sequence of str
        Files that the records depend on, besides those that they were opened from.
    complevel : int
        Deflate level of the files.

    Returns
    -------
    AdjustedRecords
        Files, settings, numbers of values treated apart, and notes.

    Raises
    ------
    InputError, OptionError
        If records do not fit each other or the settings.
    OutputError
        If a file exists, or cannot be written.
    """
    require_xsdba()
    run = _Run(observed, historical, experiments, settings or {}, reference, inputs)
    target_folder = Path(folder)
    target_folder.mkdir(exist_ok=True, parents=True)
    targets = {experiment: target_folder / f"{model}_{experiment}.nc" for experiment in experiments}
    result = AdjustedRecords(files=targets, settings=run.settings)
    with lock_output(target_folder / f"{model}.nc"):
        finished = {}
        for experiment, target in targets.items():
            manifest = read_manifest(target, run.fingerprint(experiment), (0, 0)) if resume else None
            if manifest is not None:
                finished[experiment] = manifest["report"]
            else:
                check_netcdf(target, overwrite or (resume and is_own(target)), (), OVERWRITE)
        missing = [experiment for experiment in experiments if experiment not in finished]
        bands = plan_record(run.shape, run.length, run.longest, run.quantiles)
        tasks = run.tasks(bands, missing, target_folder, model, resume) if missing else []
        result.tasks = len(tasks)
        entries = _compute(tasks, cluster, workers, dask)
        result.kept = sum(entry["kept"] for entry in entries)
        result.trained = sorted({Path(task.trained[0]) for task in tasks})
        for experiment in missing:
            report = run.report([entry["reports"][experiment] for entry in entries])
            paths = {(task.name, task.band): Path(task.targets[experiment][0]) for task in tasks}
            pieces = {name: [[paths[name, band] for band in row] for row in bands] for name in run.names}
            _join(run, experiment, pieces, targets[experiment], complevel)
            retry(write_manifest, targets[experiment], run.fingerprint(experiment), (0, 0), report)
            finished[experiment] = report
        bands_folder = _bands_folder(target_folder, model)
        clear(bands_folder, bands_folder.glob("*.nc"))
    for experiment in experiments:
        result.counts[experiment] = {name: Counts(**found) for name, found in finished[experiment]["counts"].items()}
    result.notes = run.notes(finished)
    return result


class _Run:
    """The records of a run, in the form in which they are adjusted, and what identifies them."""

    def __init__(
        self, observed: xr.Dataset, historical: xr.Dataset, experiments: Mapping[str, xr.Dataset],
        settings: Mapping[str, Override], reference: tuple[int, int], inputs: Sequence[str],
    ) -> None:  # fmt: skip
        self.reference = reference
        self.originals = dict(experiments)
        self.observed = to_adjustable(_reference_days(observed, reference))
        self.historical = to_adjustable(_reference_days(historical, reference))
        self.experiments = {name: to_adjustable(ds) for name, ds in experiments.items()}
        self.names = [str(name) for name, values in self.observed.data_vars.items() if TIME in values.dims]
        self._require_alike()
        self.settings = self._settings(settings)
        first = self.historical[self.names[0]]
        self.dims = tuple(str(dim) for dim in first.dims if dim != TIME)
        if len(self.dims) not in (1, 2):
            raise InputError(
                f"{self.names[0]}: expected time and one or two dimensions in space, received {listing(first.dims)}; "
                "select one level or member"
            )
        self.shape = tuple(first.sizes[dim] for dim in self.dims)
        self.length = first.sizes[TIME]
        self.longest = max([self.length, *(ds.sizes[TIME] for ds in self.experiments.values())])
        self.quantiles = max((one.quantiles or 1 for one in self.settings.values()), default=1)
        self._identities = {
            key: _identity(ds, inputs)
            for key, ds in {
                "observed": observed,
                HISTORICAL: historical,
                **{f"to {k}": v for k, v in experiments.items()},
            }.items()
        }

    def _require_alike(self) -> None:
        """Raise an InputError unless all records have the variables and cells of the observations."""
        parts = {"the historical model": self.historical, **self.experiments}
        if not self.names:
            raise InputError("expected variables with dates in the observations, received none; see ncdump -h")
        for label, ds in parts.items():
            missing = [name for name in self.names if name not in ds.data_vars]
            if missing:
                raise InputError(
                    f"expected {listing(missing)} in {label}, received {listing(ds.data_vars)}; rename them"
                )
            for name in self.names:
                one, other = self.observed[name], ds[name]
                sizes = [{dim: size for dim, size in part.sizes.items() if dim != TIME} for part in (one, other)]
                if sizes[0] != sizes[1]:
                    raise InputError(
                        f"{name}: expected observations on the cells of {label} {sizes[1]}, received {sizes[0]}; "
                        "coarsen them to the grid of the model"
                    )
                require_daily(other, label)

    def _settings(self, overrides: Mapping[str, Override]) -> dict[str, VariableSettings]:
        for name in overrides:
            if name not in self.names and REPLACED.get(name, ("",))[0] in self.names:
                raise OptionError(
                    f"{name}: expected settings of the variables by way of which it is adjusted, "
                    f"{listing(REPLACED[name])}; give these"
                )
        return {name: settings_for(name, self.observed[name], overrides.get(name)) for name in self.names}

    def fingerprint(self, experiment: str | None = None, name: str | None = None) -> str:
        """Return a checksum of all that determines an adjusted record, or the training, of all variables or of one."""
        chosen = self.names if name is None else [name]
        facts = {
            "version": __version__, "xsdba": require_xsdba().__version__, "reference": self.reference,
            "settings": {one: self.settings[one].model_dump() for one in chosen},
            "records": [self._identities["observed"], self._identities[HISTORICAL]],
            "experiment": None if experiment is None else self._identities[f"to {experiment}"],
        }  # fmt: skip
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def tasks(
        self, bands: list[list[Band]], experiments: list[str], folder: Path, model: str, resume: bool
    ) -> list[BandTask]:  # fmt: skip
        """Return the bands of all variables."""
        numbers = parts_of(grid_of(self.shape), self.length)
        trained_folder, bands_folder = folder / TRAINED, _bands_folder(folder, model)
        for path in (trained_folder, bands_folder):
            path.mkdir(exist_ok=True)
        options = {key: value for key, value in get_options().items() if key != "progress"}
        tasks = []
        for name in self.names:
            trained = self.fingerprint(None, name)
            marks = {experiment: self.fingerprint(experiment, name) for experiment in experiments}
            for band in (band for row in bands for band in row):
                observed, historical = (band.cut(ds[name], self.dims) for ds in (self.observed, self.historical))
                tasks.append(BandTask(
                    name, band, observed, historical,
                    {one: band.cut(self.experiments[one][name], self.dims) for one in experiments},
                    self.settings[name], numbers[band.top : band.bottom, band.left : band.right],
                    (os.path.abspath(trained_folder / f"{model}_{name}_{band.label}.nc"), trained),
                    {one: (os.path.abspath(bands_folder / f"{one}_{name}_{band.label}.nc"), mark)
                     for one, mark in marks.items()},
                    resume, options,
                ))  # fmt: skip
        return tasks

    def report(self, entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the sums of counts over bands by variable, the first cells that were not adjusted, and notes."""
        counts: dict[str, Counts] = {}
        where: dict[str, str] = {}
        notes: dict[str, None] = {}
        for entry in entries:
            name = entry["name"]
            counts[name] = counts.get(name, Counts()) + Counts(**entry["counts"])
            if entry["where"]:
                where.setdefault(name, entry["where"])
            notes |= dict.fromkeys(entry["notes"])
        return {"counts": {name: vars(one) for name, one in counts.items()}, "where": where, "notes": list(notes)}

    def notes(self, reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Return in words what was done."""
        notes = [f"{name}: {one}" for name, one in self.settings.items()]
        notes += dict.fromkeys(note for report in reports.values() for note in report["notes"])
        first = next(iter(reports.values()))
        for name, found in first["counts"].items():
            one = Counts(**found)
            for number, reason in ((one.unobserved, "a year of observations"), (one.dry, "any positive value")):
                if number:
                    notes.append(
                        f"{name}: {number} of {pluralise(one.cells, 'cell')} without {reason} are not adjusted "
                        f"(the first at {first['where'][name]})"
                    )
        for experiment, report in reports.items():
            for name, found in report["counts"].items():
                one = Counts(**found)
                if one.clipped:
                    notes.append(f"{experiment}: {pluralise(one.clipped, 'value')} of {name} set to the nearest bound")
                if one.kept:
                    notes.append(
                        f"{experiment}: {pluralise(one.kept, 'value')} of {name} kept, without a distribution to adjust"
                    )
            windows = len(running_windows(self.experiments[experiment][TIME], self.length))
            if windows > 1 and any(one.method == "qdm" for one in self.settings.values()):
                notes.append(
                    f"{experiment}: adjusted in {windows} windows of the length of the reference period, moved by up "
                    "to 10 years"
                )
        return notes


def _reference_days(ds: xr.Dataset, years: Years) -> xr.Dataset:
    """Return the days of the reference period."""
    if TIME not in ds.coords or ds[TIME].dtype.kind not in "MO":
        raise InputError("expected dates along 'time', received none; see ncdump -h")
    chosen = in_years(ds, years)
    if not chosen.sizes[TIME]:
        raise InputError(f"expected days in the reference period {words_of(years)}, received none; choose other years")
    return chosen


def _identity(ds: xr.Dataset, inputs: Sequence[str]) -> list[Any]:
    """Return what identifies the values of a record: its files, coordinates and variables; values without files."""
    files = [*sources_of(ds), *inputs]
    identity: list[Any] = [sorted(map(str, ds.data_vars)), dict(ds.sizes), input_identities(files)]
    identity += [dask.base.tokenize(ds[name].values) for name in ds.dims if name in ds.coords]
    return identity if files else [*identity, *(dask.base.tokenize(values.data) for values in ds.data_vars.values())]


def _bands_folder(folder: Path, model: str) -> Path:
    return folder / f".{model}_bands"


# Computation of bands.


def _compute(
    tasks: list[BandTask], cluster: str | None, workers: int | None, recipe: Dask | None
) -> list[dict[str, Any]]:  # fmt: skip
    """Compute bands here or on a cluster, and return their reports."""
    recipe = recipe or Dask()
    profile = profile_of(cluster or ("local" if (workers or 1) > 1 and recipe.use is None else None), recipe)
    with show_progress(len(tasks), "bands") as advance:
        if profile is not None:
            keys = [f"band-{i}-{task.trained[1][:12]}" for i, task in enumerate(tasks)]
            with client_of(profile, workers) if tasks else nullcontext() as client:
                return compute_on_cluster(client, compute_band_on_worker, tasks, keys, advance) if tasks else []
        entries = []
        for task in tasks:
            entries.append(compute_band(task))
            advance()
            raise_if_signalled()
        return entries


def compute_band_on_worker(task: BandTask) -> dict[str, Any]:
    """Compute a band on this worker of a cluster."""
    with use_worker_threads():
        return compute_band(task)


def compute_band(task: BandTask) -> dict[str, Any]:
    """Train and adjust a band of a variable, unless its files verify; return its reports by experiment."""
    reports: dict[str, Any] = {}
    for experiment, (path, mark) in task.targets.items():
        manifest = read_manifest(Path(path), mark, _span(task.band)) if task.resume else None
        if manifest is not None:
            reports[experiment] = manifest["report"]
    kept = len(reports) == len(task.targets)
    with set_options(**{**task.options, "progress": "off"}):
        adjustment = None if kept else _trained(task)
        for experiment, (path, mark) in task.targets.items():
            if experiment not in reports and adjustment is not None:
                reports[experiment] = _adjust_band(task, adjustment, experiment, Path(path), mark)
    return {"kept": kept, "reports": reports}


def _span(band: Band) -> tuple[int, int]:
    return band.top, band.bottom


def _trained(task: BandTask) -> Adjustment:
    """Return the adjustment of a band: that of its file if this verifies, else a new one, which is written."""
    path, mark = Path(task.trained[0]), task.trained[1]
    if read_manifest(path, mark, _span(task.band)) is not None:
        return load(path)
    sweep([path])
    remove_manifest(path)
    adjustment = train(task.observed, task.historical, task.settings, parts=task.parts)
    retry(adjustment.save, path)
    retry(write_manifest, path, mark, _span(task.band), None)
    return adjustment


def _adjust_band(task: BandTask, adjustment: Adjustment, experiment: str, path: Path, mark: str) -> dict[str, Any]:
    sweep([path])
    remove_manifest(path)
    adjusted, counts = adjustment.apply(task.experiments[experiment])
    values = adjusted.transpose(TIME, ...)
    ds = xr.Dataset({task.name: (values.dims, values.values)})
    retry(_write_band, ds, path)
    report = {
        "name": task.name, "counts": vars(counts), "notes": list(adjustment.notes), "where": _first_left(adjustment),
        "units": adjustment.units,
    }  # fmt: skip
    retry(write_manifest, path, mark, _span(task.band), report)
    return report


def _write_band(ds: xr.Dataset, path: Path) -> None:
    with disk_errors(path), temporary_beside(path) as scratch:
        to_file(ds, scratch, {str(name): {"contiguous": True, "_FillValue": None} for name in ds.data_vars})


def _first_left(adjustment: Adjustment) -> str:
    """Return the place of the first cell that is not adjusted, or an empty text."""
    cells = adjustment.adjusted
    places = np.argwhere(~cells.values)
    if not len(places):
        return ""
    parts = []
    for dim, index in zip(cells.dims, places[0], strict=True):
        value = cells[dim].values[index] if dim in cells.coords else index
        parts.append(f"{dim} {value:g}" if isinstance(value, float | np.floating) else f"{dim} {value}")
    return ", ".join(parts)


# Joined files.


def _join(run: _Run, experiment: str, pieces: Mapping[str, list[list[Path]]], target: Path, complevel: int) -> None:
    """Write the file of an experiment from its bands, in blocks of days."""
    original = run.originals[experiment]
    ds = select(run.experiments[experiment], run.names)
    cells = int(np.prod(run.shape, dtype=int))
    steps = max(1, min(ds.sizes[TIME], BLOCK_BYTES // (4 * cells)))
    opened: list[xr.Dataset] = []
    try:
        fields = {}
        for name, rows in pieces.items():
            blocks = []
            for row in rows:
                opened += (parts := [open_file(path, chunks={TIME: steps}) for path in row])
                blocks.append(da.concatenate([part[name].data for part in parts], axis=-1))
            values = blocks[0] if len(run.dims) == 1 else da.concatenate(blocks, axis=1)
            like = ds[name].transpose(TIME, *run.dims)
            attrs = {**like.attrs, "bias_adjustment": str(run.settings[name])}
            units = run.observed[name].attrs.get("units")
            attrs |= {} if units is None else {"units": units}
            fields[name] = like.copy(data=values).assign_attrs(attrs).transpose(*ds[name].dims)
            fields[name].encoding = result_encoding(ds[name], original)
        made = from_adjustable(ds.assign(fields))
        _describe(made, run)
        # In the order of the model.
        names = [str(name) for name in original.data_vars if name in made.data_vars]
        made = select(made, [*names, *(str(name) for name in made.data_vars if name not in names)])
        period = f"{run.reference[0]}-{run.reference[1]}"
        made.attrs |= {
            "bias_adjustment_reference": period,
            "bias_adjustment_package": f"xsdba {require_xsdba().__version__}",
        }
        add_history(made, f"bias adjustment of {experiment} to observations of {period}")
        retry(write_checked, made, target, None, overwrite=True, storage=Storage(complevel), progress=progress_bar())
    finally:
        for part in opened:
            part.close()


def _describe(made: xr.Dataset, run: _Run) -> None:
    """Name the adjustments of variables that were adjusted by way of others."""
    for key, name in family_names(made).items():
        sources = [source for source in REPLACED.get(key, ()) if source in run.settings]
        if sources and name not in run.settings:
            made[name].attrs["bias_adjustment"] = "; ".join(f"{one}: {run.settings[one]}" for one in sources)
