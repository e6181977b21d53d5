"""The terrain term, and its rate and smoothing by self-validation one scale coarser.

The coarse field is predicted from its own coarsening by two, with and without the term of the coarse orography. The
sample of maps is fixed and read at once, so that the result does not depend on chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.coordinates import select
from downscale.cf.horizontal import Horizontal, horizontal
from downscale.cf.quantities import is_temperature
from downscale.engine.apply import compute_maps
from downscale.engine.job import Job
from downscale.fields.orography import Positions, smooth
from downscale.grid.subcells import SubcellGrid, Subcells
from downscale.methods.registry import find_method
from downscale.request import Request, is_auto, value_for
from downscale.steps.coarsen import coarsen
from downscale.steps.jobs import kernel_alone

if TYPE_CHECKING:
    from downscale.steps.prepare import MapPlan

SAMPLE_MAPS = 12
# Below this many coarse cells along an axis the coarsening is too small to compare methods.
LEAST_CELLS = 3
# Refinement factor of self-validation: the scale next to that of the fine field.
STEP = 2
# Tried smoothing of the coarse orography, in coarse cells: below a quarter of a cell there is next to none.
WIDTHS = (0.25, 0.5, 0.75, 1.0)
# Smoothing in fine cells that is never exceeded, and that is used without evidence.
MOST_SMOOTHING = 1.0
# Errors that differ by less are taken to be equal; a term must lower the error by more.
EQUAL = 0.01
# Standard errors by which a rate is lowered, from leaving out each of 4 x 4 parts of the domain.
STANDARD_ERRORS, PARTS = 2.0, 4
# Dry-adiabatic lapse rate in K per metre: no surface temperature changes faster with height on average.
DRY_ADIABATIC = 9.8e-3

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TerrainChoice:
    """The rate (units per metre; None for no term) and smoothing (fine cells) of the terrain term of one variable.

    ``error`` is the error of predicting the coarse field from its own coarsening with the term, as a ratio to that
    without it; None without evidence. ``reason`` explains the choice in words.
    """

    rate: Any
    smoothing: float
    error: float | None
    reason: str

    def __str__(self) -> str:
        if self.rate is None:
            return f"{self.term}: {self.reason}"
        if self.error is None:
            return f"{self.term}, not validated: {self.reason}"
        return f"{self.term}; {evidence_words(self.error)}"

    @property
    def term(self) -> str:
        """The term in words."""
        if self.rate is None:
            return "no terrain term"
        rate = f"{self.rate:g} per m" if np.ndim(self.rate) == 0 else "a field"
        cells = "1 fine cell" if self.smoothing == 1 else f"{self.smoothing:g} fine cells"
        return f"lapse rate {rate}, orography smoothed by {cells}" if self.smoothing else f"lapse rate {rate}"


def evidence_words(error: float) -> str:
    """Return the error of a setting, as a ratio to that without it, in words.

    Examples
    --------
    >>> evidence_words(0.786)
    'self-validation: RMSE 21.4 % lower than without it'
    """
    change = 100 * (1 - error)
    return f"self-validation: RMSE {abs(change):.1f} % {'lower' if change >= 0 else 'higher'} than without it"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Area-weighted products of the error of the kernel and the terrain term, one scale coarser, by part of the domain.

    ``squares`` are those of the error, shape (parts,); ``cross`` those of error and term, and ``terms`` those of the
    term, shape (widths, parts), for each smoothing in ``widths`` (in coarse cells).
    """

    widths: tuple[float, ...]
    squares: Floats
    cross: Floats
    terms: Floats

    def rate(self, at: int) -> float:
        """Return the rate with the least error for one width."""
        total = float(self.terms[at].sum())
        return float(self.cross[at].sum()) / total if total > 0 else 0.0

    def careful_rate(self, at: int) -> float:
        """Return the rate with the least error, lowered by two standard errors (jackknife), 0 if less than these."""
        parts = self.terms[at] > 0
        count = int(parts.sum())
        if count < 2:
            return 0.0
        cross, terms = self.cross[at][parts], self.terms[at][parts]
        without = (cross.sum() - cross) / (terms.sum() - terms)
        error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
        rate = self.rate(at)
        return float(np.sign(rate) * max(abs(rate) - STANDARD_ERRORS * error, 0.0))

    def error(self, at: int, rate: float) -> float:
        """Return the error with the term as a ratio to that without it."""
        total = float(self.squares.sum())
        change = rate**2 * float(self.terms[at].sum()) - 2 * rate * float(self.cross[at].sum())
        return float(np.sqrt(max(1 + change / total, 0.0))) if total > 0 else 1.0

    def at(self, width: float) -> int:
        """Return the index of the widest tried smoothing up to ``width`` coarse cells, or of the first."""
        return max(sum(one <= width * (1 + 1e-9) for one in self.widths) - 1, 0)

    def near_best(self, rate: float | None) -> list[int]:
        """Return the widths with nearly the least error for a rate, or each for its best rate, in ascending order."""
        errors = [self.error(at, self.rate(at) if rate is None else rate) for at in range(len(self.widths))]
        return [at for at, error in enumerate(errors) if error <= min(errors) * (1 + EQUAL)]


