"""The function :func:`downscale.project`: projections of one model from Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.io.paths import sources_of
from downscale.projections.outcome import Projection
from downscale.projections.recipe import CMIP_NAME, HISTORICAL
from downscale.projections.run import run_project
from downscale.runs.single import open_input


def project(
    model: Any, observations: Any, *, scenario: Any = None, factor: Any = None, target_grid: Any = None,
    variables: Any = None, reference: Any = None, validation: Any = None, future: Any = None,
    output: str | Path = "projection", name: str | None = None, title: str = "projection", statics: Any = None,
    dry_run: bool = False, overwrite: bool = False, resume: bool = False, cluster: str | None = None,
    workers: int | None = None, blocks: int | str | None = None, report: bool = True,
    scores: Mapping[str, Any] | None = None, **options: Any,
) -> Projection:  # fmt: skip
    """Make fine daily projections of one model from its files and fine observations.

    The model is adjusted on its own cells to the means of the observations over them, and downscaled so that each
    adjusted cell mean is conserved.

    Parameters
    ----------
    model : path, list of paths or Dataset
        The historical experiment: daily values (time, y, x).
    observations : path, list of paths or Dataset
        Daily observations on fine cells, with the units of the results.
    scenario : path, list of paths or Dataset, or mapping of name to these, optional
        Scenarios of the model. A single one is named "scenario" unless its CMIP name says more.
    factor, target_grid : optional
        Fine cells, as in :func:`downscale.downscale`; by default those of the observations.
    variables : list of str, or mapping of name to settings, optional
        By default all that model and observations share. Settings are those of
        :class:`downscale.projections.settings.VariableSettings`.
    reference, validation, future : str or pair of int, optional
        First and last year: ``"1979-1996"``. Adjustments are trained on ``reference``, by default all common years.
        ``validation`` are years for scores; ``future`` limits the scenarios.
    output : str or Path
        Folder of the results.
    name : str, optional
        Name of the model; by default its attribute ``source_id``, else "model".
    title : str
        Title of the report.
    statics : str, optional
        File with the fine orography.
    dry_run, overwrite, resume, cluster, workers, blocks, report, scores
        As in :func:`~downscale.projections.run.run_project` and the sections ``output`` and ``scores`` of recipes.
    **options
        Further arguments of :func:`downscale.downscale`, such as ``method="cascade"`` and ``members``.

    Returns
    -------
    Projection
        Files, check reports, settings and notes; ``open(experiment)`` opens the fine fields.

    Raises
    ------
    DownscaleError
        With a one-line message.

    Notes
    -----
    Cell conservation: the mean of the fine field over each coarse cell equals the adjusted coarse value.

    Examples
    --------
    >>> import downscale
    >>> downscale.project("tas_hist.nc", "tas_obs.nc", scenario="tas_ssp585.nc", reference="1979-2014")
    Traceback (most recent call last):
    downscale.errors.InputError: expected an existing file, received tas_hist.nc; check the path
    """
    scenarios = scenario if isinstance(scenario, Mapping) and not isinstance(scenario, xr.Dataset) else (
        {} if scenario is None else {_experiment_of(scenario): scenario})  # fmt: skip
    given = {HISTORICAL: model, **scenarios}
    names = [str(path) for path in _paths(model)] if not isinstance(model, xr.Dataset) else []
    if name is None:
        first = model if isinstance(model, xr.Dataset) else open_input(names)
        name = re.sub(r"[^\w.-]", "-", str(first.attrs.get("source_id", "model")))
    content = {
        "title": title,
        "models": {name: {key: _words(value) for key, value in given.items()}},
        "observations": _words(observations),
        "variables": [variables] if isinstance(variables, str) else variables,
        "periods": {"reference": reference, "validation": validation, "future": future},
        "statics": None if statics is None else {"orog": str(statics)},
        "downscale": {**options, **({} if factor is None else {"factor": factor}),
                      **({} if target_grid is None else {"target_grid": target_grid})},
        "scores": dict(scores or {}),
        "output": {"path": str(output), "blocks": blocks, "report": report},
    }  # fmt: skip
    datasets = {key: value for key, value in (*given.items(), ("observations", observations))
                if isinstance(value, xr.Dataset)}  # fmt: skip
    return run_project(
        content, datasets=datasets, dry_run=dry_run, overwrite=overwrite, resume=resume, cluster=cluster,
        workers=workers,
    )  # fmt: skip


def _paths(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | Path) else list(value)


def _words(value: Any) -> Any:
    """Return the paths of an input as text; a Dataset is named by its files, if it has any."""
    if isinstance(value, xr.Dataset):
        return list(sources_of(value)) or ["(a Dataset in memory)"]
    return [str(path) for path in _paths(value)]


def _experiment_of(value: Any) -> str:
    """Return the experiment in the CMIP name of a scenario, else "scenario"."""
    names = list(sources_of(value)) if isinstance(value, xr.Dataset) else [str(path) for path in _paths(value)]
    found = {match["experiment"] for name in names if (match := CMIP_NAME.fullmatch(Path(name).name))}
    return found.pop() if len(found) == 1 else "scenario"
