"""Fields among the coordinates: surface pressure of hybrid levels, a 2-D orography, names of regions.

They are regridded with their fields: continuous ones by the kernel with cell conservation, codes and names by
repetition. Others are dropped with a warning and removed from attributes that name them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import xarray as xr

from downscale.cf.attributes import forget, references
from downscale.cf.bounds import bounds_variables
from downscale.cf.coordinates import dropped_coordinates
from downscale.cf.evidence import seems_position
from downscale.cf.horizontal import Horizontal
from downscale.cf.kinds import direction_reason, is_categorical
from downscale.nn.separable import METHODS
from downscale.request import Prepared, Request, companion_jobs
from downscale.steps.horizontal import fine_variable, repeated


@dataclass(frozen=True)
class Carried:
    """Plan for the coordinates on the horizontal dimensions that are not part of the grid.

    Attributes
    ----------
    fields, codes : tuple of str
        Coordinates to downscale, and coordinates to repeat.
    lost : mapping of str to str
        Coordinates to drop, and the reasons.
    """

    fields: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    lost: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the coordinates that are carried to the new grid."""
        return (*self.fields, *self.codes)

    @property
    def notes(self) -> list[str]:
        """Notes for the plan."""
        kinds = ((self.fields, "downscaled with the fields"), (self.codes, "repeated with the fields"))
        notes = [f"{', '.join(names)}: coordinates that are {what}" for names, what in kinds if names]
        return [*notes, *(f"{name}: dropped, {why}" for name, why in self.lost.items())]


def carried(ds: xr.Dataset, where: Horizontal, nests: bool) -> Carried:
    """Return the plan for fields among the coordinates; ``nests`` is whether cells stay whole."""
    names = dropped_coordinates(ds, where)
    if not names:
        return Carried()
    # Bounds accompany their coordinate, and cell measures the cells.
    said = [references(variable, ds.variables) for variable in ds.variables.values()]
    measures = {name for each in said for name in each.get("cell_measures", ())}
    fields: list[str] = []
    codes: list[str] = []
    lost: dict[str, str] = {}
    for name in names:
        if name in measures or name in bounds_variables(ds) or ds[name].attrs.get("standard_name") == "cell_area":
            continue
        why = _why_not(ds[name], where, nests)
        if why is not None:
            lost[name] = why
        else:
            (codes if is_categorical(ds[name]) else fields).append(name)
    return Carried(tuple(fields), tuple(codes), lost)


def _why_not(variable: xr.DataArray, where: Horizontal, nests: bool) -> str | None:
    """Return why a coordinate cannot be carried to a new grid, or None if it can."""
    if not set(where.dims) <= set(variable.dims):
        return "a coordinate along one horizontal axis only"
    if seems_position(variable):
        return "positions beside those of the grid"
    if direction_reason(variable) is not None:
        return "a direction, which has no mean over cells"
    if is_categorical(variable):
        return None if nests else "codes, which have no mean over the cells of a target that does not nest"
    return None if variable.dtype.kind in "fiu" else f"values of type {variable.dtype} have no mean over cells"


def carried_variables(ds: xr.Dataset, what: Carried, prepared: Prepared, request: Request) -> dict[str, xr.Variable]:
    """Return the fields among the coordinates on the cells of the result."""
    if not what.names:
        return {}
    plain = replace(
        request, method=request.method if request.method in METHODS else "sobolev", conserve="cell", bounds="auto",
        members=None, smoothing=None, footprint=None, lapse_rate=None, terrain_penalty=None, orog=None, mask=None,
        quantity=None, data_vars=None,
    )  # fmt: skip
    jobs = companion_jobs(ds, what.fields, prepared, plain)
    alone = replace(prepared, jobs=jobs, statics={}, lapse_rate=None, model=None, instrument=None)
    made = {name: fine_variable(ds[name], job, alone, plain) for name, job in jobs.items()}
    return made | {name: repeated(ds[name], prepared) for name in what.codes}


def without_dangling(made: xr.Dataset, ds: xr.Dataset) -> xr.Dataset:
    """Remove names of variables of ``ds`` that ``made`` lacks from its attributes, in place."""
    gone = {str(name) for name in ds.variables} - {str(name) for name in made.variables}
    for variable in made.variables.values() if gone else ():
        forget(variable, gone, ds.variables)
    return made
