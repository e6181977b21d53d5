"""Building of the methods of a request on its grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from downscale.cf.horizontal import Horizontal
from downscale.cf.quantities import variable_bounds
from downscale.errors import OptionError, ShapeError
from downscale.fields.aggregate import Aggregation
from downscale.methods.learned import Model, bound_model
from downscale.methods.members import draws_of
from downscale.methods.registry import CASCADE, find_method
from downscale.nn.cascade import cascade
from downscale.nn.separable import operator
from downscale.typing import Capabilities, Upscaler

# Key of the noise shared by all outputs of a model.
MODEL_KEY = "model"


def build_upscalers(
    method: Any, ds: xr.Dataset, names: list[str], where: Horizontal, target: Any, cells: Aggregation, request: Any,
    statics: Mapping[str, Any],
) -> tuple[dict[str, Upscaler], Model | None]:  # fmt: skip
    """Return the upsampler of each variable, with its noise if it generates members, and the model if it is learned.

    ``statics`` are the fine orography and land fraction, for models that use them.
    """
    kind = find_method(method).kind
    model = None
    if kind == "learned":
        model = bound_model(method, ds, where, target, names, statics)
        upscalers = dict(model.upscalers)
    elif kind == "object":
        _require_factor(method, target)
        upscalers = dict.fromkeys(names, method)
    else:
        kernel: Any = "sobolev" if kind == CASCADE else str(method)
        kernel = operator(kernel, where.grid, target.parts, request.taps, request.map_order)
        upscalers = dict.fromkeys(names, kernel)
        if kind == CASCADE:
            # It depends on the bounds of the variable.
            bounds = {name: variable_bounds(ds[name], name, request.bounds) for name in names}
            upscalers = {name: cascade(kernel, cells, bounds[name], request.smoothing) for name in names}
    # The outputs of a model share their noise, whatever their names.
    key = None if model is None else MODEL_KEY
    return {name: _add_noise(one, ds[name], where.dims, request, key) for name, one in upscalers.items()}, model


def _require_factor(method: Any, target: Any) -> None:
    """Refuse an upsampler on cells with another factor."""
    if not target.nests:
        raise ShapeError("expected a nested target grid for this method, received one that cuts cells; use factor=")
    factor = method.factor if isinstance(method.factor, tuple) else (method.factor, method.factor)
    if factor != target.factors:
        raise ShapeError(
            f"expected the factor of the method, {method.factor}, received {target.factors}; leave factor out"
        )


def _add_noise(
    upscaler: Upscaler, variable: xr.DataArray, dims: tuple[str, str], request: Any, key: str | None
) -> Upscaler:
    with_noise = Capabilities.of(upscaler).with_noise
    if with_noise is not None:
        return with_noise(draws_of(variable, dims, request.members, request.seed, key))
    if request.members is not None:
        raise OptionError(
            f"expected a method that generates members, received one that makes a single field with members="
            f"{request.members}; use 'cascade' or an ensemble model"
        )
    return upscaler
