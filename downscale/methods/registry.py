"""The methods of downscaling in one table: what each can do, and how it is built on the grid of a request.

A new method with a name is one entry of ``METHODS``; one with weights per axis is one entry of
``downscale.nn.separable.METHODS``. Learned models and any object with the protocol :class:`downscale.typing.Upscaler`
need none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from downscale.cf.horizontal import Horizontal
from downscale.cf.quantities import variable_bounds
from downscale.errors import OptionError, listing
from downscale.fields.aggregate import Aggregation
from downscale.io.target import Target, require_factor
from downscale.methods.learned import CASCADE, SUFFIX, Model, bound_model, is_learned
from downscale.methods.members import draws_of
from downscale.models import NAMES
from downscale.nn.cascade import cascade
from downscale.nn.separable import METHODS as KERNELS
from downscale.nn.separable import operator
from downscale.typing import Capabilities, Upscaler

# Key of the noise shared by all outputs of a model.
MODEL_KEY = "model"


@dataclass(frozen=True)
class Setting:
    """What a method is built from: the variables of a request with its options, axes, fine cells and averages."""

    ds: xr.Dataset
    names: list[str]
    where: Horizontal
    target: Target
    cells: Aggregation
    request: Any


Upscalers = dict[str, Upscaler]


@dataclass(frozen=True)
class Method:
    """A kind of method: ``build`` returns the upsampler of each variable and the bound model, if it is learned.

    ``separable`` methods are one linear operator per axis, and also refine along time and layers. ``members`` states
    whether the method generates an ensemble; None if only the object shows it.
    """

    build: Callable[[Any, Setting], tuple[Upscalers, Model | None]]
    separable: bool = False
    members: bool | None = False
    smoothing: bool = False
    footprint: bool = False


def _build_kernel(method: Any, setting: Setting) -> tuple[Upscalers, None]:
    request = setting.request
    kernel = operator(str(method), setting.where.grid, setting.target.parts, request.taps, request.map_order)
    return dict.fromkeys(setting.names, kernel), None


def _build_cascade(method: Any, setting: Setting) -> tuple[Upscalers, None]:
    """Build one cascade per variable, since it depends on bounds."""
    ds, request = setting.ds, setting.request
    kernel = operator("sobolev", setting.where.grid, setting.target.parts, request.taps, request.map_order)
    bounds = {name: variable_bounds(ds[name], name, request.bounds) for name in setting.names}
    return {name: cascade(kernel, setting.cells, bounds[name], request.smoothing) for name in setting.names}, None


def _build_learned(method: Any, setting: Setting) -> tuple[Upscalers, Model]:
    request = setting.request
    names = setting.names
    model = bound_model(method, setting.ds, setting.where, setting.target, names, request.orog, request.sftlf)
    return dict(model.upscalers), model


def _build_object(method: Any, setting: Setting) -> tuple[Upscalers, None]:
    require_factor(method, setting.target)
    return dict.fromkeys(setting.names, method), None


METHODS: dict[str, Method] = {
    **{name: Method(_build_kernel, separable=True, footprint=name == "sobolev") for name in KERNELS},
    CASCADE: Method(_build_cascade, members=True, smoothing=True),
}
LEARNED = Method(_build_learned, members=None)
OBJECT = Method(_build_object, members=None)


def find_method(method: Any) -> Method:
    """Return the entry of a name, a path, a model in memory or an object with the protocol of methods.

    Examples
    --------
    >>> find_method("cascade").members
    True
    """
    if is_learned(method):
        return LEARNED
    names = listing((*METHODS, *NAMES))
    if isinstance(method, (str, Path)):
        if str(method) in METHODS:
            return METHODS[str(method)]
        raise OptionError(
            f"expected method to be one of {names} or the path of a checkpoint ({SUFFIX}), received {str(method)!r}"
        )
    if isinstance(method, Upscaler):
        return OBJECT
    raise OptionError(
        f"expected method to be one of {names}, a checkpoint, or an object with the protocol of a method, received "
        f"{type(method).__name__}"
    )


def build_upscalers(method: Any, setting: Setting) -> tuple[Upscalers, Model | None]:
    """Return the upsampler of each variable, with its noise if it generates members, and the model if it is learned."""
    upscalers, model = find_method(method).build(method, setting)
    # The outputs of a model share their noise, whatever their names.
    key = None if model is None else MODEL_KEY
    return {name: _add_noise(upscaler, name, setting, key) for name, upscaler in upscalers.items()}, model


def _add_noise(upscaler: Upscaler, name: str, setting: Setting, key: str | None) -> Upscaler:
    request, with_noise = setting.request, Capabilities.of(upscaler).with_noise
    if with_noise is not None:
        draws = draws_of(setting.ds[name], setting.where.dims, request.members, request.seed, key)
        return with_noise(draws)
    if request.members is not None:
        raise OptionError(
            f"expected a method that generates members, received one that makes a single field with members="
            f"{request.members}; use 'cascade' or an ensemble model"
        )
    return upscaler
