"""Recipes in YAML: input, downscaling and output, validated with pydantic.

YAML is safe-loaded; an unknown key raises an error with its path and the legal keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, create_model, model_validator

from downscale.errors import listing
from downscale.io.config import Block, read_recipe, validate_block
from downscale.request import ARGUMENTS

# The arguments of the section ``terrain``.
TERRAIN = ("lapse_rate", "relief_smoothing")


class Input(Block):
    """The input.

    ``path`` is a file, a pattern, ``sample:NAME`` for an embedded sample, or a list of these, which are joined as in
    :func:`downscale.open_dataset`.
    """

    path: str | list[str]
    variables: list[str] | None = None
    chunks: dict[str, int] | int | str | None = "auto"


class Statics(Block):
    """Fine static fields: a file (or ``sample:NAME``) with the orography in metres and optionally the land fraction."""

    orog: str
    variable: str | None = None


def _validator(expects: Callable[[Any], str | None]) -> AfterValidator:
    def check(value: Any) -> Any:
        expected = expects(value)
        if expected is not None:
            raise ValueError(expected)
        return value

    return AfterValidator(check)


def _field(name: str) -> Any:
    """Return the type and the field of an argument, with its check."""
    entry = ARGUMENTS[name]
    return Annotated[entry.plain, _validator(entry.expects)], Field(entry.default, description=entry.help)


_FIELDS: dict[str, Any] = {name: _field(name) for name, entry in ARGUMENTS.items() if entry.in_recipe}


class Downscale(create_model("_Arguments", __base__=Block, **_FIELDS)):  # type: ignore[misc]
    """The arguments of :func:`downscale.downscale` that are plain values, without those of other sections.

    ``target_grid`` is a file, a resolution such as "0.25x0.25", or a frequency by dimension (``{time: D}``);
    ``mask`` and ``sftlf`` are files; ``method`` is a name or the path of a checkpoint.
    """


class Penalty(Block):
    """Settings of the terrain-gradient penalty; see :class:`downscale.TerrainPenalty`."""

    base_gradient: float = Field(ge=0)
    ratio: float = Field(default=0.0, ge=0)
    weight: float = Field(default=1.0, ge=0)
    iterations: int = Field(default=10, ge=0)


class Terrain(create_model("_Terrain", __base__=Block, **{n: _field(n) for n in TERRAIN})):  # type: ignore[misc]
    """The lapse-rate term and the terrain-gradient penalty.

    ``lapse_rate`` is a number in units per metre, "auto", or a mapping of variables to these; ``relief_smoothing`` is
    in fine cells, by default chosen by self-validation.
    """

    penalty: Penalty | None = None


class Validation(Block):
    """The conservation check of the written file."""

    law: Literal["cell", "total"] = "cell"
    tolerance: PositiveFloat | None = None


class Output(Block):
    """The output: the NetCDF file (or Zarr store, ``.zarr``), and optionally a map and a report.

    ``packing``, ``profile``, ``attrs`` and ``encoding`` are as in :func:`downscale.to_netcdf`. ``blocks`` splits the
    run along time, by number of steps or by periods such as "5 years". ``merge`` joins the blocks into one file at the
    end; otherwise each block is a file named by its dates. ``append`` adds the result to a Zarr store of an earlier
    period, if it exists; ``zarr_format`` is the format of a new store.
    """

    path: str
    map: str | None = None
    report: str | None = None
    complevel: int = Field(default=1, ge=0, le=9)
    packing: str | int | dict[str, str | int] | None = None
    profile: str | dict[str, Any] | None = None
    attrs: dict[str, Any] | None = None
    encoding: dict[str, dict[str, Any]] | None = None
    overwrite: bool = False
    blocks: int | str | None = None
    merge: bool = True
    append: bool = False
    zarr_format: Literal[2, 3] = 2


class Profile(Block):
    """A cluster to start, or the address of a running scheduler, as in ESMValCore's configuration."""

    cluster: dict[str, Any] | None = None
    scheduler_address: str | None = None

    @model_validator(mode="after")
    def _require_one(self) -> Profile:
        if (self.cluster is None) == (self.scheduler_address is None):
            raise ValueError("either cluster or scheduler_address")
        return self


class Dask(Block):
    """Clusters by name, and the one to use."""

    use: str | None = None
    profiles: dict[str, Profile] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _require_profile(self) -> Dask:
        if self.use is not None and self.use not in self.profiles:
            raise ValueError(f"use to be the name of a profile ({listing(self.profiles) or 'there is none'})")
        return self


class Recipe(Block):
    """One run: read, statics, downscale, terrain, validate, write."""

    title: str = "downscaling"
    description: str = ""
    input: Input
    statics: Statics | None = None
    downscale: Downscale
    terrain: Terrain = Terrain()
    validation: Validation = Field(default=Validation(), alias="validate")
    output: Output
    dask: Dask = Dask()


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file; raises an InputError or an OptionError that names the path of a key."""
    return read_recipe(Recipe, path)


def parse_recipe(content: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Return the recipe with this content, validated; raises an OptionError with one line about the first fault.

    Examples
    --------
    >>> content = {"input": {"path": "a.nc"}, "downscale": {"factor": 2}, "output": {"path": "b.nc"}}
    >>> parse_recipe(content).downscale.factor
    2
    """
    return validate_block(Recipe, content, origin)


def recipe_of(arguments: Mapping[str, Any], *, title: str, path: str, chunks: Any, output: dict[str, Any]) -> Recipe:
    """Return the recipe that applies the arguments of a request, as plain values, to a file."""
    orog = arguments["orog"]
    content = {
        "title": title,
        "input": {"path": path, "variables": arguments["data_vars"], "chunks": chunks},
        "downscale": {name: value for name, value in arguments.items() if ARGUMENTS[name].in_recipe},
        "statics": None if orog is None else {"orog": orog},
        "terrain": {name: arguments[name] for name in TERRAIN},
        "validate": {"tolerance": arguments["tolerance"]},
        "output": output,
    }
    return parse_recipe(content, "apply")