def terrain_term(orog: Floats, rate: Any, smoothing: float, job: Job, mask: Floats | None = None) -> Floats:
    """Return ``Gamma (S z - U A S z)``: the smoothed orography that the coarse grid does not resolve.

    Its mean over each coarse cell is zero for a constant rate. Cells outside ``mask`` do not affect their neighbours.
    """
    if smoothing:
        area = job.fine.cell_area
        weight = area if mask is None else np.where(mask > 0.5, area, 0.0)
        orog = smooth(orog, weight, positions(job.fine), smoothing)
    return np.asarray(rate) * _unresolved(orog, job)


def _unresolved(field: Floats, job: Job) -> Floats:
    """Return a fine field minus the one that the kernel makes from its coarse-cell means."""
    return field - compute_maps(np.asarray(job.cells.mean(field)), kernel_alone(job))


def positions(grid: Any) -> tuple[Positions, Positions]:
    """Return the positions of rows and columns in fine cells: indices, or for pieces those in mean target cells."""
    if isinstance(grid, SubcellGrid):
        return _piece_positions(grid.y), _piece_positions(grid.x)
    rows, columns = (np.arange(float(size)) for size in grid.shape)
    return Positions(rows), Positions(columns, float(grid.shape[1]) if grid.x.periodic else None)


def _piece_positions(parts: Subcells) -> Positions:
    scale, edges = parts.cells_per_coarse, parts.coarse.edges
    sign = 1.0 if parts.coarse.ascending else -1.0
    index = np.interp(sign * parts.centres, sign * edges, np.arange(float(edges.size)))
    return Positions(scale * index, scale * parts.coarse.size if parts.coarse.periodic else None)


def sample_maps(ds: xr.Dataset, axes: Horizontal, count: int = SAMPLE_MAPS) -> xr.Dataset:
    """Return about ``count`` maps, evenly spaced along the first other dimensions."""
    for dim in ds.sizes:
        if dim not in axes.dims and ds.sizes[dim] > count and any(dim in v.dims for v in ds.data_vars.values()):
            ds = ds.isel({dim: np.unique(np.linspace(0, ds.sizes[dim] - 1, count).round().astype(int))})
    return ds


