"""Deconvolution of xarray objects by the point-spread function of an instrument, map by map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from downscale.cf.horizontal import XarrayObject, as_array, as_dataset, horizontal
from downscale.cf.kinds import is_categorical
from downscale.cf.quantities import quantity_of
from downscale.deconvolution.psf import pick_psf
from downscale.deconvolution.weights import Instrument
from downscale.engine.checks import replace_infinite
from downscale.engine.device import DeviceTransfer, pick_device
from downscale.errors import InputError, OptionError, listing
from downscale.methods.footprint import blur_maps, whole_maps
from downscale.options import option
from downscale.request import ARGUMENTS, DECONVOLUTION, takes
from downscale.steps.history import add_history, result_encoding
from downscale.steps.jobs import result_type
from downscale.steps.prepare import pick_variables

if TYPE_CHECKING:
    from torch import Tensor

    from downscale.deconvolution.blur import Blur
    from downscale.deconvolution.richardson_lucy import Solution

# Arguments of all functions of this module.
COMMON = ("dims", "data_vars", "device", "keep_attrs")
# Variables reported for each map.
MAP_PARAMETERS = ("iterations", "parameter", "noise", "misfit")
# Options of each method.
OPTIONS: dict[str, tuple[str, ...]] = {
    "richardson_lucy": ("noise", "iterations", "damping"),
    "wiener": ("parameter",),
    "tikhonov": ("parameter", "order"),
}


class DeconvolutionMethod:
    """A method with checked options; None selects the method's default.

    Examples
    --------
    >>> DeconvolutionMethod("tikhonov", order=2).options
    {'order': 2}
    """

    def __init__(self, method: str = "richardson_lucy", **options: Any) -> None:
        if method not in OPTIONS:
            raise OptionError(f"expected a method among {listing(OPTIONS)}, received {method!r}")
        option_names = sum(OPTIONS.values(), ())
        self.method = method
        self.options = {name: v for name, v in options.items() if v is not None or name not in option_names}
        for name in self.options:
            if name not in OPTIONS[method]:
                raise OptionError(
                    f"expected options among {listing(OPTIONS[method])} with {method!r}, received {name!r}; "
                    "drop it or choose another method"
                )

    def __call__(self, data: Tensor, blur: Blur) -> Solution:
        """Return one deconvolved field, zero at invalid cells."""
        # Deferred: they import torch.
        from downscale.deconvolution.richardson_lucy import richardson_lucy
        from downscale.deconvolution.tikhonov import tikhonov, wiener

        solvers: dict[str, Any] = {"richardson_lucy": richardson_lucy, "wiener": wiener, "tikhonov": tikhonov}
        return solvers[self.method](data, blur, **self.options)

    def __str__(self) -> str:
        return " ".join([f"method={self.method}", *(f"{key}={value:g}" for key, value in self.options.items())])


@dataclass(frozen=True, eq=False)
class DeconvolutionPlan:
    """Instrument, method, dimensions and variables of a deconvolution, known before any data are read.

    ``dims`` are deconvolved together; chunks may split all others.
    """

    instrument: Instrument
    method: DeconvolutionMethod
    dims: tuple[str, ...]
    names: tuple[str, ...]

    def __str__(self) -> str:
        cells = " x ".join(map(str, self.instrument.shape))
        return (
            f"deconvolve {', '.join(self.names)}: psf={self.instrument.psf} {self.method}; fields of {cells} "
            f"cells along {', '.join(self.dims)} are not split, since each step needs all of them; chunks split others"
        )


@takes({**DECONVOLUTION, **{name: ARGUMENTS[name] for name in COMMON[1:]}})
def deconvolve(obj: XarrayObject, psf: Any, method: str = "richardson_lucy", **options: Any) -> XarrayObject:
    """Undo the blur of an instrument and conserve the flux of every map.

    Parameters
    ----------
    obj : Dataset or DataArray
        Blurred fields. Never modified. Missing cells stay missing and exchange no flux.
    {arguments}

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
    ds, name = as_dataset(obj)
    dims, data_vars, device, keep_attrs = (options.pop(key, None) for key in COMMON)
    plan = plan_deconvolution(ds, psf, DeconvolutionMethod(method, **options), dims, data_vars)
    fine = deconvolve_dataset(ds, plan, device, keep_attrs)
    return fine if name is None else as_array(fine, name, obj)


