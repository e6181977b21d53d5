"""Learned models as methods of a request: outputs, inputs, units and static fields.

PyTorch is imported only when a model is requested.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

from downscale.cf.horizontal import Horizontal
from downscale.cf.units import convert, same_units
from downscale.errors import GridError, InputError, OptionError, ShapeError, listing, spell
from downscale.methods.registry import SUFFIX, is_learned
from downscale.models import path_of
from downscale.typing import Upscaler

if TYPE_CHECKING:
    from downscale.nn.learned import Learned
    from downscale.nn.spec import ModelSpec, Variable

Scale = tuple[float, float]
SAME: Scale = (1.0, 0.0)
# Attribute of a code: the compressor that encoded it.
ENCODER = "encoder"
# Names of precipitation and of near-surface air temperature.
KINDS = (
    re.compile(r"precip|rain|snowfall|^(pr|tp|rr|prc|prl|ppt)$", re.IGNORECASE),
    re.compile(r"^air_temperature$|^(tas|t2m|2t|t_2m|tg)$", re.IGNORECASE),
)


@dataclass(frozen=True, eq=False)
class Model:
    """A learned model on the grid of a request: one upsampler per variable, its inputs, and its fine static fields."""

    spec: ModelSpec
    upscalers: Mapping[str, Upscaler]
    inputs: Mapping[str, xr.DataArray]
    statics: Mapping[str, np.ndarray] = field(default_factory=dict)
    learned: Any = None


def makes_mask(method: Any) -> bool:
    """Return whether a method is a model of an event mask, which conservation does not apply to."""
    if isinstance(method, (str, Path)) and not str(method).endswith(SUFFIX):
        return False
    return is_learned(method) and getattr(load_method(method).spec, "event", None) is not None


def load_method(method: Any, factor: tuple[int, int] | None = None) -> Any:
    """Return the model of a path or a name; other methods are returned unchanged."""
    if not isinstance(method, (str, Path)) or not is_learned(method):
        return method
    path = path_of(method, factor)
    status = path.stat() if path.is_file() else None
    return _load_cached(path, None if status is None else (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=8)
def _load_cached(path: Path, state: Any) -> Learned:
    """Read a checkpoint once for all requests; read it again if it changes."""
    from downscale.models.checkpoint import load

    return load(path)[0]


def bind_model(
    model: Learned, ds: xr.Dataset, axes: Horizontal, target: Any, names: list[str], statics: Mapping[str, Any]
) -> Model:
    """Bind a model to the grid and the variables of a request; ``statics`` are the fine orography and land fraction."""
    spec = model.spec
    if not target.nests:
        raise ShapeError("expected a nested target grid for a learned model, received one that cuts cells; use factor=")
    if target.factors != spec.factor:
        raise ShapeError(
            f"expected the factor of the model, {spec.factor[0]} x {spec.factor[1]}, received "
            f"{target.factors[0]} x {target.factors[1]}; leave factor out, or use a model of this one"
        )
    matched_names = _match_inputs(spec, ds, names)
    variables = *spec.outputs, *spec.predictors
    inputs = {variable.name: ds[name] for variable, name in zip(variables, matched_names, strict=True)}
    scales = tuple(scale_to(variable, inputs[variable.name]) for variable in variables)
    _require_own_code(model, inputs)
    numbers = {name: i for i, name in enumerate(matched_names[: len(spec.outputs)]) if name in names}
    bound = {name: model.bind(axes.grid, target.parts, i).with_scales(scales) for name, i in numbers.items()}
    return Model(spec, bound, inputs, _static_fields(spec, axes, target, statics), model)


def predictor_names(model: Learned, ds: xr.Dataset) -> frozenset[str]:
    """Return the names of the variables in ``ds`` that a model reads but does not refine."""
    variables = [str(name) for name in ds.data_vars]
    names = [_match(variable, ds, variables, is_only=False) for variable in model.spec.predictors]
    return frozenset(name for name in names if name is not None) - {variable.name for variable in model.spec.outputs}


def select_outputs(spec: ModelSpec, ds: xr.Dataset, among: list[str]) -> list[str]:
    """Return the variables of ``ds`` that match the outputs of the model."""
    is_only = len(spec.outputs) == 1
    matches = [name for name in among if any(_match(output, ds, [name], is_only) for output in spec.outputs)]
    return match_outputs(spec, ds, matches or among)


def match_outputs(spec: ModelSpec, ds: xr.Dataset, names: list[str]) -> list[str]:
    """Return the variables of ``ds`` that match the outputs of the model; all ``names`` must be among them."""
    variables = [str(name) for name in ds.data_vars]
    # An output that is not requested is still an input.
    matched_names = [
        _match(output, ds, names, is_only=len(spec.outputs) == 1) or _match(output, ds, variables, is_only=False)
        for output in spec.outputs
    ]
    matches = [name for name in matched_names if name is not None]
    unmatched = [name for name in names if name not in matches]
    missing = [output.name for output, name in zip(spec.outputs, matched_names, strict=True) if name is None]
    output_names = [output.name for output in spec.outputs]
    if unmatched and any(name in names for name in matches):
        raise InputError(
            f"expected variables that this model makes ({listing(output_names)}), received {listing(unmatched)} too; "
            f"name the others in data_vars, as data_vars={matches!r}"
        )
    if missing or unmatched:
        raise InputError(
            f"expected the variable {(missing or output_names)[0]!r}, which this model refines, received "
            f"{listing(names)}; rename a variable, or give it the standard_name of that one"
        )
    return matches


def _match_inputs(spec: ModelSpec, ds: xr.Dataset, names: list[str]) -> list[str]:
    """Return the variables of ``ds`` that match the inputs of the model, outputs first; raise if one is missing."""
    matches, variables = match_outputs(spec, ds, names), [str(name) for name in ds.data_vars]
    for predictor in spec.predictors:
        name = _match(predictor, ds, variables, is_only=False)
        if name is None:
            raise InputError(
                f"expected the predictor {predictor.name!r} that this model uses, received {listing(ds.data_vars)}; "
                "add it to the dataset"
            )
        matches.append(name)
    return matches


def _match(variable: Variable, ds: xr.Dataset, among: list[str], is_only: bool) -> str | None:
    """Return the matching variable: by name, by standard name, or as the only one of its kind."""
    if variable.name in among:
        return variable.name
    standard_name = variable.standard_name
    matches = [name for name in among if standard_name and ds[name].attrs.get("standard_name") == standard_name]
    kind = next((kind for kind in KINDS if kind.search(variable.name)), None)
    if not matches and is_only and kind is not None:
        matches = [name for name in among if any(kind.search(word) for word in _words(ds[name]))]
    return matches[0] if len(matches) == 1 else None


def _words(variable: xr.DataArray) -> tuple[str, ...]:
    """Return the names of a variable."""
    return str(variable.name), *(str(variable.attrs.get(key, "")) for key in ("standard_name", "long_name"))


def scale_to(model_variable: Variable, variable: xr.DataArray) -> Scale:
    """Return the factor and the offset from the units of a variable to the units of training.

    Examples
    --------
    >>> from downscale.nn.spec import Variable
    >>> scale_to(Variable("tas", "K"), xr.DataArray(20.0, attrs={"units": "degC"}))
    (1.0, 273.15)
    """
    units = str(variable.attrs.get("units", "")).strip()
    # The model uses ratios of "local" values, which do not depend on units with an absolute zero.
    if model_variable.transform == "local" or same_units(units, model_variable.units):
        return SAME
    zero, one = convert(0.0, units, model_variable.units), convert(1.0, units, model_variable.units)
    if not units or zero is None or one is None:
        remedy = "use a model of this quantity" if units else "set the attribute units"
        raise InputError(
            f"{variable.name}: expected units of {model_variable.units!r} as in training, received "
            f"{units or 'none'!r}; {remedy}"
        )
    return one - zero, zero


def _require_own_code(model: Learned, inputs: Mapping[str, xr.DataArray]) -> None:
    """Refuse codes of another compressor, which would be misinterpreted."""
    for name in model.spec.code_names:
        expected, encoder = fingerprint(model), inputs[name].attrs.get(ENCODER)
        if encoder != expected:
            raise InputError(
                f"{name}: expected a code made by this compressor ({expected}), received {encoder or 'none'}; decode "
                "it with the model that encoded it"
            )


def fingerprint(model: Learned) -> str:
    """Return sixteen hexadecimal digits that identify the weights of a model."""
    digest = sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _static_fields(
    spec: ModelSpec, axes: Horizontal, target: Any, statics: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    from downscale.models.static_features import static_features

    fields = {name: np.asarray(statics[name]) for name in ("orog", "sftlf", "climatology") if name in statics}
    if fields.get("sftlf", np.zeros(1)).max(initial=0) > 1.5:
        fields["sftlf"] = fields["sftlf"] / 100
    cells = target.aggregation(axes.grid)
    return static_features(spec.statics, target.fine, cells, fields, axes.locator, spec.in_proportion)


def climatology_of(spec: ModelSpec, fine: Any, axes: Horizontal, climatology: Any) -> np.ndarray:
    """Return the climatology of the first output on the fine cells, in the units of training.

    Raises
    ------
    OptionError
        If the model has not learned from a climatology.
    """
    from downscale.io.statics import pick_climatology, regrid_climatology

    output = spec.outputs[0]
    if "climatology" not in spec.statics:
        raise OptionError(
            f"expected a method without training, or a model with the static 'climatology', with "
            f"{spell('climatology')}, received a model of {output.name!r} without; drop one"
        )
    ds = pick_climatology(climatology, output.name)
    factor, offset = scale_to(output, next(iter(ds.data_vars.values())))
    return regrid_climatology(ds, fine, axes) * factor + offset


def inputs_of(array: xr.DataArray, data: Any, model: Model | None, numbers: xr.DataArray | None = None) -> Any:
    """Return the field, the other inputs of a model and the number of each map, stacked to (..., C, n_y, n_x)."""
    fields = [data] if model is None else [_align_dims(source, array, data) for source in model.inputs.values()]
    features = [] if model is None else _time_features(model.spec, array)
    fields += [_align_dims(feature, array, data) for feature in features]
    fields += [] if numbers is None else [_align_dims(numbers, array, data)]
    if not isinstance(data, da.Array):
        return np.stack([np.broadcast_to(values, data.shape) for values in fields], axis=-3)
    arrays = [da.broadcast_to(values, data.shape).rechunk(data.chunks) for values in fields]
    return da.stack(arrays, axis=-3).rechunk({data.ndim - 2: -1})


def _align_dims(other: xr.DataArray, array: xr.DataArray, data: Any) -> Any:
    """Return a field with the dimensions of ``array``; those it lacks have size one."""
    extra_dims = [str(dim) for dim in other.dims if dim not in array.dims]
    if extra_dims or any(other.sizes[dim] != array.sizes[dim] for dim in other.dims):
        raise GridError(
            f"{other.name}: expected the dimensions of {array.name!r} {dict(array.sizes)}, received "
            f"{dict(other.sizes)}; select the same times and layers"
        )
    view = other.transpose(*[dim for dim in array.dims if dim in other.dims])
    values = view.data if isinstance(data, da.Array) or not isinstance(view.data, da.Array) else view.data.compute()
    return values.reshape([other.sizes.get(dim, 1) for dim in array.dims])


def _time_features(spec: ModelSpec, array: xr.DataArray) -> list[xr.DataArray]:
    """Return the time features of the model, one per channel."""
    if not spec.encodings:
        return []
    from downscale.models.time_features import time_features

    time = next((array[dim] for dim in array.dims if dim in array.coords and _is_time(array[dim])), None)
    if time is None:
        raise InputError(
            f"{array.name}: expected a time axis, since this model uses {listing(spec.encodings)}, received the "
            f"dimensions {listing(map(str, array.dims))}; add one"
        )
    values = time_features(spec.encodings, time.values, time.size)
    return [xr.DataArray(values[:, i], dims=time.dims, name=name) for i, name in enumerate(spec.time_channels)]


def _is_time(coordinate: xr.DataArray) -> bool:
    return np.issubdtype(coordinate.dtype, np.datetime64) or (
        coordinate.dtype.kind == "O" and coordinate.size > 0 and hasattr(coordinate.values.flat[0], "timetuple")
    )