def crop(ds: xr.Dataset, factors: Mapping[str, int]) -> xr.Dataset:
    """Return a Dataset without the last cells that do not make a whole coarser cell."""
    return ds.isel({dim: slice(0, ds.sizes[dim] // factor * factor) for dim, factor in factors.items()})


def settle_terrain(ds: xr.Dataset, request: Request) -> tuple[Request, dict[str, TerrainChoice]]:
    """Return the request with rates and smoothing as numbers, and the choices by variable; reads a sample of maps.

    A request without a terrain term, or with all its numbers, is returned as it is, without choices and without
    reading. The choices depend only on the values and the cells of the field, not on its chunks.
    """
    is_complete = not isinstance(request.lapse_rate, Mapping) and not is_auto(request.lapse_rate)
    if request.lapse_rate is None or (is_complete and isinstance(request.relief_smoothing, Real)):
        return request, {}
    from downscale.steps.prepare import plan_maps

    map_plan = plan_maps(ds, request)
    rates, widths = map_plan.lapse_rates, map_plan.relief_smoothing
    names = [name for name, rate in rates.items() if rate is not None and (is_auto(rate) or widths[name] is None)]
    evidence = _evidence(ds, map_plan, request, names) if names else {}
    factor = refinement(map_plan)
    choices = {
        name: _choose(evidence[name], rates[name], widths[name], factor, is_temperature(ds[name])) for name in names
    }
    settled: dict[str, dict[str, Any]] = {"lapse_rate": {}, "relief_smoothing": {}}
    for name, rate in rates.items():
        settled["lapse_rate"][name] = choices[name].rate if is_auto(rate) else value_for(request.lapse_rate, name)
        settled["relief_smoothing"][name] = choices[name].smoothing if name in choices else widths[name]
    return replace(request, **{key: _compact(values) for key, values in settled.items()}), choices


def _compact(values: dict[str, Any]) -> Any:
    """Return the value that all variables share, or all values by name."""
    first = next(iter(values.values()), None)
    same = (value is first or (isinstance(value, Real) and value == first) for value in values.values())
    return first if first is not None and all(same) else values


def refinement(map_plan: MapPlan) -> float:
    """Return the number of fine cells per coarse cell along the axis with most of them."""
    if map_plan.target.nests:
        return float(max(map_plan.target.factors))
    return max(parts.cells_per_coarse for parts in map_plan.target.parts)


def _choose(evidence: Evidence | str, rate: Any, smoothing: float | None, factor: float, kelvin: bool) -> TerrainChoice:
    """Return the rate and smoothing of a term, those that are given included; ``evidence`` may be why there is none."""
    auto = is_auto(rate)
    if isinstance(evidence, str):
        width = MOST_SMOOTHING if smoothing is None else smoothing
        return TerrainChoice(None, 0.0, None, evidence) if auto else TerrainChoice(rate, width, None, evidence)
    near = evidence.near_best(None if auto else _scale(rate))
    # The rate of the least smoothing is the smallest; the most smoothing degrades the least.
    least, most = near[0], near[-1]
    width = round(min(MOST_SMOOTHING, factor * evidence.widths[most]), 3) if smoothing is None else smoothing
    # Evidence for the term as it is applied.
    applied = evidence.at(width / factor)
    if not auto:
        return TerrainChoice(rate, width, evidence.error(applied, _scale(rate)), "")
    # The rate of the smoothing that is applied, or of less: rates of less smoothing are smaller.
    best = evidence.careful_rate(min(least, applied))
    if kelvin:
        best = float(np.clip(best, -DRY_ADIABATIC, DRY_ADIABATIC))
    best = float(f"{best:.3g}")
    error = evidence.error(applied, best)
    if error > 1 - EQUAL:
        reason = f"no rate lowers the error of self-validation by {100 * EQUAL:g} % with confidence"
        return TerrainChoice(None, 0.0, error, reason)
    return TerrainChoice(best, width, error, "")


def _scale(rate: Any) -> float:
    """Return a rate that is a number; a field of rates is part of the term."""
    return float(rate) if np.ndim(rate) == 0 else 1.0


def _evidence(ds: xr.Dataset, map_plan: MapPlan, request: Request, names: list[str]) -> dict[str, Evidence | str]:
    """Return the evidence for each variable, or why there is none."""
    from downscale.steps.prepare import plan_maps

    axes = map_plan.axes
    found: dict[str, Evidence | str] = {}
    for name in names:
        job = map_plan.jobs[name]
        if job.extensive:
            found[name] = "the values are sums over cells"
        elif is_auto(map_plan.lapse_rates[name]) and job.bounds != (None, None) and not job.strict_bounds:
            found[name] = "the values are bounded"
        elif is_auto(map_plan.lapse_rates[name]) and name in map_plan.observed:
            found[name] = "the climatology has the effect of orography already"
    steps = {dim: STEP if factor > 1 else 1 for dim, factor in map_plan.factors.items()}
    names = [name for name in names if name not in found]
    if any(ds.sizes[dim] // step < LEAST_CELLS for dim, step in steps.items()):
        return found | dict.fromkeys(names, f"self-validation needs {STEP * LEAST_CELLS} coarse cells along each axis")
    if not names:
        return found
    sample: xr.Dataset = crop(sample_maps(select(ds, names), axes), steps).load()
    others = {dim for name in names for dim in sample[name].dims} - set(axes.dims)
    one_map = sample.isel(dict.fromkeys(others, slice(1)))
    # Noise and networks correct this kernel.
    method = request.method if find_method(request.method).kind == "kernel" else "sobolev"
    plain = Request(
        factor=steps, method=method, bounds=None, quantity="intensive",
        taps=request.taps, order=request.order, data_vars=names, device=request.device, check="skip",
    )  # fmt: skip
    above: Any = coarsen(one_map, steps)
    upper = plan_maps(above, plain)
    orog, area, places = _coarse_orography(map_plan, sample)
    factor = refinement(map_plan)
    for name in names:
        rate, smoothing = map_plan.lapse_rates[name], map_plan.relief_smoothing[name]
        widths = WIDTHS if smoothing is None else (smoothing / factor,)
        job = upper.jobs[name]
        terms = [_unresolved(smooth(orog, area, places, width), job) for width in widths]
        if np.ndim(rate):
            local = map_plan.jobs[name].cells.mean(np.asarray(rate))[: orog.shape[0], : orog.shape[1]]
            terms = [local * term for term in terms]
        maps = sample[name].transpose(..., *axes.dims).values.reshape(-1, *orog.shape)
        found[name] = _products(maps, terms, area, job, widths)
    return found


def _coarse_orography(map_plan: MapPlan, sample: xr.Dataset) -> tuple[Floats, Floats, tuple[Positions, Positions]]:
    """Return the orography on the coarse cells of a sample, over valid parts of these, their areas and positions."""
    grid = horizontal(sample).grid
    rows, columns = (slice(size) for size in grid.shape)
    cells = next(iter(map_plan.jobs.values())).cells
    fine = np.asarray(map_plan.statics["orog"], np.float64)
    orog = cells.mean(fine)
    if "mask" in map_plan.statics:
        valid = cells.apply_mask(np.asarray(map_plan.statics["mask"]) > 0.5).mean(fine)
        orog = np.where(np.isfinite(valid), valid, orog)
    return orog[rows, columns], grid.cell_area, positions(grid)


def _products(maps: Floats, terms: list[Floats], area: Floats, job: Job, widths: tuple[float, ...]) -> Evidence:
    """Return the products of the terms and the error of predicting ``maps`` from their means over coarser cells."""
    squares, cross = np.zeros_like(_by_part(area)), np.zeros((len(terms), _by_part(area).size))
    squared_terms = cross.copy()
    for one in maps:
        field = one.astype(np.float64)
        error = field - compute_maps(job.cells.mean_of_finite(field), kernel_alone(job))
        valid = np.isfinite(error)
        weight, error = np.where(valid, area, 0.0), np.where(valid, error, 0.0)
        squares += _by_part(weight * error**2)
        cross += [_by_part(weight * error * term) for term in terms]
        squared_terms += [_by_part(weight * term**2) for term in terms]
    return Evidence(widths, squares, cross, squared_terms)


def _by_part(field: Floats) -> Floats:
    """Return the sums over 4 x 4 parts of a map, shape (parts,)."""
    rows, columns = (np.unique(np.arange(PARTS) * size // PARTS) for size in field.shape)
    sums: Floats = np.add.reduceat(np.add.reduceat(field, rows, axis=0), columns, axis=1).ravel()
    return sums
