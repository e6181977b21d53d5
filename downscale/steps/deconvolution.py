"""Deconvolution of xarray objects by the point-spread function of an instrument, map by map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.horizontal import Horizontal, XarrayObject, as_array, as_dataset, horizontal, is_categorical
from downscale.cf.quantities import quantity_of
from downscale.deconvolution.instrument import Instrument
from downscale.deconvolution.methods import Restoration
from downscale.deconvolution.psf import pick_psf
from downscale.engine.checks import finite_or_missing
from downscale.engine.device import Lane, pick_device
from downscale.errors import InputError, OptionError, listing
from downscale.io.read import SOURCES, sources_of
from downscale.methods.footprint import seen_through, whole_maps
from downscale.options import option
from downscale.request import pick_variables, result_type
from downscale.steps.history import stamped

KEPT_ENCODING = ("grid_mapping", "cell_measures")
# Variables reported for each map.
TOLD = ("iterations", "parameter", "noise", "misfit")


@dataclass(frozen=True, eq=False)
class Course:
    """The plan of a deconvolution, made before any data are read.

    Attributes
    ----------
    instrument : Instrument
        The point-spread function on the cells.
    restoration : Restoration
        Method and options.
    dims : tuple of str
        Dimensions that are restored together; chunks may split all others.
    names : tuple of str
        Variables to restore.
    """

    instrument: Instrument
    restoration: Restoration
    dims: tuple[str, ...]
    names: tuple[str, ...]

    def __str__(self) -> str:
        cells = " x ".join(map(str, self.instrument.shape))
        return (
            f"deconvolve {', '.join(self.names)}: psf={self.instrument.psf} {self.restoration}; fields of {cells} "
            f"cells along {', '.join(self.dims)} are not split, since each step needs all of them; chunks split others"
        )


def deconvolve(
    obj: XarrayObject,
    psf: Any,
    method: str = "richardson_lucy",
    *,
    noise: float | None = None,
    iterations: int | None = None,
    damping: float | None = None,
    parameter: float | None = None,
    order: int | None = None,
    dims: Any = None,
    data_vars: Any = None,
    device: str | None = None,
    keep_attrs: bool | None = None,
) -> XarrayObject:
    """Undo the blur of an instrument and conserve the flux of every map.

    Parameters
    ----------
    obj : Dataset or DataArray
        Blurred fields. Never modified. Missing cells stay missing and exchange no flux.
    psf : str, Psf, ArrayPsf or array
        The point-spread function: a description such as "gaussian:25km" (full width at half maximum),
        "gaussian:40x25km@30" (along x across, the first axis 30 degrees clockwise from north), "box:10km", "airy:12km";
        or weights of cells that add up to one. Lengths are in km along great circles on latitude and longitude, in km
        of the plane on a projection.
    method : {"richardson_lucy", "wiener", "tikhonov"}
        "richardson_lucy": positive fields. "wiener", "tikhonov": any sign, weight by generalised cross-validation.
    noise : float, optional
        Standard deviation of the noise in units of the field, at which "richardson_lucy" stops; estimated by default, 0
        for all iterations.
    iterations : int, optional
        Maximum number of iterations of "richardson_lucy", 100 by default.
    damping : float, optional
        Weight of the total variation in "richardson_lucy", 0 by default.
    parameter : float, optional
        Weight of the roughness of "wiener" and "tikhonov".
    order : {1, 2}, optional
        Order of the Sobolev seminorm of "tikhonov", 1 by default.
    dims : sequence of str, optional
        One to three dimensions of a point-spread function in cells, in the order of its axes, such as profiles
        ("lev",) or stacks ("lev", "lat", "lon"); by default the two horizontal ones.
    data_vars : str or list of str, optional
        Variables to restore; by default all numeric fields that have these dimensions.
    device : str, optional
        "auto" (default), "cpu", or the name of an accelerator.
    keep_attrs : bool, optional
        Keep the attributes of variables (default).

    Returns
    -------
    Dataset or DataArray
        Same type as ``obj``, lazy if it is, on the same cells in the same data type. A Dataset also gets the parameters
        chosen for each map: ``NAME_iterations`` and ``NAME_noise``, or ``NAME_parameter``.

    Raises
    ------
    DownscaleError
        A ``ValueError`` with a one-line message, if the request, the point-spread function or the data are not usable.

    Notes
    -----
    Global conservation: the area integral over the valid cells of each map equals that of the data.

    Examples
    --------
    >>> import downscale
    >>> tas = downscale.sample.open("north_america").tas.isel(time=0)
    >>> sharp = downscale.deconvolve(tas, "gaussian:400km", "tikhonov", parameter=1e-3)
    >>> sharp.shape == tas.shape
    True
    """
    restoration = Restoration(method, noise, iterations, damping, parameter, order)
    ds, name = as_dataset(obj)
    course = plan_deconvolution(ds, psf, restoration, dims, data_vars)
    where = option("device") if device is None else device
    pick_device(where)
    made = ds.copy()
    for field in course.names:
        sharp, told = _restored(ds[field], course, where)
        _put(made, ds, ds[field], sharp, keep_attrs)
        if name is None:
            made = made.assign(told)
    words = f"deconvolve psf={course.instrument.psf} {restoration}"
    made = stamped(made, words)
    return made if name is None else as_array(made, name, obj)


def blur(
    obj: XarrayObject, psf: Any, *, dims: Any = None, data_vars: Any = None, device: str | None = None,
    keep_attrs: bool | None = None,
) -> XarrayObject:  # fmt: skip
    """Return fields blurred by a point-spread function; use it to test :func:`downscale.deconvolve`.

    Parameters
    ----------
    obj, psf, dims, data_vars, device, keep_attrs
        As for :func:`deconvolve`.

    Returns
    -------
    Dataset or DataArray
        Same type as ``obj``, lazy if it is, on the same cells in the same data type.

    Raises
    ------
    DownscaleError
        A ``ValueError`` with a one-line message, if the request, the point-spread function or the data are not usable.

    Notes
    -----
    The area integral over the valid cells of each map is conserved. Constants are preserved if the footprint is
    symmetric. Missing cells stay missing and exchange no flux.

    Examples
    --------
    >>> import downscale
    >>> tas = downscale.sample.open("north_america").tas.isel(time=0)
    >>> seen = downscale.blur(tas, "gaussian:400km")
    >>> bool(seen.std() < tas.std())
    True
    """
    ds, name = as_dataset(obj)
    course = plan_deconvolution(ds, psf, None, dims, data_vars)
    where = option("device") if device is None else device
    pick_device(where)
    made = ds.copy()
    for field in course.names:
        _put(made, ds, ds[field], _seen(ds[field], course, where), keep_attrs)
    made = stamped(made, f"blur psf={course.instrument.psf}")
    return made if name is None else as_array(made, name, obj)


def _seen(variable: xr.DataArray, course: Course, device: str) -> xr.DataArray:
    """Return a blurred variable; sums over cells are blurred as densities."""
    array = variable.transpose(..., *course.dims)
    area = course.instrument.area if quantity_of(variable) == "extensive" else None
    data = xr.apply_ufunc(
        finite_or_missing, array, kwargs={"name": variable.name}, dask="parallelized", output_dtypes=[array.dtype]
    ).data
    seen = seen_through(data if area is None else data / area, course.instrument, device)
    seen = (seen if area is None else seen * area).astype(result_type(variable.dtype))
    return array.copy(data=seen).transpose(*variable.dims)


def _put(made: xr.Dataset, ds: xr.Dataset, variable: xr.DataArray, result: xr.DataArray, keep: bool | None) -> None:
    """Replace a variable by its result, with the reported variables."""
    attrs = option("keep_attrs") if keep is None else keep
    made[variable.name] = result if attrs else result.drop_attrs()
    kept = {key: variable.encoding[key] for key in KEPT_ENCODING if key in variable.encoding}
    made[variable.name].encoding = {**kept, SOURCES: sources_of(ds)}


def plan_deconvolution(
    obj: XarrayObject, psf: Any, restoration: Restoration | None = None, dims: Any = None, data_vars: Any = None
) -> Course:
    """Return the plan of :func:`deconvolve` without reading data; refuses invalid requests."""
    ds, shape = as_dataset(obj)[0], pick_psf(psf)
    over: tuple[str, ...]
    if dims is None:
        where = horizontal(ds)
        names = [name for name in pick_variables(ds, where, data_vars) if not is_categorical(ds[name])]
        instrument, over = Instrument(shape, where.grid), where.dims
    else:
        over = (dims,) if isinstance(dims, str) else tuple(map(str, dims))
        names = _named(ds, over, data_vars)
        instrument = Instrument(shape, None, tuple(ds.sizes[dim] for dim in over))
    if not names:
        raise InputError(f"expected a numeric field along {listing(over)}, received none; name it in data_vars")
    # A footprint that does not fit the cells is refused before any data are read.
    instrument.kernel  # noqa: B018
    return Course(instrument, restoration or Restoration(), over, tuple(names))


def _named(ds: xr.Dataset, dims: tuple[str, ...], wanted: Any) -> list[str]:
    """Return the variables along named dimensions."""
    absent = [dim for dim in dims if dim not in ds.dims]
    if absent or not 1 <= len(dims) <= 3 or len(set(dims)) != len(dims):
        raise OptionError(f"expected one to three dims among {listing(ds.dims)}, received {listing(dims)}")
    legal = [str(n) for n, v in ds.data_vars.items() if set(dims) <= set(v.dims) and v.dtype.kind in "fiu"]
    names = legal if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in legal:
            raise InputError(f"expected a variable among {listing(legal)}, received {name!r}")
    return names


def _restored(variable: xr.DataArray, course: Course, device: str) -> tuple[xr.DataArray, dict[str, xr.DataArray]]:
    """Return the restored field and the parameters chosen for each of its maps."""
    dtype = result_type(variable.dtype)
    array = variable.transpose(..., *course.dims)
    area = course.instrument.area if quantity_of(variable) == "extensive" else None
    work = Work(course.instrument, course.restoration, str(variable.name), dtype, device, area)
    data = array.data
    if isinstance(data, da.Array):
        core = ",".join(f"c{axis}" for axis in range(len(course.dims)))
        field, told = da.apply_gufunc(
            work, f"({core})->({core}),(told)", whole_maps(data, len(course.dims)), output_sizes={"told": len(TOLD)},
            meta=(np.empty((0,), dtype), np.empty((0,), np.float64)),
        )  # fmt: skip
    else:
        field, told = work(np.asarray(data))
    sharp = array.copy(data=field).transpose(*variable.dims)
    others = {dim: array.coords[dim] for dim in array.dims[: -len(course.dims)] if dim in array.coords}
    return sharp, _chosen(told, array.dims[: -len(course.dims)], others, variable, course)


def _chosen(told: Any, dims: Any, coords: Any, variable: xr.DataArray, course: Course) -> dict[str, xr.DataArray]:
    """Return the parameters chosen for each map, as variables."""
    units = str(variable.attrs.get("units", "1"))
    lucy = course.restoration.method == "richardson_lucy"
    wanted = {"iterations": "1", "noise": units} if lucy else {"parameter": "1"}
    words = {"iterations": "iterations taken", "noise": "standard deviation of noise", "parameter": "weight chosen"}
    return {
        f"{variable.name}_{name}": xr.DataArray(
            told[..., TOLD.index(name)], coords, dims,
            attrs={"long_name": f"{words[name]} in the deconvolution of {variable.name}", "units": unit},
        )
        for name, unit in wanted.items()
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Work:
    """Restores a block of maps (..., cells)."""

    instrument: Instrument
    restoration: Restoration
    name: str
    dtype: np.dtype[Any]
    device: str
    area: NDArray[np.float64] | None

    def __call__(self, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return the restored maps and the parameters chosen for each."""
        shape = self.instrument.shape
        maps = finite_or_missing(np.asarray(values), self.name).reshape(-1, *shape)
        lane = Lane(pick_device(self.device))
        made, told = np.empty(maps.shape, self.dtype), np.full((len(maps), len(TOLD)), np.nan)
        for index, one in enumerate(maps):
            valid = np.isfinite(one)
            made[index] = np.nan
            if not valid.any():
                continue
            given = np.where(valid, one, 0.0)
            data = lane.send(given if self.area is None else given / self.area)
            found = self.restoration(data, self.instrument.blur(valid, data))
            field = lane.fetch(found.field, np.dtype(np.float64))()
            field = field if self.area is None else field * self.area
            made[index] = np.where(valid, field, np.nan)
            told[index] = [getattr(found, name) for name in TOLD]
        return made.reshape(values.shape), told.reshape(*values.shape[: values.ndim - len(shape)], len(TOLD))


def fluxes(before: xr.Dataset, after: xr.Dataset, course: Course, where: Horizontal | None = None) -> dict[str, Any]:
    """Return, for each restored variable, the area integrals of all its maps before and after, and the parameters.

    Sums are taken over cells that are valid in the data; in units of the field times m2, or times cells.
    """
    area = course.instrument.area
    weights = 1.0 if area is None else xr.DataArray(area, dims=course.dims)
    facts = {}
    for name in course.names:
        weight = 1.0 if quantity_of(before[name]) == "extensive" else weights
        sums = [float((ds[name].astype("f8") * weight).sum()) for ds in (before, after)]
        size = float((np.abs(before[name].astype("f8")) * weight).sum())
        chosen = {key: after[f"{name}_{key}"].values for key in TOLD if f"{name}_{key}" in after}
        facts[name] = {
            "flux_before": sums[0],
            "flux_after": sums[1],
            "relative_change": abs(sums[1] - sums[0]) / size if size else 0.0,
            **{key: [float(np.nanmin(v)), float(np.nanmax(v))] for key, v in chosen.items() if np.isfinite(v).any()},
        }
    return facts