def deconvolve_dataset(
    ds: xr.Dataset, plan: DeconvolutionPlan, device: str | None = None, keep_attrs: bool | None = None
) -> xr.Dataset:
    """Return a Dataset with the variables of a plan deconvolved, and the parameters chosen for each map."""
    fine = _replace_variables(ds, plan, _deconvolve_variable, device, keep_attrs)
    return add_history(fine, f"deconvolve psf={plan.instrument.psf} {plan.method}")


def _replace_variables(
    ds: xr.Dataset, plan: DeconvolutionPlan, compute: Callable[..., dict[str, xr.DataArray]], device: str | None,
    keep_attrs: bool | None,
) -> xr.Dataset:  # fmt: skip
    """Return a Dataset with each variable of a plan replaced by those that ``compute`` returns by name."""
    device = option("device") if device is None else device
    keep_attrs = option("keep_attrs") if keep_attrs is None else keep_attrs
    pick_device(device)
    fine = ds.copy()
    for name in plan.names:
        variables = compute(ds[name], plan, device)
        fine = fine.assign(variables if keep_attrs else {**variables, name: variables[name].drop_attrs()})
        fine[name].encoding = result_encoding(ds[name], ds)
    return fine


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
    >>> blurred = downscale.blur(tas, "gaussian:400km")
    >>> bool(blurred.std() < tas.std())
    True
    """
    ds, name = as_dataset(obj)
    plan = plan_deconvolution(ds, psf, None, dims, data_vars)
    coarse = _replace_variables(ds, plan, _blur_variable, device, keep_attrs)
    coarse = add_history(coarse, f"blur psf={plan.instrument.psf}")
    return coarse if name is None else as_array(coarse, name, obj)


def _blur_variable(variable: xr.DataArray, plan: DeconvolutionPlan, device: str) -> dict[str, xr.DataArray]:
    """Return a blurred variable; sums over cells are blurred as densities."""
    array = variable.transpose(..., *plan.dims)
    area = plan.instrument.area if quantity_of(variable) == "extensive" else None
    data = xr.apply_ufunc(
        replace_infinite, array, kwargs={"name": variable.name}, dask="parallelized", output_dtypes=[array.dtype]
    ).data
    blurred = blur_maps(data if area is None else data / area, plan.instrument, device)
    blurred = (blurred if area is None else blurred * area).astype(result_type(variable.dtype))
    return {str(variable.name): array.copy(data=blurred).transpose(*variable.dims)}


def plan_deconvolution(
    obj: XarrayObject, psf: Any, method: DeconvolutionMethod | None = None, dims: Any = None, data_vars: Any = None
) -> DeconvolutionPlan:
    """Return the plan of :func:`deconvolve` without reading data; refuses invalid requests."""
    ds, shape = as_dataset(obj)[0], pick_psf(psf)
    core_dims: tuple[str, ...]
    if dims is None:
        axes = horizontal(ds)
        names = [name for name in pick_variables(ds, axes, data_vars) if not is_categorical(ds[name])]
        instrument, core_dims = Instrument(shape, axes.grid), axes.dims
    else:
        core_dims = (dims,) if isinstance(dims, str) else tuple(map(str, dims))
        names = _variables_along(ds, core_dims, data_vars)
        instrument = Instrument(shape, None, tuple(ds.sizes[dim] for dim in core_dims))
    if not names:
        raise InputError(f"expected a numeric field along {listing(core_dims)}, received none; name it in data_vars")
    # A footprint that does not fit the cells is refused before any data are read.
    _ = instrument.kernel
    return DeconvolutionPlan(instrument, method or DeconvolutionMethod(), core_dims, tuple(names))


def _variables_along(ds: xr.Dataset, dims: tuple[str, ...], data_vars: Any) -> list[str]:
    """Return the variables along named dimensions."""
    missing_dims = [dim for dim in dims if dim not in ds.dims]
    if missing_dims or not 1 <= len(dims) <= 3 or len(set(dims)) != len(dims):
        raise OptionError(f"expected one to three dims among {listing(ds.dims)}, received {listing(dims)}")
    legal = [str(n) for n, v in ds.data_vars.items() if set(dims) <= set(v.dims) and v.dtype.kind in "fiu"]
    names = legal if data_vars is None else [data_vars] if isinstance(data_vars, str) else list(data_vars)
    for name in names:
        if name not in legal:
            raise InputError(f"expected a variable among {listing(legal)}, received {name!r}")
    return names


def _deconvolve_variable(variable: xr.DataArray, plan: DeconvolutionPlan, device: str) -> dict[str, xr.DataArray]:
    """Return the deconvolved field, and the parameters chosen for each of its maps, by name."""
    name, array, axes = str(variable.name), variable.transpose(..., *plan.dims), len(plan.dims)
    maps, dtype = array.dims[:-axes], result_type(variable.dtype)
    area = plan.instrument.area if quantity_of(variable) == "extensive" else None
    block = partial(_deconvolve_maps, plan=plan, name=name, dtype=dtype, device=device, area=area)
    if isinstance(array.data, da.Array):
        core = ",".join(f"c{axis}" for axis in range(axes))
        field, choices = da.apply_gufunc(
            block, f"({core})->({core}),(choice)", whole_maps(array.data, axes),
            output_sizes={"choice": len(MAP_PARAMETERS)}, meta=(np.empty((0,), dtype), np.empty((0,), np.float64)),
        )  # fmt: skip
    else:
        field, choices = block(np.asarray(array.data))
    units = str(variable.attrs.get("units", "1"))
    descriptions = {"parameter": ("weight chosen", "1")}
    if plan.method.method == "richardson_lucy":
        descriptions = {"iterations": ("iterations taken", "1"), "noise": ("standard deviation of noise", units)}
    coords = {dim: array.coords[dim] for dim in maps if dim in array.coords}
    return {
        name: array.copy(data=field).transpose(*variable.dims),
        **{
            f"{name}_{key}": xr.DataArray(
                choices[..., MAP_PARAMETERS.index(key)], coords, maps,
                attrs={"long_name": f"{words} in the deconvolution of {name}", "units": unit},
            )
            for key, (words, unit) in descriptions.items()
        },
    }  # fmt: skip


def _deconvolve_maps(
    values: NDArray[Any], *, plan: DeconvolutionPlan, name: str, dtype: np.dtype[Any], device: str,
    area: NDArray[np.float64] | None,
) -> tuple[NDArray[Any], NDArray[np.float64]]:  # fmt: skip
    """Return a block of maps (..., cells) deconvolved, and the parameters chosen for each."""
    # Deferred: it imports torch.
    from downscale.deconvolution.blur import find_blur

    shape, cell = plan.instrument.shape, 1.0 if area is None else area
    maps = replace_infinite(np.asarray(values), name).reshape(-1, *shape)
    transfer = DeviceTransfer(pick_device(device))
    fine, choices = np.full(maps.shape, np.nan, dtype), np.full((len(maps), len(MAP_PARAMETERS)), np.nan)
    for index, map_values in enumerate(maps):
        valid = np.isfinite(map_values)
        if valid.any():
            data = transfer.send(np.where(valid, map_values, 0.0) / cell)
            solution = plan.method(data, find_blur(plan.instrument, valid, data))
            field = transfer.fetch(solution.field, np.dtype(np.float64))() * cell
            fine[index] = np.where(valid, field, np.nan)
            choices[index] = [getattr(solution, key) for key in MAP_PARAMETERS]
    return fine.reshape(values.shape), choices.reshape(*values.shape[: values.ndim - len(shape)], len(MAP_PARAMETERS))


def fluxes(before: xr.Dataset, after: xr.Dataset, plan: DeconvolutionPlan) -> dict[str, Any]:
    """Return, for each deconvolved variable, the area integrals of all its maps before and after, and the parameters.

    Sums are taken over cells that are valid in the data; in units of the field times m2, or times cells.
    """
    area = plan.instrument.area
    weights = 1.0 if area is None else xr.DataArray(area, dims=plan.dims)
    facts = {}
    for name in plan.names:
        weight = 1.0 if quantity_of(before[name]) == "extensive" else weights
        sums = [float((ds[name].astype("f8") * weight).sum()) for ds in (before, after)]
        size = float((np.abs(before[name].astype("f8")) * weight).sum())
        choices = {key: after[f"{name}_{key}"].values for key in MAP_PARAMETERS if f"{name}_{key}" in after}
        facts[name] = {
            "flux_before": sums[0],
            "flux_after": sums[1],
            "relative_change": abs(sums[1] - sums[0]) / size if size else 0.0,
            **{key: [float(np.nanmin(v)), float(np.nanmax(v))] for key, v in choices.items() if np.isfinite(v).any()},
        }
    return facts
