"""The settings that self-validation supports, for ``method="auto"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import xarray as xr

from downscale.cf.horizontal import horizontal
from downscale.cf.kinds import is_categorical
from downscale.cf.quantities import infer_standard_name, is_temperature
from downscale.errors import spell
from downscale.methods.registry import KERNEL
from downscale.request import AUTO, Request, value_for
from downscale.steps.prepare import pick_variables, plan_maps, split_request
from downscale.steps.terrain import TerrainChoice, evidence_words, settle_terrain

PRESSURE = "surface_air_pressure"


@dataclass(frozen=True)
class Candidate:
    """Settings that ``method="auto"`` may choose, in words, and why it did or did not.

    ``error`` is the error of predicting the coarse field from its own coarsening, as a ratio to that of the kernel
    alone; None without evidence.
    """

    words: str
    is_chosen: bool
    error: float | None
    reason: str


@dataclass(frozen=True)
class Choice:
    """What ``method="auto"`` chose for a variable: the candidates, the kernel alone first."""

    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        chosen = next(one for one in reversed(self.candidates) if one.is_chosen)
        others = [f"{one.words} ({one.reason})" for one in self.candidates if not one.is_chosen and one.reason]
        error = None if chosen is self.candidates[0] else chosen.error
        evidence = "" if error is None else f"; {evidence_words(error)}"
        return chosen.words + evidence + (f"; not chosen: {', '.join(others)}" if others else "")


@dataclass(frozen=True)
class Settled:
    """A request in numbers, and how they were chosen by variable: terrain terms, and choices of ``method="auto"``."""

    request: Request
    terrain: Mapping[str, TerrainChoice]
    choices: Mapping[str, Choice]


def open_method(ds: xr.Dataset, request: Request) -> Request:
    """Return a request of "auto" as one of the default kernel whose other settings are left to self-validation.

    Settings that the request has are kept. Reads no data.
    """
    if request.method != AUTO:
        return request
    plain = replace(request, method=KERNEL)
    map_request = split_request(ds, plain)[1]
    if map_request is None or request.orog is None or request.lapse_rate is not None:
        return plain
    rates = {name: AUTO if follows_height(ds[name]) else None for name in _fields(ds, request)}
    return replace(plain, lapse_rate=rates if any(rates.values()) else None)


def follows_height(variable: xr.DataArray) -> bool:
    """Return whether a quantity is known to change with surface height: temperatures and surface pressure."""
    return is_temperature(variable) or infer_standard_name(variable)[0] == PRESSURE


def settle_request(ds: xr.Dataset, request: Request) -> Settled:
    """Return the request in numbers, with the choices of self-validation.

    Reads a sample of maps if a setting is left to self-validation, else nothing.
    """
    opened = open_method(ds, request)
    is_complete = opened.lapse_rate is None and request.method != AUTO
    map_request = None if is_complete else split_request(ds, opened)[1]
    if map_request is None:
        return Settled(opened, {}, {})
    chosen, terrain = settle_terrain(ds, map_request)
    settled = replace(opened, lapse_rate=chosen.lapse_rate, relief_smoothing=chosen.relief_smoothing)
    if request.method != AUTO:
        return Settled(settled, terrain, {})
    map_plan = plan_maps(ds, map_request)
    choices = {}
    for name, job in map_plan.jobs.items():
        kernel = KERNEL if job.power is None else f"{KERNEL} on x^p with {job.power}"
        others = [_terrain_candidate(ds[name], kernel, request, terrain.get(name))]
        if name in map_plan.observed:
            others.insert(0, Candidate(f"{kernel}, climatology", True, None, "weighted by its sampling error"))
        choices[name] = Choice((Candidate(kernel, not any(one.is_chosen for one in others), 1.0, ""), *others))
    return Settled(settled, terrain, choices)


def _fields(ds: xr.Dataset, request: Request) -> list[str]:
    """Return the names of the fields that are downscaled, without codes."""
    return [name for name in pick_variables(ds, horizontal(ds), request.data_vars) if not is_categorical(ds[name])]


def _terrain_candidate(
    variable: xr.DataArray, kernel: str, request: Request, choice: TerrainChoice | None
) -> Candidate:  # fmt: skip
    """Return the candidate with a terrain term, from its choice if there was one."""
    words = "terrain term"
    if choice is not None and choice.rate is not None:
        return Candidate(f"{kernel}, {choice.term}", True, choice.error, choice.reason)
    if choice is not None:
        return Candidate(words, False, choice.error, choice.reason)
    if request.orog is None:
        return Candidate(words, False, None, f"needs {spell('orog')}")
    if request.lapse_rate is None:
        return Candidate(words, False, None, "only for temperatures and surface pressure")
    is_given = value_for(request.lapse_rate, str(variable.name)) is not None
    return Candidate(f"{kernel}, terrain term as requested" if is_given else words, is_given, None, "")
