"""The result of a projection: files, check reports, settings and every choice."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.conservation.report import ConservationReport
from downscale.errors import OptionError, listing
from downscale.projections.assess import Assessment
from downscale.projections.recipe import HISTORICAL, ProjectRecipe
from downscale.projections.settings import VariableSettings
from downscale.report.page import Staged
from downscale.runs.single import open_input


@dataclass
class Projection(Staged):
    """The result of a projection.

    Attributes
    ----------
    files : dict
        Fine files by model and experiment.
    adjusted : dict
        The file of adjusted coarse fields by model and experiment.
    conservation : dict
        The check report of the written fine files by model and experiment.
    settings : dict
        Settings of the adjustment by variable.
    assessments : dict
        Scores, change signals, tables and report by model.
    notes : list of str
        Every choice: names, units, calendars, periods, methods, orders.
    stages : dict
        Seconds of each stage.
    """

    recipe: ProjectRecipe
    files: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    adjusted: dict[tuple[str, str], Path] = field(default_factory=dict)
    conservation: dict[tuple[str, str], ConservationReport | None] = field(default_factory=dict)
    settings: dict[str, VariableSettings] = field(default_factory=dict)
    plans: dict[tuple[str, str], Any] = field(default_factory=dict)
    assessments: dict[str, Assessment] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    command: str = ""

    def note(self, *lines: str) -> None:
        """Add notes that are not there yet."""
        self.notes += [line for line in dict.fromkeys(lines) if line not in self.notes]

    def open(self, experiment: str = HISTORICAL, model: str | None = None) -> xr.Dataset:
        """Return the fine fields of an experiment, opened lazily."""
        return open_input([str(path) for path in self.files[self._key(experiment, model)]])

    def open_adjusted(self, experiment: str = HISTORICAL, model: str | None = None) -> xr.Dataset:
        """Return the adjusted coarse fields of an experiment, opened lazily."""
        return open_input(str(self.adjusted[self._key(experiment, model)]))

    def _key(self, experiment: str, model: str | None) -> tuple[str, str]:
        keys = [key for key in self.files if key[1] == experiment and model in (None, key[0])]
        if len(keys) == 1:
            return keys[0]
        if keys:
            raise OptionError(f"expected the model of {experiment!r}, one of {listing(key[0] for key in keys)}")
        names = dict.fromkeys(key[1] for key in self.files)
        raise OptionError(f"expected an experiment among {listing(names)}, received {experiment!r}")

    def __repr__(self) -> str:
        lines = [f"Projection {self.recipe.title}"]
        lines += [f"  {name}: {settings}" for name, settings in self.settings.items()]
        lines += [f"  note: {note}" for note in self.notes]
        for key, plan in self.plans.items() if not self.files else ():
            lines += [f"  {' '.join(key)}", *(f"  {line}" for line in str(plan).splitlines()[1:])]
        for key, report in self.conservation.items():
            if report is not None:
                lines += [f"  {' '.join(key)}", *(f"  {line}" for line in repr(report).splitlines())]
        written = [path for paths in self.files.values() for path in paths]
        written += [path for assessment in self.assessments.values() for path in assessment.files]
        lines += [f"  wrote {path}" for path in written]
        return "\n".join(lines)
